"""Validate the arguments of a pool, hide the secrets in them and wrap its callbacks."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, TypeVar, get_origin

import psycopg

from azpg._connect import ConnectRequest
from azpg._conninfo.options import PSYCOPG_OPTIONS, ConnectOptions, hide_secrets
from azpg._conninfo.sources import parse
from azpg._libpq import libpq_info
from azpg._redact import Secret
from azpg.connection import AsyncConnection, Connection
from azpg.errors import ConfigError, ConnectError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from azpg._tokens.entra import EntraPassword

C = TypeVar("C")


def resolve_arguments(
    conninfo: str, options: Mapping[str, Any], *, is_async: bool
) -> ConnectRequest:
    """Resolve the arguments of a pool's connections, or raise `ConfigError`."""
    given = {name: value for name, value in options.items() if name not in PSYCOPG_OPTIONS}
    given["conninfo"] = conninfo
    return ConnectRequest(ConnectOptions.from_mapping(given), is_async=is_async)


class SecretKwargs(dict[str, Any]):
    """The `kwargs` of a pool: a dict whose repr masks secrets, also those that are put in later.

    As in psycopg_pool, what the caller changes in the dict that it was made from counts too.
    """

    __slots__ = ("_given", "_seen")

    def __init__(self, given: dict[str, Any]) -> None:
        super().__init__(hide_secrets(given))
        self._given = given
        self._seen = self.copy_to_dict()

    def __repr__(self) -> str:
        return repr(hide_secrets(self))

    def __reduce__(self) -> tuple[type[SecretKwargs], tuple[dict[str, Any]]]:
        return SecretKwargs, (self.copy_to_dict(),)

    def copy(self) -> SecretKwargs:
        """Return an independent copy, whose repr masks secrets too."""
        return SecretKwargs(self.copy_to_dict())

    def copy_to_dict(self) -> dict[str, Any]:
        """Return the entries, with each text that may hold a secret as a `Secret`."""
        return hide_secrets(dict(self))

    def take_changes(self) -> None:
        """Apply what has changed in the caller's dict."""
        if self._given == self._seen:
            return
        given = hide_secrets(dict(self._given))
        for name in self._seen.keys() - given.keys():
            self.pop(name, None)
        self.update({k: v for k, v in given.items() if self._seen.get(k) != v})
        self._seen = given


def hide_conninfo(conninfo: object) -> Any:
    """Return a connection string, as a `Secret` if it contains a secret or is invalid."""
    if not isinstance(conninfo, str):
        return conninfo
    secret_keywords = {name.encode() for name in libpq_info().secrets}
    try:
        has_secret = any(o.val and o.keyword in secret_keywords for o in parse(conninfo))
    except (psycopg.Error, UnicodeError):
        has_secret = True
    return Secret(conninfo) if has_secret else str(conninfo)


def hide_kwargs(kwargs: object) -> Any:
    """Return the `kwargs` of a pool, as a `SecretKwargs` if they are a dict."""
    if isinstance(kwargs, dict) and not isinstance(kwargs, SecretKwargs):
        return SecretKwargs(kwargs)
    return kwargs


def find_entra_password(
    conninfo: object, kwargs: object, *, is_async: bool
) -> EntraPassword | None:
    """Return the source of a pool's tokens, or None.

    It is unknown if `conninfo` or `kwargs` is a function of the caller's: only a connection calls
    that function.
    """
    if not isinstance(conninfo, str) or not isinstance(kwargs, dict | None):
        return None
    try:
        return resolve_arguments(conninfo, kwargs or {}, is_async=is_async).entra
    except ConfigError:
        return None


def check_connection_class(connection_class: object, *, is_async: bool) -> None:
    """Raise `ConfigError` if a class is not azpg's connection class or a subclass of it."""
    required = AsyncConnection if is_async else Connection
    # psycopg documents MyConnection[Row], which is not a class itself
    cls = get_origin(connection_class) or connection_class
    if isinstance(cls, type) and issubclass(cls, required):
        return
    name = getattr(cls, "__name__", type(cls).__name__)
    if isinstance(cls, type) and issubclass(cls, Connection | AsyncConnection):
        pool = "create_pool() and ConnectionPool" if is_async else "create_pool_async()"
        raise ConfigError(
            f"connection_class={name} is {'a sync' if is_async else 'an async'} class: an "
            f"{'async' if is_async else 'sync'} pool takes a subclass of azpg.{required.__name__}, "
            f"and {name} is for {pool}"
        )
    if cls in (psycopg.Connection, psycopg.AsyncConnection):
        fix = "leave out connection_class="
    elif isinstance(cls, type):
        fix = f"write class {name}(azpg.{required.__name__}): … in place of psycopg's class"
    else:
        fix = f"pass a class, class MyConnection(azpg.{required.__name__}): …"
    raise ConfigError(
        f"connection_class={name} connects without azpg: no server would be verified, and no "
        f"token fetched. {fix[0].upper()}{fix[1:]}"
    )


def disable_retry(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a single connection attempt: the pool itself does the retries."""
    return {"retry_timeout": 0.0, **kwargs}


def wrap_configure(function: Callable[[C], None] | None) -> Callable[[C], None] | None:
    """Return a `configure` that raises no azpg error.

    The pool would take such an error for one of connecting, and for permanent.
    """
    if function is None:
        return None

    @functools.wraps(function)
    def configure(conn: C) -> None:
        try:
            function(conn)
        except (ConnectError, ConfigError) as error:
            raise psycopg.OperationalError(f"configure failed: {error}") from error

    return configure


def wrap_configure_async(
    function: Callable[[C], Awaitable[None]] | None,
) -> Callable[[C], Awaitable[None]] | None:
    """Return what `wrap_configure` returns, for an async pool."""
    if function is None:
        return None

    @functools.wraps(function)
    async def configure(conn: C) -> None:
        try:
            await function(conn)
        except (ConnectError, ConfigError) as error:
            raise psycopg.OperationalError(f"configure failed: {error}") from error

    return configure
