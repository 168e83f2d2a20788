"""The pool classes: psycopg_pool's own, that say why they could not connect, and look first."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, cast

import psycopg
import psycopg_pool
from psycopg_pool import PoolTimeout
from psycopg_pool.pool import AddConnection
from psycopg_pool.pool_async import AddConnection as AsyncAddConnection

from azpg._connect import event_loop_error
from azpg._conninfo.options import hide_secret, hide_secrets
from azpg.connection import AsyncConnection, Connection
from azpg.errors import ConfigError

from ._base import BasePool
from ._liveness import alive
from ._options import (
    check_connection_class,
    guarded,
    guarded_async,
    hide_conninfo,
    hide_kwargs,
    without_retry,
)

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

    CT = TypeVar("CT", bound=psycopg.Connection[Any], default=Connection[TupleRow])
    ACT = TypeVar("ACT", bound=psycopg.AsyncConnection[Any], default=AsyncConnection[TupleRow])
else:
    from psycopg_pool.abc import ACT, CT


class ConnectionPool(BasePool, psycopg_pool.ConnectionPool[CT]):
    """A psycopg_pool pool of azpg's connections: each new one signs in freshly.

    It takes what its parent takes, in the same way. `getconn()`, `wait()` and `open(wait=True)`
    raise what keeps the connections from being made, and no connection is handed out that the
    server has closed.
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
        conninfo, kwargs = hide_conninfo(conninfo), hide_kwargs(kwargs)  # an error shows this frame
        check_connection_class(connection_class, is_async=False)
        super().__init__(
            conninfo,
            connection_class=connection_class,
            kwargs=kwargs,
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
        """Wait at most `timeout` seconds for `min_size` connections, or raise the cause.

        Raise at once what no further try can mend (`ConfigError`, `LoginError`, `TLSError`, ...),
        and psycopg_pool's `PoolTimeout`, with the last failure as its cause, for the rest. Either
        closes a pool that has never connected.
        """
        error: psycopg.Error | None
        with self._lock:
            self._try_again()
        try:
            super().wait(timeout)
            error = self._hopeless()
        except PoolTimeout as ex:
            error = self._causes.explained(ex)
        if error is not None:
            if not self._causes.successes:
                self.close()
            raise error

    def getconn(self, timeout: float | None = None) -> CT:
        """Return a connection, after at most `timeout` seconds: a live one, as far as one can see.

        Raise at once what no further try can mend, where there is no connection to wait for, and
        psycopg_pool's `PoolTimeout`, with the last failure as its cause if there is one.
        """
        try:
            return super().getconn(timeout)
        except PoolTimeout as ex:
            error = self._causes.explained(ex)
        raise error

    def _connect(self, timeout: float | None = None) -> CT:
        since = self._causes.successes
        try:
            conn = super()._connect(timeout)
        except Exception as ex:
            self._causes.failed(ex, since)
            raise
        self._took(conn)
        return conn

    def _add_connection(self, attempt: AttemptWithBackoff | None, growing: bool = False) -> None:
        super()._add_connection(self._attempt(attempt), growing)
        with self._lock:
            told = self._give_up()
        for client, error in told:
            client.fail(error)

    def _get_ready_connection(self, timeout: float | None) -> CT | None:
        if not self._pool or self._nconns < self._min_size:
            self._grow_again()
        while (conn := super()._get_ready_connection(timeout)) is not None and not alive(conn):
            dead = [conn, *(other for other in self._pool if not alive(other))]
            for each in dead:
                self._stats[self._CONNECTIONS_LOST] += 1
                if each is not conn:
                    self._pool.remove(each)
                self._close_connection(each)
                self.run_task(AddConnection(self))
        return conn

    # What these return is in a frame of psycopg_pool's, which an error shows

    def _resolve_conninfo(self) -> Any:
        return hide_secret("conninfo", super()._resolve_conninfo())

    def _resolve_kwargs(self) -> dict[str, Any]:
        return hide_secrets(without_retry(super()._resolve_kwargs()))


class NullConnectionPool(ConnectionPool[CT], psycopg_pool.NullConnectionPool[CT]):
    """psycopg_pool's pool that keeps none: it only limits how many connections there are.

    For use behind PgBouncer, say, which keeps connections itself.
    """

    __module__ = "azpg"

    _MIN_SIZE = 0


class AsyncConnectionPool(BasePool, psycopg_pool.AsyncConnectionPool[ACT]):
    """A psycopg_pool pool of azpg's async connections: each new one signs in freshly.

    It takes what its parent takes, in the same way. `getconn()`, `wait()` and `open(wait=True)`
    raise what keeps the connections from being made, and no connection is handed out that the
    server has closed.
    """

    __module__ = "azpg"

    _is_async = True
    _awaits_connections = False
    """made by `create_pool_async`: `await` and `async with` wait until it is full"""

    def __init__(
        self,
        conninfo: AsyncConninfoParam = "",
        *,
        connection_class: type[ACT] = cast("type[ACT]", AsyncConnection),  # noqa: B008
        kwargs: AsyncKwargsParam | None = None,
        min_size: int | None = None,
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
        conninfo, kwargs = hide_conninfo(conninfo), hide_kwargs(kwargs)  # an error shows this frame
        check_connection_class(connection_class, is_async=True)
        super().__init__(
            conninfo,
            connection_class=connection_class,
            kwargs=kwargs,
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

    def _open(self) -> None:
        loop_class = type(asyncio.get_running_loop())
        if sys.platform == "win32" and (problem := event_loop_error(loop_class)):
            raise ConfigError(problem)
        super()._open()

    async def wait(self, timeout: float = 30.0) -> None:  # noqa: ASYNC109  # the parent's name
        """Wait at most `timeout` seconds for `min_size` connections, or raise the cause.

        Raise at once what no further try can mend (`ConfigError`, `LoginError`, `TLSError`, ...),
        and psycopg_pool's `PoolTimeout`, with the last failure as its cause, for the rest. Either
        closes a pool that has never connected.
        """
        error: psycopg.Error | None
        async with self._lock:
            self._try_again()
        try:
            await super().wait(timeout)
            error = self._hopeless()
        except PoolTimeout as ex:
            error = self._causes.explained(ex)
        if error is not None:
            if not self._causes.successes:
                await self.close()
            raise error

    async def getconn(self, timeout: float | None = None) -> ACT:  # noqa: ASYNC109
        """Return a connection, after at most `timeout` seconds: a live one, as far as one can see.

        Raise at once what no further try can mend, where there is no connection to wait for, and
        psycopg_pool's `PoolTimeout`, with the last failure as its cause if there is one.
        """
        try:
            return await super().getconn(timeout)
        except PoolTimeout as ex:
            error = self._causes.explained(ex)
        raise error

    async def _connect(self, timeout: float | None = None) -> ACT:  # noqa: ASYNC109
        since = self._causes.successes
        try:
            conn = await super()._connect(timeout)
        except Exception as ex:
            self._causes.failed(ex, since)
            raise
        self._took(conn)
        return conn

    async def _add_connection(
        self, attempt: AttemptWithBackoff | None, growing: bool = False
    ) -> None:
        await super()._add_connection(self._attempt(attempt), growing)
        async with self._lock:
            told = self._give_up()
        for client, error in told:
            await client.fail(error)

    async def _get_ready_connection(self, timeout: float | None) -> ACT | None:  # noqa: ASYNC109
        if not self._pool or self._nconns < self._min_size:
            self._grow_again()
        while (conn := await super()._get_ready_connection(timeout)) is not None and not alive(
            conn
        ):
            dead = [conn, *(other for other in self._pool if not alive(other))]
            for each in dead:
                self._stats[self._CONNECTIONS_LOST] += 1
                if each is not conn:
                    self._pool.remove(each)
                await self._close_connection(each)
                self.run_task(AsyncAddConnection(self))
        return conn

    # As above

    async def _resolve_conninfo(self) -> Any:
        return hide_secret("conninfo", await super()._resolve_conninfo())

    async def _resolve_kwargs(self) -> dict[str, Any]:
        return hide_secrets(without_retry(await super()._resolve_kwargs()))


class AsyncNullConnectionPool(AsyncConnectionPool[ACT], psycopg_pool.AsyncNullConnectionPool[ACT]):
    """psycopg_pool's async pool that keeps none: it only limits how many connections there are.

    For use behind PgBouncer, say, which keeps connections itself.
    """

    __module__ = "azpg"

    _MIN_SIZE = 0
