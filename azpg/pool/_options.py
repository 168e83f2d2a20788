"""The options of a pool as it keeps them: passwords hidden, no retry, guarded callbacks."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, TypeVar, get_origin

import psycopg

from azpg._connect import ConnectRequest
from azpg._conninfo.options import PSYCOPG_OPTIONS, ConnectOptions, hide_secrets
from azpg._conninfo.sources import parse
from azpg._libpq import libpq_info
from azpg.connection import AsyncConnection, Connection
from azpg.errors import ConfigError, ConnectError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from azpg._tokens.entra import EntraPassword

C = TypeVar("C")


def judged(conninfo: str, options: Mapping[str, Any], *, is_async: bool) -> ConnectRequest:
    """Judge what every connect() of a pool will be called with."""
    given = {name: value for name, value in options.items() if name not in PSYCOPG_OPTIONS}
    return ConnectRequest(
        ConnectOptions.from_mapping({**given, "conninfo": conninfo}), is_async=is_async
    )


class Hidden:
    """Give a value that holds a password when called, and show it in no repr."""

    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value

    def __call__(self) -> Any:
        return self._value

    def __repr__(self) -> str:
        return "<hidden, as it holds a password>"


def hide_conninfo(conninfo: object) -> Any:
    if not isinstance(conninfo, str):
        return conninfo
    secrets = {name.encode() for name in libpq_info().secrets}
    try:
        secret = any(o.val and o.keyword in secrets for o in parse(conninfo))
    except (psycopg.Error, UnicodeError):
        secret = True
    return Hidden(conninfo) if secret else str(conninfo)


def hide_kwargs(kwargs: object) -> Any:
    if not isinstance(kwargs, dict):
        return kwargs
    hidden = hide_secrets(kwargs)
    secret = any(hidden[name] is not value for name, value in kwargs.items())
    return Hidden(kwargs) if secret else kwargs


def entra_password(conninfo: object, kwargs: object, *, is_async: bool) -> EntraPassword | None:
    """Return what gives a pool its tokens, as far as its options are known without asking."""
    conninfo, kwargs = (v() if isinstance(v, Hidden) else v for v in (conninfo, kwargs))
    if not isinstance(conninfo, str) or not isinstance(kwargs, dict | None):
        return None
    try:
        return judged(conninfo, kwargs or {}, is_async=is_async).entra
    except ConfigError:
        return None


def check_connection_class(given: object, *, is_async: bool) -> None:
    """Raise `ConfigError` for a class whose connections azpg would not verify."""
    right = AsyncConnection if is_async else Connection
    # MyConnection[Row], which psycopg documents, is no class itself
    found = get_origin(given) or given
    if isinstance(found, type) and issubclass(found, right):
        return
    name = getattr(found, "__name__", type(found).__name__)
    if isinstance(found, type) and issubclass(found, Connection | AsyncConnection):
        pool = "create_pool() and ConnectionPool" if is_async else "create_pool_async()"
        raise ConfigError(
            f"connection_class={name} is {'a sync' if is_async else 'an async'} class: an "
            f"{'async' if is_async else 'sync'} pool takes a subclass of azpg.{right.__name__}, "
            f"and {name} is for {pool}"
        )
    if found in (psycopg.Connection, psycopg.AsyncConnection):
        write = "leave out connection_class="
    elif isinstance(found, type):
        write = f"write class {name}(azpg.{right.__name__}): … in place of psycopg's class"
    else:
        write = f"pass a class, class MyConnection(azpg.{right.__name__}): …"
    raise ConfigError(
        f"connection_class={name} connects without azpg: no server would be verified, and no "
        f"token fetched. {write[0].upper()}{write[1:]}"
    )


def without_retry(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the keywords of a connect inside a pool, whose own loop is the retry."""
    return {"retry_timeout": 0.0, **kwargs}


def guarded(function: Callable[[C], None] | None) -> Callable[[C], None] | None:
    """Return a `configure` whose errors are not taken for those of connecting."""
    if function is None:
        return None

    @functools.wraps(function)
    def configure(conn: C) -> None:
        try:
            function(conn)
        except (ConnectError, ConfigError) as ex:
            raise psycopg.OperationalError(f"configure failed: {ex}") from ex

    return configure


def guarded_async(
    function: Callable[[C], Awaitable[None]] | None,
) -> Callable[[C], Awaitable[None]] | None:
    """Return what `guarded` does, for an async pool."""
    if function is None:
        return None

    @functools.wraps(function)
    async def configure(conn: C) -> None:
        try:
            await function(conn)
        except (ConnectError, ConfigError) as ex:
            raise psycopg.OperationalError(f"configure failed: {ex}") from ex

    return configure
