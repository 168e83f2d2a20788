"""Write the options in messages as the caller's entry point spells them.

A message marks an option as a caller of `azpg.connect` would write it: ⟦server="myserver"⟧, or
⟦user=⟧ if it only names it. `spelled` writes it as a keyword argument, an option of the command, a
URL parameter or a Django setting. azpg's errors do that when they are created, so that
messages which are cached or shared keep their marks until then.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias
from urllib.parse import quote

Option: TypeAlias = tuple[str, str | None]
"""the name, and the value as Python source; None if the message only names the option"""
Spelling: TypeAlias = Callable[[Sequence[Option]], str]


def spelled(message: str) -> str:
    """Return a message with its marked options as the entry point in use spells them."""
    if "⟦" not in message:
        return message
    return re.sub("⟦([^⟦⟧]*)⟧", lambda found: _spell(found[1]), message)


def use(spelling: Spelling | None) -> Spelling:
    """Have options spelled in this way in this thread or task, and return the previous way.

    Args:
        spelling: One of this module's functions; None changes nothing.
    """
    previous = CURRENT.get()
    if spelling is not None:
        CURRENT.set(spelling)
    return previous


@contextmanager
def used(spelling: Spelling) -> Iterator[None]:
    """Have options spelled in this way inside of the `with` block."""
    previous = use(spelling)
    try:
        yield
    finally:
        use(previous)


_OPTION = re.compile(
    r"""(\w+)(?:=("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|lambda:.*|[\w.]+\(.*\)|[^,]*))?(?:,\ |$)"""
)


def _spell(marked: str) -> str:
    spelling = CURRENT.get()
    if spelling is as_keywords:
        return marked
    options: list[Option] = []
    position = 0
    while position < len(marked):
        if (found := _OPTION.match(marked, position)) is None:
            return marked
        options.append((found[1], found[2] or None))
        position = found.end()
    return spelling(options)


# How each entry point spells options


def as_keywords(options: Sequence[Option]) -> str:
    """Spell them as keyword arguments: `server="myserver"`, as they are marked."""
    return ", ".join(f"{name}={value or ''}" for name, value in options)


def as_flags(options: Sequence[Option]) -> str:
    """Spell them for the command: `--server myserver`."""
    return " ".join(_as_flag(*option) for option in options)


def as_url_parameters(options: Sequence[Option]) -> str:
    """Spell them for a SQLAlchemy URL: `?server=myserver`."""
    parameters, others = [], []
    for name, value in options:
        if name in _OBJECTS or (value is not None and _is_expression(value)):
            others.append(f'connect_args["{name}"]' + (f" = {value}" if value else ""))
        elif value is not None:
            parameters.append(f"{name}={_as_url_value(value)}")
        else:
            others.append(f"the URL's {name}" if name in _URL_PARTS else f"?{name}=")
    query = [f"?{'&'.join(parameters)}"] if parameters else []
    return ", ".join(query + others)


def as_django_settings(options: Sequence[Option]) -> str:
    """Spell them for Django's DATABASES: `OPTIONS["server"]`."""
    return ", ".join(
        _django_name(name) + (f" = {value}" if value is not None else "") for name, value in options
    )


def as_asyncpg_arguments(options: Sequence[Option]) -> str:
    """Spell them as arguments of `azpg.asyncpg.connect`: `statement_cache_size=0`."""
    return ", ".join(
        _ASYNCPG_VALUES.get((name, value or ""), f"{_ASYNCPG_NAMES.get(name, name)}={value or ''}")
        for name, value in options
    )


CURRENT: ContextVar[Spelling] = ContextVar("azpg_spelling", default=as_keywords)

_FLAGS = frozenset({"client_id", "cloud", "dbname", "host", "hostaddr", "port", "server", "user"})
_OBJECTS = frozenset({"context", "credential", "cursor_factory", "row_factory"})
_URL_PARTS = frozenset({"dbname", "host", "password", "port", "user"})
_DJANGO_SETTINGS = {
    "dbname": "NAME", "host": "HOST", "password": "PASSWORD", "port": "PORT", "user": "USER"
}  # fmt: skip
_POOL_OPTIONS = frozenset(
    {"check", "configure", "max_idle", "max_size", "reconnect_failed", "reset"}
)
_ASYNCPG_NAMES = {"options": "server_settings", "prepare_threshold": "statement_cache_size"}
"""`azpg.asyncpg.connect` takes libpq's keywords too."""

_ASYNCPG_VALUES = {("prepare_threshold", "None"): "statement_cache_size=0"}


def _as_flag(name: str, value: str | None) -> str:
    if name == "password":
        return "PGPASSWORD"
    if name == "pgbouncer":
        return "--no-pgbouncer" if value == "False" else "--pgbouncer"
    if value is not None and _is_expression(value):
        return f"{name}={value}"
    text = "" if value is None else _text(value)
    shown = text if re.fullmatch(r"[\w.,:@%+/#…-]*", text) else f'"{text}"'
    if name in _FLAGS:
        return f"--{name.replace('_', '-')} {shown}".rstrip()
    return f"{name}={shown}"  # in the connection string, if libpq has it


def _as_url_value(value: str) -> str:
    if value in ("True", "False", "None"):
        return value.lower()
    text = _text(value)
    is_placeholder = re.search("[<…]", text)
    return text if is_placeholder else quote(text, safe=",:/")


def _is_expression(value: str) -> bool:
    return not re.fullmatch(r"""["'].*|[\w.-]*|…""", value)


def _django_name(name: str) -> str:
    if name in _POOL_OPTIONS:
        return f'OPTIONS["pool"]["{name}"]'
    return _DJANGO_SETTINGS.get(name, f'OPTIONS["{name}"]')


def _text(value: str) -> str:
    """Return the text of a value that is written as Python source."""
    if value[:1] in ("'", '"'):
        try:
            return str(ast.literal_eval(value))
        except (SyntaxError, ValueError):
            return value[1:-1]
    return value
