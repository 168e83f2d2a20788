"""azpg's own options as they come in: of a type that can be read, and fit to stand together."""

from __future__ import annotations

import inspect
import re
import sys
from functools import cache, lru_cache, partial
from types import MethodType, NoneType
from typing import TYPE_CHECKING, Any, Literal, TypeGuard, cast

from azpg._clouds import Cloud
from azpg._libpq import libpq_info
from azpg._redact import Secret

from .sources import sendable
from .suggestions import placeholder

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from azpg._tokens.entra import EntraPassword

UNSENDABLE = "a NUL, or characters that are no UTF-8"


def kind(password: object) -> Literal["text", "empty", "callback"] | None:
    """Return what kind of password was given: all that the rules need to know of it."""
    if password is None:
        return None
    if callable(password):
        return "callback"
    return "text" if password else "empty"


# What it is to be -> the types that it may have
_TYPES: dict[str, tuple[str, tuple[type, ...]]] = {
    "conninfo": ("text", (str,)),
    "server": ("text", (str, NoneType)),
    "client_id": ("text", (str, NoneType)),
    "pgbouncer": ("True or False", (bool, NoneType)),
    "cloud": ("an azpg.Cloud or its name", (str, Cloud, NoneType)),
    "retry_timeout": ("a number of seconds", (int, float, NoneType)),
}


@lru_cache(maxsize=64)
def mistyped(*types: type) -> tuple[str, ...]:
    """Return which of azpg's own options cannot be read, by the types of all, in this order.

    Of types alone, as it is asked before each connect, where a call that is not made counts.
    """
    return tuple(
        f"{name} is {given.__name__}: pass {right}"
        for given, (name, (right, taken)) in zip(types, _TYPES.items(), strict=True)
        if not issubclass(given, taken)
    )


def is_entra_password(value: object) -> TypeGuard[EntraPassword]:
    """Tell whether it is an EntraPassword, of which there is none before its module is loaded.

    By its type alone: a proxy's `__class__` is that of another object.
    """
    return issubclass(
        type(value), getattr(sys.modules.get("azpg._tokens.entra"), "EntraPassword", ())
    )


def without_proxies(credential: object, password: object) -> tuple[list[str], object, object]:
    """Return what is wrong with the objects that are proxies, and both objects without these.

    A plain function takes the place of a proxy that is refused: to look at the proxy any further
    would call the function behind it, which may raise.
    """
    from azpg._tokens.credentials import proxy_error  # noqa: PLC0415  # late: not for a password as text

    wrong = []
    if problem := proxy_error("credential", credential):
        wrong.append(problem)
        credential = _plain
    if not _is_text(password) and (problem := proxy_error("password", password)):
        wrong.append(problem)
        password = _plain
    return wrong, credential, password


def _is_text(password: object) -> bool:
    try:
        return isinstance(password, str)  # also lazy text, of which azpg keeps nothing
    except Exception:  # noqa: BLE001  # the function behind a proxy has failed, with any error
        return False


def _plain() -> str:
    return ""


MAX_WRAPPERS = 8
_METHODS = ("__call__", "call_async")


def entra_password_behind(password: object) -> EntraPassword | None:
    """Return the EntraPassword that a password callback calls, as far as can be told.

    That is the object itself, its `call_async` or `__call__`, and each of them in functools'
    `partial` or in a decorator that keeps `__wrapped__`.
    """
    for _ in range(MAX_WRAPPERS):
        if is_entra_password(password):
            return password
        # By the type alone: a proxy's attributes are those of another object
        kind = type(password)
        if issubclass(kind, partial):
            password = cast("partial[object]", password).func
        elif kind is MethodType and getattr(password, "__name__", "") in _METHODS:
            password = cast("MethodType", password).__self__
        elif kind.__module__ in ("builtins", "functools") and hasattr(password, "__wrapped__"):
            password = password.__wrapped__
        else:
            return None
    return None


@lru_cache(maxsize=64)
def serves_all(kind: type) -> bool:
    """Tell whether a class is a sync credential's: asked before each connect, so it is kept."""
    get = getattr(kind, "get_token_info", None) or getattr(kind, "get_token", None)
    return inspect.isfunction(get) and not inspect.iscoroutinefunction(get)


def misfits(
    credential: object, password: object, cloud: Cloud | str | None, *, is_async: bool
) -> Iterator[str]:
    """Say what is wrong with the objects themselves."""
    if is_entra_password(credential):
        if cloud not in {credential.cloud, credential.cloud.name}:
            yield (
                f"the EntraPassword is for the cloud {credential.cloud.name!r} and cloud= is "
                f"another: leave out cloud="
            )
    elif credential is not None:
        from azpg._tokens.credentials import credential_error  # noqa: PLC0415  # late: for what is rare

        if wrong := credential_error(credential, async_api=is_async):
            yield wrong
    if password is None:
        return
    if isinstance(password, str):
        if not sendable(password):
            yield f"password holds {UNSENDABLE}, which libpq cannot be handed"
        elif password.endswith(("\n", "\r")):
            yield "password ends in a line break: strip it where the value is read"
        yield from placeholders({"password": password})
    elif not callable(password):
        yield f"password is {type(password).__name__}: pass text or a function that returns it"
    elif not is_async and is_async_function(password):
        yield "password is an async function: use connect_async(), or a plain function"


def placeholders(secrets: Mapping[str, str]) -> Iterator[str]:
    """Say which secret is none yet."""
    for name, value in secrets.items():
        if left := placeholder(value):
            yield (
                f"{name} still holds the portal's placeholder {left}: write your own, or leave it "
                f"out to sign in with Microsoft Entra"
            )


def is_async_function(function: object) -> bool:
    """Tell whether what a function returns has to be awaited."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(type(function), "__call__", None)  # noqa: B004  # its kind matters, not its presence
    )


def loop_misfit(kind: type) -> str | None:
    """Return what keeps psycopg from running on an event loop of this class, and what to type."""
    if all(each.__name__ != "ProactorEventLoop" for each in kind.__mro__):
        return None
    return (
        "psycopg cannot wait for sockets on the ProactorEventLoop, Windows' default: run the "
        "program with asyncio.run(main(), loop_factory=asyncio.SelectorEventLoop), on Python 3.11 "
        "after asyncio.set_event_loop_policy(asyncio.WindowsSelectorEventLoopPolicy())"
    )


# Options that pass through the frames of others, which error reports show


def hide_secrets(options: Mapping[str, Any], known: Collection[str] = ()) -> dict[str, Any]:
    """Return a copy of connection options, with each text that may hold a password as a `Secret`.

    That is every text but those of options that hold no secret, which are azpg's, psycopg's,
    libpq's and those in `known`: a misspelled `password` holds a password too. A text of these is
    hidden if it looks like a connection string or a token. Dicts, lists and tuples among the
    options are copied in the same way.
    """
    return {name: hide_secret(name, value, known) for name, value in options.items()}


def hide_secret(name: str, value: Any, known: Collection[str] = ()) -> Any:
    """Return the value of one option, as `hide_secrets` does."""
    # By the type alone: the function behind a proxy may raise
    if issubclass(type(value), dict):
        return hide_secrets(value, known)
    if type(value) in {list, tuple}:
        return type(value)(hide_secret(name, each, known) for each in value)
    if not issubclass(type(value), str):
        return value
    plain = name in _plain_options() or name in known
    return value if plain and not _MAY_HOLD_SECRET.search(value) else Secret(value)


# A key/value string, a URI, user and password of one, a line of a password file, a token
_MAY_HOLD_SECRET = re.compile(r"[=;]|:.*[:@]|eyJ", re.DOTALL)


@cache
def _plain_options() -> frozenset[str]:
    """Return the options of azpg's, psycopg's and libpq's whose texts are no secrets."""
    own = {"server", "credential", "client_id", "pgbouncer", "cloud", "retry_timeout"}
    psycopgs = {"autocommit", "context", "cursor_factory", "prepare_threshold", "row_factory"}
    return frozenset({*libpq_info().variables, *own, *psycopgs}) - libpq_info().secrets
