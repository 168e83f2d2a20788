"""What the sync and the async pool share: hidden passwords, remembered failures, keywords."""

from __future__ import annotations

import copy
import functools
from typing import TYPE_CHECKING, Any, TypeVar, get_origin

import psycopg

from . import _diagnose, _sources
from .connection import AsyncConnection, Connection
from .errors import ConfigError, ConnectError, clean

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from psycopg_pool import PoolTimeout

C = TypeVar("C")


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
    secrets = {name.encode() for name in _sources.libpq().secrets}
    try:
        secret = any(o.val and o.keyword in secrets for o in _sources.parse(conninfo))
    except (psycopg.Error, UnicodeError):
        secret = True
    return Hidden(conninfo) if secret else conninfo


def hide_kwargs(kwargs: object) -> Any:
    if not isinstance(kwargs, dict):
        return kwargs
    secret = any(isinstance(kwargs.get(name), str) for name in _sources.libpq().secrets)
    return Hidden(kwargs) if secret else kwargs


class Causes:
    """What a pool remembers of its failed connects. It waits for nothing and locks nothing."""

    _failure: Exception | None = None

    def _remember(self, failure: Exception | None) -> None:
        # Its frames hold the pool's own options: they do not live as long as the pool.
        self._failure = None if failure is None else failure.with_traceback(None)

    def _final(self) -> psycopg.Error | None:
        """Return the failure that no further try can mend, as an exception of its own."""
        failure = self._failure
        if isinstance(failure, ConfigError) or (
            isinstance(failure, ConnectError) and failure.kind not in _diagnose.TRANSIENT
        ):
            return clean(copy.copy(failure))
        return None

    def _explained(self, timeout: PoolTimeout) -> PoolTimeout:
        """Return a pool's timeout with the reason why no connection could be made, if any."""
        if self._failure is None:
            return timeout.with_traceback(None)
        explained = type(timeout)(f"{timeout}; the last connection failed: {self._failure}")
        explained.__cause__ = self._failure
        return explained


def without_retry(connection_class: type, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the keywords of a connect inside a pool, whose own loop is the retry."""
    # MyConnection[Row], which psycopg documents, is no class itself
    made = get_origin(connection_class) or connection_class
    if issubclass(made, Connection | AsyncConnection):
        return {"retry_timeout": 0.0, **kwargs}
    return kwargs


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
