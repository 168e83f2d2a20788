"""The pool classes: psycopg_pool's, with fail-fast, causes for timeouts and a liveness check."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Any, cast

import psycopg
import psycopg_pool
from psycopg_pool import PoolTimeout
from psycopg_pool.pool import AddConnection
from psycopg_pool.pool_async import AddConnection as AsyncAddConnection

from azpg._connect import event_loop_error
from azpg._conninfo.options import hide_secret, hide_secrets
from azpg.connection import AsyncConnection, Connection
from azpg.errors import ConfigError, ConnectError

from ._arguments import (
    check_connection_class,
    disable_retry,
    hide_conninfo,
    hide_kwargs,
    wrap_configure,
    wrap_configure_async,
)
from ._base import BasePool
from ._errors import pool_error
from ._liveness import is_alive

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Self

    from psycopg.rows import TupleRow
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

    CT = TypeVar("CT", bound=psycopg.Connection[Any], default=psycopg.Connection[TupleRow])
    ACT = TypeVar(
        "ACT", bound=psycopg.AsyncConnection[Any], default=psycopg.AsyncConnection[TupleRow]
    )
else:
    from psycopg_pool.abc import ACT, CT


class ConnectionPool(BasePool, psycopg_pool.ConnectionPool[CT]):
    """A psycopg_pool connection pool that acquires a valid token for each new connection.

    It takes the arguments of `psycopg_pool.ConnectionPool`. `getconn()`, `wait()` and
    `open(wait=True)` raise the error that prevents the pool from connecting; a connection that the
    server has closed is replaced, not handed out. `azpg.create_pool` takes the arguments of
    `azpg.connect` directly and waits for the connections.

    Args:
        conninfo: Connection string of libpq, or a function that returns one before each new
            connection.
        connection_class: `azpg.Connection` or a subclass of it.
        kwargs: Arguments of `azpg.connect`, such as `server` and `dbname`, as a dict, or a function
            that returns one before each new connection.
        min_size: Connections that the pool keeps. Default: 4.
        max_size: Maximum number of connections. Default: `min_size`.
        open: Whether the constructor opens the pool, without waiting for connections. Pass False
            and use `with pool` or `pool.open()`; the default is psycopg_pool's.
        configure: Function called with each new connection.
        check: Function called with a connection before the pool hands it out; to discard the
            connection it raises. Without it azpg still checks whether the server has closed the
            connection.
        reset: Function called with each connection that is returned to the pool.
        name: Name of the pool in logs and threads.
        close_returns: Whether `conn.close()` returns the connection to the pool.
        timeout: Seconds that a client waits for a connection.
        max_waiting: Maximum number of clients that wait at a time; 0 for unlimited.
        max_lifetime: Seconds after which a connection is replaced. It may outlive its token: the
            server checks a token only when a client connects.
        max_idle: Seconds after which an unused connection above `min_size` is closed.
        reconnect_timeout: Seconds that the pool retries one connection before it calls
            `reconnect_failed`.
        reconnect_failed: Function called with the pool if it cannot connect for
            `reconnect_timeout` seconds.
        num_workers: Number of threads that make and close connections.

    Raises:
        ConfigError: `connection_class` is not a connection class of azpg.

    >>> with azpg.ConnectionPool("dbname=mydb", kwargs={"server": "myserver"}, open=False) as pool:
    ...     with pool.connection() as conn:
    ...         conn.execute("select 1").fetchone()
    (1,)
    """

    __module__ = "azpg"

    _is_async = False

    def __init__(
        self,
        conninfo: ConninfoParam = "",
        *,
        connection_class: type[CT] = cast("type[CT]", Connection),  # noqa: B008
        kwargs: KwargsParam | None = None,
        min_size: int | None = None,
        max_size: int | None = None,
        open: bool | None = None,  # noqa: A002  # psycopg_pool's name
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
        # Tracebacks show this frame
        conninfo, kwargs = hide_conninfo(conninfo), hide_kwargs(kwargs)
        check_connection_class(connection_class, is_async=False)
        super().__init__(
            conninfo,
            connection_class=connection_class,
            kwargs=kwargs,
            min_size=min_size,
            max_size=max_size,
            open=open,
            configure=wrap_configure(configure),
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
        """Wait for `min_size` connections.

        If it raises and the pool has never connected, the pool is closed.

        Args:
            timeout: Seconds to wait.

        Raises:
            ConfigError: The arguments of the connections are invalid; it lists every problem.
            ConnectError: A permanent failure, raised at once, as one of its subclasses, such as
                `LoginError`; or the time is over after a failed connection, its `__cause__`. It
                is a `psycopg_pool.PoolTimeout` too.
            psycopg_pool.PoolTimeout: The time is over.
        """
        error: psycopg.Error | None
        if self._history.successes and (delay := self._remaining_cooldown()):
            time.sleep(max(0.0, min(delay, timeout)))
            timeout = max(0.0, timeout - delay)
        with self._lock:
            self._retry_now()
        try:
            super().wait(timeout)
            error = self._error_of_wait(None)
        except PoolTimeout as ex:
            error = self._error_of_wait(ex)
        if error is not None:
            if not self._history.successes:
                self.close()
            raise error

    def getconn(self, timeout: float | None = None) -> CT:
        """Return a connection that the server has not closed, as far as its socket shows.

        Args:
            timeout: Seconds to wait for a connection. Default: the pool's `timeout`.

        Raises:
            ConfigError: The arguments of the connections are invalid; it lists every problem.
            ConnectError: A permanent failure, if the pool has no open connection: raised at once,
                or within `timeout` if the pool failed less than a second ago. Or the time is over
                after a failed connection, its `__cause__`. It is a `psycopg_pool.PoolTimeout` too.
            psycopg_pool.PoolTimeout: The time is over, and all connections are in use.
        """
        error: psycopg.Error | None
        if delay := self._remaining_cooldown():
            timeout = self.timeout if timeout is None else timeout
            time.sleep(max(0.0, min(delay, timeout)))
            timeout = max(0.0, timeout - delay)
        try:
            return super().getconn(timeout)
        except PoolTimeout as ex:
            error = self._error_of_wait(ex) or ex
        except ConnectError as ex:
            error = pool_error(ex)
        raise error

    def _connect(self, timeout: float | None = None) -> CT:
        changes_before = self._history.changes
        try:
            conn = super()._connect(timeout)
        except Exception as ex:
            self._history.record_failure(ex, changes_before)
            raise
        self._register(conn)
        return conn

    def _add_connection(self, attempt: AttemptWithBackoff | None, growing: bool = False) -> None:
        try:
            super()._add_connection(self._attempt(attempt), growing)
        finally:  # reconnect_failed may raise
            with self._lock:
                failed = self._fail_waiting()
            for client, error in failed:
                client.fail(error)

    def reconnect_failed(self) -> None:
        """Call the pool's `reconnect_failed`; what it changes in the arguments is tried at once."""
        if not self._reconnect_failed:
            return
        before = self._connect_arguments()
        with self._lock:
            self._running_callbacks += 1
        try:
            super().reconnect_failed()
        finally:
            with self._lock:
                self._running_callbacks -= 1
                self._retry_changed_arguments(before)

    def _get_ready_connection(self, timeout: float | None) -> CT | None:
        if not self._pool or self._nconns < self._min_size:
            self._grow_to_min_size(timeout)
        while (conn := super()._get_ready_connection(timeout)) is not None and not is_alive(conn):
            lost = [other for other in self._pool if not is_alive(other)]
            for other in lost:
                self._pool.remove(other)
            for closed in (conn, *lost):
                self._stats[self._CONNECTIONS_LOST] += 1
                self._close_connection(closed)
                self.run_task(AddConnection(self))
        return conn

    # A traceback shows what these return, in a frame of psycopg_pool

    def _resolve_conninfo(self) -> Any:
        return hide_secret("conninfo", super()._resolve_conninfo())

    def _resolve_kwargs(self) -> dict[str, Any]:
        return hide_secrets(disable_retry(super()._resolve_kwargs()))


class NullConnectionPool(ConnectionPool[CT], psycopg_pool.NullConnectionPool[CT]):
    """A psycopg_pool null pool: it keeps no connections, it only limits their number.

    Use it where something else keeps the connections, such as PgBouncer. It takes the arguments of
    `azpg.ConnectionPool`; `min_size` is 0, and `max_size` is unlimited by default.

    >>> with azpg.create_pool(server="myserver", pool_class=azpg.NullConnectionPool) as pool:
    ...     with pool.connection() as conn:
    ...         conn.execute("select 1").fetchone()
    (1,)
    """

    __module__ = "azpg"

    _MIN_SIZE = 0


class AsyncConnectionPool(BasePool, psycopg_pool.AsyncConnectionPool[ACT]):
    """An async psycopg_pool connection pool that acquires a valid token for each new connection.

    It takes the arguments of `psycopg_pool.AsyncConnectionPool`. `getconn()`, `wait()` and
    `open(wait=True)` raise the error that prevents the pool from connecting; a connection that the
    server has closed is replaced, not handed out. `azpg.create_pool_async` takes the arguments of
    `azpg.connect_async` directly and waits for the connections.

    Args:
        conninfo: Connection string of libpq, or an async function that returns one before each new
            connection.
        connection_class: `azpg.AsyncConnection` or a subclass of it.
        kwargs: Arguments of `azpg.connect_async`, such as `server` and `dbname`, as a dict, or an
            async function that returns one before each new connection.
        min_size: Connections that the pool keeps. Default: 4.
        max_size: Maximum number of connections. Default: `min_size`.
        open: Whether the constructor opens the pool, without waiting for connections. Pass False
            and use `async with pool` or `pool.open()`; the default is psycopg_pool's.
        configure: Async function called with each new connection.
        check: Async function called with a connection before the pool hands it out; to discard the
            connection it raises. Without it azpg still checks whether the server has closed the
            connection.
        reset: Async function called with each connection that is returned to the pool.
        name: Name of the pool in logs and threads.
        close_returns: Whether `conn.close()` returns the connection to the pool.
        timeout: Seconds that a client waits for a connection.
        max_waiting: Maximum number of clients that wait at a time; 0 for unlimited.
        max_lifetime: Seconds after which a connection is replaced. It may outlive its token: the
            server checks a token only when a client connects.
        max_idle: Seconds after which an unused connection above `min_size` is closed.
        reconnect_timeout: Seconds that the pool retries one connection before it calls
            `reconnect_failed`.
        reconnect_failed: Async function called with the pool if it cannot connect for
            `reconnect_timeout` seconds.
        num_workers: Number of tasks that make and close connections.

    Raises:
        ConfigError: `connection_class` is not an async connection class of azpg.

    >>> kwargs = {"server": "myserver", "dbname": "mydb"}
    >>> async with azpg.AsyncConnectionPool(kwargs=kwargs, open=False) as pool:
    ...     async with pool.connection() as conn:
    ...         await (await conn.execute("select 1")).fetchone()
    (1,)
    """

    __module__ = "azpg"

    _is_async = True
    _awaits_connections = False
    """Set by `create_pool_async`: `await` and `async with` wait for `min_size` connections."""

    def __init__(
        self,
        conninfo: AsyncConninfoParam = "",
        *,
        connection_class: type[ACT] = cast("type[ACT]", AsyncConnection),  # noqa: B008
        kwargs: AsyncKwargsParam | None = None,
        min_size: int | None = None,
        max_size: int | None = None,
        open: bool | None = None,  # noqa: A002  # psycopg_pool's name
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
        # Tracebacks show this frame
        conninfo, kwargs = hide_conninfo(conninfo), hide_kwargs(kwargs)
        check_connection_class(connection_class, is_async=True)
        super().__init__(
            conninfo,
            connection_class=connection_class,
            kwargs=kwargs,
            min_size=min_size,
            max_size=max_size,
            open=open,
            configure=wrap_configure_async(configure),
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
        await self._open_if_awaited()
        return await super().__aenter__()

    def __await__(self) -> Generator[Any, None, Self]:
        return self._open_if_awaited().__await__()

    async def _open_if_awaited(self) -> Self:
        if self._awaits_connections:
            try:
                await self.open(wait=True, timeout=self.timeout)
            except BaseException:
                await self.close()  # if this is canceled, the caller never gets the pool
                raise
        return self

    def _open(self) -> None:
        loop_class = type(asyncio.get_running_loop())
        if sys.platform == "win32" and (problem := event_loop_error(loop_class)):
            raise ConfigError(problem)
        super()._open()

    async def wait(self, timeout: float = 30.0) -> None:  # noqa: ASYNC109  # psycopg_pool's name
        """Wait for `min_size` connections.

        If it raises and the pool has never connected, the pool is closed.

        Args:
            timeout: Seconds to wait.

        Raises:
            ConfigError: The arguments of the connections are invalid; it lists every problem.
            ConnectError: A permanent failure, raised at once, as one of its subclasses, such as
                `LoginError`; or the time is over after a failed connection, its `__cause__`. It
                is a `psycopg_pool.PoolTimeout` too.
            psycopg_pool.PoolTimeout: The time is over.
        """
        error: psycopg.Error | None
        if self._history.successes and (delay := self._remaining_cooldown()):
            await asyncio.sleep(max(0.0, min(delay, timeout)))
            timeout = max(0.0, timeout - delay)
        async with self._lock:
            self._retry_now()
        try:
            await super().wait(timeout)
            error = self._error_of_wait(None)
        except PoolTimeout as ex:
            error = self._error_of_wait(ex)
        if error is not None:
            if not self._history.successes:
                await self.close()
            raise error

    async def getconn(self, timeout: float | None = None) -> ACT:  # noqa: ASYNC109
        """Return a connection that the server has not closed, as far as its socket shows.

        Args:
            timeout: Seconds to wait for a connection. Default: the pool's `timeout`.

        Raises:
            ConfigError: The arguments of the connections are invalid; it lists every problem.
            ConnectError: A permanent failure, if the pool has no open connection: raised at once,
                or within `timeout` if the pool failed less than a second ago. Or the time is over
                after a failed connection, its `__cause__`. It is a `psycopg_pool.PoolTimeout` too.
            psycopg_pool.PoolTimeout: The time is over, and all connections are in use.
        """
        error: psycopg.Error | None
        if delay := self._remaining_cooldown():
            timeout = self.timeout if timeout is None else timeout
            await asyncio.sleep(max(0.0, min(delay, timeout)))
            timeout = max(0.0, timeout - delay)
        try:
            return await super().getconn(timeout)
        except PoolTimeout as ex:
            error = self._error_of_wait(ex) or ex
        except ConnectError as ex:
            error = pool_error(ex)
        raise error

    async def _connect(self, timeout: float | None = None) -> ACT:  # noqa: ASYNC109
        changes_before = self._history.changes
        try:
            conn = await super()._connect(timeout)
        except Exception as ex:
            self._history.record_failure(ex, changes_before)
            raise
        self._register(conn)
        return conn

    async def _add_connection(
        self, attempt: AttemptWithBackoff | None, growing: bool = False
    ) -> None:
        try:
            await super()._add_connection(self._attempt(attempt), growing)
        finally:  # reconnect_failed may raise
            async with self._lock:
                failed = self._fail_waiting()
            for client, error in failed:
                await client.fail(error)

    async def reconnect_failed(self) -> None:
        """Call the pool's `reconnect_failed`; what it changes in the arguments is tried at once."""
        if not self._reconnect_failed:
            return
        before = self._connect_arguments()
        self._running_callbacks += 1
        try:
            await super().reconnect_failed()
        finally:
            self._running_callbacks -= 1
            self._retry_changed_arguments(before)

    async def _get_ready_connection(self, timeout: float | None) -> ACT | None:  # noqa: ASYNC109
        if not self._pool or self._nconns < self._min_size:
            self._grow_to_min_size(timeout)
        while (conn := await super()._get_ready_connection(timeout)) is not None and not is_alive(
            conn
        ):
            lost = [other for other in self._pool if not is_alive(other)]
            for other in lost:
                self._pool.remove(other)
            for closed in (conn, *lost):
                self._stats[self._CONNECTIONS_LOST] += 1
                await self._close_connection(closed)
                self.run_task(AsyncAddConnection(self))
        return conn

    # As in ConnectionPool

    async def _resolve_conninfo(self) -> Any:
        return hide_secret("conninfo", await super()._resolve_conninfo())

    async def _resolve_kwargs(self) -> dict[str, Any]:
        return hide_secrets(disable_retry(await super()._resolve_kwargs()))


class AsyncNullConnectionPool(AsyncConnectionPool[ACT], psycopg_pool.AsyncNullConnectionPool[ACT]):
    """A psycopg_pool async null pool: it keeps no connections, it only limits their number.

    Use it where something else keeps the connections, such as PgBouncer. It takes the arguments of
    `azpg.AsyncConnectionPool`; `min_size` is 0, and `max_size` is unlimited by default.

    >>> async with azpg.create_pool_async(
    ...     server="myserver", pool_class=azpg.AsyncNullConnectionPool
    ... ) as pool:
    ...     async with pool.connection() as conn:
    ...         await (await conn.execute("select 1")).fetchone()
    (1,)
    """

    __module__ = "azpg"

    _MIN_SIZE = 0
