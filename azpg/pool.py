"""Pools of azpg's connections: psycopg_pool's own, that say why they could not connect."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, cast

import psycopg
import psycopg_pool
from psycopg.rows import Row
from psycopg_pool import PoolTimeout

from ._call import Call
from ._pool import Causes, guarded, guarded_async, hide_conninfo, hide_kwargs, without_retry
from .connection import UNSET, AsyncConnection, Connection
from .errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Self

    from psycopg.abc import AdaptContext, ConnParam
    from psycopg.rows import AsyncRowFactory, RowFactory, TupleRow
    from psycopg_pool.abc import (
        AsyncConnectFailedCB,
        AsyncConnectionCB,
        AsyncConninfoParam,
        AsyncKwargsParam,
        ConnectFailedCB,
        ConnectionCB,
        ConninfoParam,
        KwargsParam,
    )
    from psycopg_pool.base import AttemptWithBackoff
    from typing_extensions import TypeVar

    from ._call import AsyncPassword, Password
    from ._clouds import Cloud
    from ._credentials import Credential, SyncCredential
    from .connection import Threshold

    CT = TypeVar("CT", bound=psycopg.Connection[Any], default=Connection[TupleRow])
    ACT = TypeVar("ACT", bound=psycopg.AsyncConnection[Any], default=AsyncConnection[TupleRow])
else:
    from psycopg_pool.abc import ACT, CT


if not hasattr(psycopg_pool.ConnectionPool, "_resolve_kwargs"):
    raise ImportError("azpg needs psycopg_pool 3.3 or newer: pip install -U psycopg-pool")


class ConnectionPool(Causes, psycopg_pool.ConnectionPool[CT]):
    """A psycopg_pool pool of azpg's connections: each new one signs in freshly.

    It takes what its parent takes, in the same way. `wait()` and `open(wait=True)` raise what kept
    the connections from being made.
    """

    __module__ = "azpg"

    def __init__(
        self,
        conninfo: ConninfoParam = "",
        *,
        connection_class: type[CT] = cast("type[CT]", Connection),  # noqa: B008
        kwargs: KwargsParam | None = None,
        min_size: int = 4,
        max_size: int | None = None,
        open: bool | None = None,  # noqa: A002  # the parent's name
        configure: ConnectionCB[CT] | None = None,
        check: ConnectionCB[CT] | None = None,
        reset: ConnectionCB[CT] | None = None,
        name: str | None = None,
        close_returns: bool = False,
        timeout: float = 30.0,
        max_waiting: int = 0,
        max_lifetime: float = 3600.0,
        max_idle: float = 600.0,
        reconnect_timeout: float = 300.0,
        reconnect_failed: ConnectFailedCB | None = None,
        num_workers: int = 3,
    ) -> None:
        super().__init__(
            hide_conninfo(conninfo),
            connection_class=connection_class,
            kwargs=hide_kwargs(kwargs),
            min_size=min_size,
            max_size=max_size,
            open=open,
            configure=guarded(configure),
            check=check,
            reset=reset,
            name=name,
            close_returns=close_returns,
            timeout=timeout,
            max_waiting=max_waiting,
            max_lifetime=max_lifetime,
            max_idle=max_idle,
            reconnect_timeout=reconnect_timeout,
            reconnect_failed=reconnect_failed,
            num_workers=num_workers,
        )

    def wait(self, timeout: float = 30.0) -> None:
        """Wait at most `timeout` seconds for `min_size` connections, or close and raise the cause.

        Raise at once what no further try can mend (`ConfigError`, `LoginError`, `TLSError`, ...),
        and psycopg_pool's `PoolTimeout`, with the last failure as its cause, for the rest.
        """
        error: psycopg.Error | None = self._final()
        if error is None:
            try:
                super().wait(timeout)
                error = self._final()
            except PoolTimeout as ex:
                error = self._explained(ex)
        if error is not None:
            self.close()
            raise error

    def _connect(self, timeout: float | None = None) -> CT:
        try:
            conn = super()._connect(timeout)
        except Exception as ex:
            self._remember(ex)
            raise
        self._remember(None)
        return conn

    def _add_connection(self, attempt: AttemptWithBackoff | None, growing: bool = False) -> None:
        super()._add_connection(attempt, growing)
        if self._final() is not None:
            with self._lock:
                if self._pool_full_event is not None:
                    self._pool_full_event.set()  # nothing is left to wait for

    def _resolve_kwargs(self) -> dict[str, Any]:
        return without_retry(self.connection_class, super()._resolve_kwargs())


class AsyncConnectionPool(Causes, psycopg_pool.AsyncConnectionPool[ACT]):
    """A psycopg_pool pool of azpg's async connections: each new one signs in freshly.

    It takes what its parent takes, in the same way. `wait()` and `open(wait=True)` raise what kept
    the connections from being made.
    """

    __module__ = "azpg"

    _awaits_connections = False
    """made by `create_pool_async`: `await` and `async with` wait until it is full"""

    def __init__(
        self,
        conninfo: AsyncConninfoParam = "",
        *,
        connection_class: type[ACT] = cast("type[ACT]", AsyncConnection),  # noqa: B008
        kwargs: AsyncKwargsParam | None = None,
        min_size: int = 4,
        max_size: int | None = None,
        open: bool | None = None,  # noqa: A002  # the parent's name
        configure: AsyncConnectionCB[ACT] | None = None,
        check: AsyncConnectionCB[ACT] | None = None,
        reset: AsyncConnectionCB[ACT] | None = None,
        name: str | None = None,
        close_returns: bool = False,
        timeout: float = 30.0,
        max_waiting: int = 0,
        max_lifetime: float = 3600.0,
        max_idle: float = 600.0,
        reconnect_timeout: float = 300.0,
        reconnect_failed: AsyncConnectFailedCB | None = None,
        num_workers: int = 3,
    ) -> None:
        super().__init__(
            hide_conninfo(conninfo),
            connection_class=connection_class,
            kwargs=hide_kwargs(kwargs),
            min_size=min_size,
            max_size=max_size,
            open=open,
            configure=guarded_async(configure),
            check=check,
            reset=reset,
            name=name,
            close_returns=close_returns,
            timeout=timeout,
            max_waiting=max_waiting,
            max_lifetime=max_lifetime,
            max_idle=max_idle,
            reconnect_timeout=reconnect_timeout,
            reconnect_failed=reconnect_failed,
            num_workers=num_workers,
        )

    async def __aenter__(self) -> Self:
        await self._awaited()
        return await super().__aenter__()

    def __await__(self) -> Generator[Any, None, Self]:
        return self._awaited().__await__()

    async def _awaited(self) -> Self:
        if self._awaits_connections:
            try:
                await self.open(wait=True, timeout=self.timeout)
            except BaseException:
                await self.close()  # who is cancelled here never holds the pool
                raise
        return self

    async def wait(self, timeout: float = 30.0) -> None:  # noqa: ASYNC109  # the parent's name
        """Wait at most `timeout` seconds for `min_size` connections, or close and raise the cause.

        Raise at once what no further try can mend (`ConfigError`, `LoginError`, `TLSError`, ...),
        and psycopg_pool's `PoolTimeout`, with the last failure as its cause, for the rest.
        """
        error: psycopg.Error | None = self._final()
        if error is None:
            try:
                await super().wait(timeout)
                error = self._final()
            except PoolTimeout as ex:
                error = self._explained(ex)
        if error is not None:
            await self.close()
            raise error

    async def _connect(self, timeout: float | None = None) -> ACT:  # noqa: ASYNC109
        try:
            conn = await super()._connect(timeout)
        except Exception as ex:
            self._remember(ex)
            raise
        self._remember(None)
        return conn

    async def _add_connection(
        self, attempt: AttemptWithBackoff | None, growing: bool = False
    ) -> None:
        await super()._add_connection(attempt, growing)
        if self._final() is not None:
            async with self._lock:
                if self._pool_full_event is not None:
                    self._pool_full_event.set()

    async def _resolve_kwargs(self) -> dict[str, Any]:
        return without_retry(self.connection_class, await super()._resolve_kwargs())


def create_pool(
    conninfo: str = "",
    *,
    server: str | None = None,
    credential: SyncCredential | None = None,
    client_id: str | None = None,
    password: Password | None = None,
    pgbouncer: bool | None = None,
    cloud: Cloud | str | None = None,
    autocommit: bool = False,
    prepare_threshold: Threshold = UNSET,
    context: AdaptContext | None = None,
    row_factory: RowFactory[Row] | None = None,
    cursor_factory: type[psycopg.Cursor[Row]] | None = None,
    min_size: int = 4,
    max_size: int | None = None,
    open: bool = True,  # noqa: A002  # psycopg_pool's name
    configure: ConnectionCB[Connection[Row]] | None = None,
    check: ConnectionCB[Connection[Row]] | None = None,
    reset: ConnectionCB[Connection[Row]] | None = None,
    name: str | None = None,
    close_returns: bool = False,
    timeout: float = 30.0,
    max_waiting: int = 0,
    max_lifetime: float = 3600.0,
    max_idle: float = 600.0,
    reconnect_timeout: float = 300.0,
    reconnect_failed: ConnectFailedCB | None = None,
    num_workers: int = 3,
    **kwargs: ConnParam,
) -> ConnectionPool[Connection[Row]]:
    """Return a pool whose every new connection signs in freshly, so that it outlives any token.

    The options of the connection are those of `azpg.connect`, without `retry_timeout`, as a pool
    tries again by itself; the others are psycopg_pool's, all times in seconds. The pool is
    returned when `min_size` connections are made; `open=False` connects nothing yet.

    Raise `ConfigError` for a call that cannot be meant, `ConnectError` or one of its kinds for a
    failure that no further try can mend, psycopg_pool's `PoolTimeout` with its cause when there
    are no `min_size` connections within `timeout`.

    >>> with azpg.create_pool(server="myserver", dbname="mydb", max_size=10) as pool:
    ...     with pool.connection() as conn:
    ...         conn.execute("select 1").fetchone()
    (1,)
    """
    try:
        options = _options(locals(), is_async=False)
    finally:
        del conninfo, password, kwargs  # an error's traceback shows this frame
    connection_class = cast("type[Connection[Row]]", Connection)
    pool = ConnectionPool(connection_class=connection_class, open=False, **options)
    error = _open(pool, timeout) if open else None
    del options
    if error is None:
        return pool
    del pool
    raise error


def create_pool_async(
    conninfo: str = "",
    *,
    server: str | None = None,
    credential: Credential | None = None,
    client_id: str | None = None,
    password: AsyncPassword | None = None,
    pgbouncer: bool | None = None,
    cloud: Cloud | str | None = None,
    autocommit: bool = False,
    prepare_threshold: Threshold = UNSET,
    context: AdaptContext | None = None,
    row_factory: AsyncRowFactory[Row] | None = None,
    cursor_factory: type[psycopg.AsyncCursor[Row]] | None = None,
    min_size: int = 4,
    max_size: int | None = None,
    open: bool = True,  # noqa: A002  # psycopg_pool's name
    configure: AsyncConnectionCB[AsyncConnection[Row]] | None = None,
    check: AsyncConnectionCB[AsyncConnection[Row]] | None = None,
    reset: AsyncConnectionCB[AsyncConnection[Row]] | None = None,
    name: str | None = None,
    close_returns: bool = False,
    timeout: float = 30.0,
    max_waiting: int = 0,
    max_lifetime: float = 3600.0,
    max_idle: float = 600.0,
    reconnect_timeout: float = 300.0,
    reconnect_failed: AsyncConnectFailedCB | None = None,
    num_workers: int = 3,
    **kwargs: ConnParam,
) -> AsyncConnectionPool[AsyncConnection[Row]]:
    """Return an async pool whose every new connection signs in freshly: `await` it, or enter it.

    The options are those of `azpg.create_pool`; `credential` and `password` may be async too.
    `await` and `async with` wait until `min_size` connections are made; with `open=False` they
    wait for none, and `await` opens nothing.

    Raise `ConfigError` for a call that cannot be meant; `await` and `async with` raise
    `ConnectError` or one of its kinds for a failure that no further try can mend, and
    psycopg_pool's `PoolTimeout` with its cause when there are no `min_size` connections within
    `timeout`.

    >>> async with azpg.create_pool_async(server="myserver", dbname="mydb") as pool:
    ...     async with pool.connection() as conn:
    ...         await (await conn.execute("select 1")).fetchone()
    (1,)
    """
    try:
        options = _options(locals(), is_async=True)
    finally:
        del conninfo, password, kwargs  # as above
    connection_class = cast("type[AsyncConnection[Row]]", AsyncConnection)
    pool = AsyncConnectionPool(connection_class=connection_class, open=False, **options)
    pool._awaits_connections = open  # noqa: SLF001  # the class is this module's
    return pool


_POOL_OPTIONS = frozenset(inspect.signature(psycopg_pool.ConnectionPool).parameters) - {"kwargs"}
_JUDGED = ("server", "credential", "client_id", "password", "pgbouncer", "cloud")


def _options(given: dict[str, Any], *, is_async: bool) -> dict[str, Any]:
    """Return the pool class's own options for those of create_pool, once they can be meant."""
    keywords: dict[str, object] = given.pop("kwargs")
    connection = {name: value for name, value in given.items() if name not in _POOL_OPTIONS}
    judged = {name: connection[name] for name in _JUDGED}
    error = Call(given["conninfo"], keywords, **judged, is_async=is_async).error
    if "retry_timeout" in keywords:
        error = ConfigError(
            "retry_timeout is for connect(): a pool tries again by itself, for reconnect_timeout "
            "seconds"
        )
    if error is not None:
        del given, keywords, connection, judged
        raise error
    pool = {name: value for name, value in given.items() if name in _POOL_OPTIONS}
    del pool["open"]
    return pool | {"kwargs": {k: v for k, v in connection.items() if v is not UNSET} | keywords}


def _open(pool: ConnectionPool[Any], timeout: float) -> psycopg.Error | None:
    """Open a pool and wait until it is full; return what kept it from that."""
    try:
        pool.open(wait=True, timeout=timeout)
    except psycopg.Error as error:
        return error.with_traceback(None)
    except BaseException:
        pool.close()
        raise
    return None
