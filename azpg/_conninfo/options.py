"""azpg's own options: their types, and how a text among them that may hold a secret is masked."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from functools import cache
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, Self

from azpg._clouds import Cloud
from azpg._libpq import libpq_info
from azpg._redact import Secret

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


@dataclass(frozen=True)
class ConnectOptions:
    """What one connect was asked for: the conninfo, azpg's own options, libpq's keywords.

    Only the values are kept here; `_connect` checks the objects among them.
    """

    conninfo: str = field(default="", repr=False)
    keywords: Mapping[str, object] = field(default_factory=dict, repr=False)
    server: str | None = None
    credential: object = None
    client_id: str | None = None
    password: object = field(default=None, repr=False)
    pgbouncer: bool | None = None
    cloud: Cloud | str | None = None
    retry_timeout: float | None = None

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> Self:
        """Return the options of a mapping; what azpg has no option for is a keyword of libpq."""
        own = {name: options[name] for name in ("conninfo", *OPTION_NAMES) if name in options}
        keywords = {name: value for name, value in options.items() if name not in own}
        return cls(keywords=keywords, **own)


OPTION_NAMES = tuple(
    each.name for each in fields(ConnectOptions) if each.name not in {"conninfo", "keywords"}
)
"""azpg's own options"""

PSYCOPG_OPTIONS = frozenset(
    {"autocommit", "context", "cursor_factory", "prepare_threshold", "row_factory"}
)
"""the arguments of psycopg's `connect` that libpq does not receive"""

# option -> how to describe what it must be, and its types
_TYPES: dict[str, tuple[str, tuple[type, ...]]] = {
    "conninfo": ("text", (str,)),
    "server": ("text", (str, NoneType)),
    "client_id": ("text", (str, NoneType)),
    "pgbouncer": ("True or False", (bool, NoneType)),
    "cloud": ("an azpg.Cloud or its name", (str, Cloud, NoneType)),
    "retry_timeout": ("a number of seconds", (int, float, NoneType)),
}


def type_errors(options: ConnectOptions) -> list[str]:
    """Return the problems with options whose type is wrong."""
    return [
        f"⟦{name}⟧ is {type(getattr(options, name)).__name__}: pass {expected}"
        for name, (expected, types) in _TYPES.items()
        if not issubclass(type(getattr(options, name)), types)
    ]


def password_kind(password: object) -> Literal["text", "empty", "callback"] | None:
    """Return what kind of password was passed: all that the rules need to know of it."""
    if password is None:
        return None
    if callable(password):
        return "callback"
    return "text" if password else "empty"


# Options on their way through other libraries' frames, whose variables error reports show


def hide_secrets(options: Mapping[str, Any], known: Collection[str] = ()) -> dict[str, Any]:
    """Return a copy of the options, with each text that may hold a secret as a `Secret`.

    Args:
        options: options of connect() or of something that calls it. Dicts, lists and tuples among
            the values are copied in the same way.
        known: further names of options that hold no secret. A text with any other name may hold
            one, since a misspelled `password` holds a password too; a text with a known name is
            hidden only if it looks like a connection string or a token.
    """
    return {name: hide_secret(name, value, known) for name, value in options.items()}


def hide_secret(name: str, value: Any, known: Collection[str] = ()) -> Any:
    """Return the value of one option, as `hide_secrets` does."""
    # By the class alone: isinstance() would call the function behind a proxy, which may raise
    if issubclass(type(value), dict):
        return hide_secrets(value, known)
    if type(value) in {list, tuple}:
        return type(value)(hide_secret(name, each, known) for each in value)
    if not issubclass(type(value), str):
        return value
    has_known_name = name in _options_without_secrets() or name in known
    return value if has_known_name and not _MAY_HOLD_SECRET.search(value) else Secret(value)


# A key/value string, a URI, the user and password of one, a line of a password file, a token
_MAY_HOLD_SECRET = re.compile(r"[=;]|:.*[:@]|eyJ", re.DOTALL)


@cache
def _options_without_secrets() -> frozenset[str]:
    names = {*libpq_info().variables, "ssl", *OPTION_NAMES, *PSYCOPG_OPTIONS}
    return frozenset(names - libpq_info().secrets)
