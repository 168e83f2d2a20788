"""The pool classes: psycopg_pool's, with fail-fast, causes for timeouts and a liveness check."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import TYPE_CHECKING, Any, cast

import psycopg
import psycopg_pool
from psycopg import waiting
from psycopg.pq import TransactionStatus
from psycopg_pool import PoolClosed, PoolTimeout
from psycopg_pool._acompat import agather
from psycopg_pool.pool import AddConnection, ReturnConnection, WaitingClient
from psycopg_pool.pool_async import AddConnection as AsyncAddConnection
from psycopg_pool.pool_async import ReturnConnection as AsyncReturnConnection
from psycopg_pool.pool_async import StopWorker

from azpg import _deadline
from azpg._connect import check_event_loop, running_loop
from azpg._conninfo.options import hide_secret, hide_secrets
from azpg.connection import AsyncConnection, Connection
from azpg.errors import ConfigError, ConnectError

from ._arguments import (
    check_callbacks,
    check_connection_class,
    hide_conninfo,
    hide_kwargs,
    wrap_configure,
    wrap_configure_async,
)
from ._base import CLOSE_TIMEOUT_SECONDS, BasePool, record_checkout
from ._errors import pool_error
from ._round_trip import round_trip

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator
    from types import TracebackType
    from typing import Self

    from psycopg.rows import TupleRow
    from psycopg_pool._acompat import AQueue, AWorker, Worker
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
    from psycopg_pool.pool import MaintenanceTask
    from psycopg_pool.pool_async import MaintenanceTask as AsyncMaintenanceTask
    from typing_extensions import TypeVar

    CT = TypeVar("CT", bound=psycopg.Connection[Any], default=psycopg.Connection[TupleRow])
    ACT = TypeVar(
        "ACT", bound=psycopg.AsyncConnection[Any], default=psycopg.AsyncConnection[TupleRow]
    )
else:
    from psycopg_pool.abc import ACT, CT

logger = logging.getLogger("psycopg.pool")


class Return(ReturnConnection):
    """Return a connection to its pool; close it if the pool is closed meanwhile."""

    def run(self) -> None:
        """Run the task in a worker."""
        super().run()
        if (pool := self.pool()) is None or pool.closed:
            self.conn.pgconn.finish()


class AsyncReturn(AsyncReturnConnection):
    """The same for an async pool."""

    async def run(self) -> None:
        """Run the task in a worker."""
        await super().run()
        if (pool := self.pool()) is None or pool.closed:
            self.conn.pgconn.finish()


def join(threads: list[Worker], timeout: float) -> None:
    """Wait for threads, for `timeout` seconds in all."""
    end = time.monotonic() + timeout
    for thread in threads:
        if thread is threading.current_thread():  # reconnect_failed may close the pool
            continue
        thread.join(max(0.0, end - time.monotonic()))
        if thread.is_alive():
            logger.warning("couldn't stop thread %r within %s seconds", thread.name, timeout)


def is_canceled() -> bool:
    """Return whether the running task is being canceled, not only something that it awaits."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def wait_for_event(event: asyncio.Event, timeout: float) -> bool:  # noqa: ASYNC109
    """Wait for an event; return False if the time is over."""
    try:
        await asyncio.wait_for(event.wait(), timeout)
    except TimeoutError:
        return False
    return True


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
        check_callbacks(
            is_async=False,
            conninfo=conninfo,
            kwargs=kwargs,
            check=check,
            configure=configure,
            reset=reset,
            reconnect_failed=reconnect_failed,
        )
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
                `LoginError`; or the time is over and the pool cannot connect; a failed connection
                is its `__cause__`. It is a `psycopg_pool.PoolTimeout` too.
            psycopg_pool.PoolTimeout: The time is over, and all connections are in use.
        """
        error: psycopg.Error | None
        if self._history.successes and (delay := self._remaining_cooldown()):
            time.sleep(max(0.0, min(delay, timeout)))
            timeout = max(0.0, timeout - delay)
        self._check_open_getconn()
        with self._lock:
            self._retry_now()
            if len(self._pool) >= self._min_size:
                return
            event = self._join_full_waiters(threading.Event)
        logger.info("waiting for pool %r initialization", self.name)
        try:
            is_full = event.wait(timeout)
        finally:
            with self._lock:
                self._leave_full_waiters()
        if self._closed:
            raise PoolClosed(f"the pool {self.name!r} is closed")
        error = self._error_of_wait(None if is_full else self._timed_out(timeout))
        if error is None:
            logger.info("pool %r is ready to use", self.name)
            return
        if not is_full or not self._history.successes:
            self.close(CLOSE_TIMEOUT_SECONDS)
        raise error

    def open(self, wait: bool = False, timeout: float = 30.0) -> None:
        """Open the pool.

        Args:
            wait: Whether to wait for `min_size` connections, as `wait()` does.
            timeout: Seconds to wait.
        """
        self._opens_and_waits = wait
        try:
            super().open(wait, timeout)
        finally:
            self._opens_and_waits = False

    def close(self, timeout: float = 5.0) -> None:
        """Close the pool: clients that wait raise `PoolClosed`.

        Connections that are being made end at once. Connections in use work until they are
        returned.

        Args:
            timeout: Seconds to wait in all for the threads of the pool, which may be in a callback
                of yours.
        """
        if self._closed:
            return
        super().close(0)
        if (event := self._pool_full_event) is not None:
            event.set()
        join(self._joining, timeout)
        self._joining = []

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close(CLOSE_TIMEOUT_SECONDS)

    def _signal_stop_worker(self) -> list[Worker]:
        # psycopg_pool waits for each of them in turn before it tells the waiting clients
        self._joining = super()._signal_stop_worker()
        return []

    def run_task(self, task: MaintenanceTask) -> None:
        """Run a maintenance task in a worker.

        Args:
            task: The task.
        """
        if type(task) is ReturnConnection:
            task = Return(self, task.conn, task.from_getconn)
        super().run_task(task)

    def getconn(self, timeout: float | None = None) -> CT:
        """Return a connection that the server has not closed, as far as its socket shows.

        Args:
            timeout: Seconds to wait for a connection. Default: the pool's `timeout`.

        Raises:
            ConfigError: The arguments of the connections are invalid; it lists every problem.
            ConnectError: A permanent failure, if the pool has no open connection: raised at once,
                or within `timeout` if the pool failed less than a second ago. Or the time is over
                and the pool cannot connect; a failed connection is its `__cause__`. It is a
                `psycopg_pool.PoolTimeout` too.
            psycopg_pool.PoolTimeout: The time is over, and all connections are in use.
        """
        error: psycopg.Error | None
        if delay := self._remaining_cooldown():
            timeout = self.timeout if timeout is None else timeout
            time.sleep(max(0.0, min(delay, timeout)))
            timeout = max(0.0, timeout - delay)
        try:
            conn = super().getconn(timeout)
        except PoolTimeout as ex:
            error = self._error_of_wait(ex) or ex
        except ConnectError as ex:
            error = pool_error(ex)
        else:
            record_checkout(conn)
            return conn
        raise error

    def _getconn_unchecked(self, timeout: float) -> CT:
        """Do what psycopg_pool's does, also if the wait is interrupted.

        Ctrl-C and a timeout of gevent are not an `Exception`: psycopg_pool would leave the client
        in its queue, and give it a connection later.
        """
        client: WaitingClient[CT] | None = None
        started = time.monotonic()
        try:
            with self._lock:
                if (conn := self._get_ready_connection(timeout)) is None:
                    client = WaitingClient()
                    self._waiting.append(client)
                    self._stats[self._REQUESTS_QUEUED] += 1
                    self._maybe_grow_pool()
            if client is not None:
                conn = client.wait(timeout)
        except BaseException as ex:
            if client is not None:
                self._stats[self._REQUESTS_ERRORS] += 1
                if not client.fail(cast("Exception", ex)) and client.conn:
                    self.run_task(ReturnConnection(self, client.conn, from_getconn=True))
            raise
        finally:
            if client is not None:
                waited = time.monotonic() - started
                self._stats[self._REQUESTS_WAIT_MS] += int(1000.0 * waited)
        found = cast("CT", conn)
        found._pool = self  # noqa: SLF001  # as psycopg_pool does
        return found

    def _reset_connection(self, conn: CT) -> None:
        try:
            super()._reset_connection(conn)
        except BaseException:  # psycopg_pool's own handles an Exception
            conn.pgconn.finish()
            raise

    def _return_connection(self, conn: CT, from_getconn: bool) -> None:
        try:
            super()._return_connection(conn, from_getconn)
        except BaseException:  # Ctrl-C during the rollback
            if conn.closed:
                self.run_task(AddConnection(self))
            raise

    def _connect(self, timeout: float | None = None) -> CT:
        changes_before = self._history.changes
        deadline = self._stop_deadline()
        token = _deadline.CURRENT.set(deadline)
        try:
            conn = super()._connect(timeout)
            if self._suspect:
                self._check_new(conn)
        except Exception as ex:
            self._record_failure(ex, changes_before, deadline)
            raise
        finally:
            _deadline.CURRENT.reset(token)
        self._register(conn)
        self._watch_read_only(conn)
        return conn

    def _check_new(self, conn: CT) -> None:
        """Check a new connection by a round trip: PgBouncer accepts it while its server is down."""
        try:
            steps = round_trip(conn.pgconn, self._stop_deadline())
            waiting.wait(steps, conn.pgconn.socket, _deadline.STOP_CHECK_SECONDS)
        except BaseException as error:
            conn.pgconn.finish()
            if isinstance(error, psycopg.Error):
                raise self._failed_check(error) from None
            raise
        self._suspect = False

    def _add_connection(self, attempt: AttemptWithBackoff | None, growing: bool = False) -> None:
        try:
            self._try_to_add(self._attempt(attempt), growing=growing)
        finally:  # reconnect_failed may raise
            with self._lock:
                failed = self._fail_waiting()
            for client, error in failed:
                client.fail(error)

    def _try_to_add(self, attempt: AttemptWithBackoff, *, growing: bool) -> None:
        """Do what psycopg_pool's `_add_connection` does, and log only what is true and new."""
        with self._lock:
            if self._drop_surplus():
                self._growing = self._growing and not growing
                return
        started = time.monotonic()
        try:
            conn = self._connect()
        except _deadline.Stopped:
            return
        except Exception as ex:  # noqa: BLE001  # the caller's callbacks may raise any
            if self._is_retried(ex, attempt, started):
                self.schedule_task(AddConnection(self, attempt, growing=growing), attempt.delay)
                return
            with self._lock:
                self._nconns -= 1
                self._growing = self._growing and not growing
            self.reconnect_failed()
            return
        logger.info("adding new connection to the pool")
        self._add_to_pool(conn)
        if growing:
            with self._lock:
                self._go_on_growing()

    def _add_to_pool(self, conn: CT) -> None:
        is_surplus = False
        if self._nconns > self._max_size:
            with self._lock:
                is_surplus = self._drop_surplus()
        if is_surplus:
            self._close_connection(conn)
        else:
            super()._add_to_pool(conn)

    def resize(self, min_size: int, max_size: int | None = None) -> None:
        """Change the size of the pool.

        Idle connections above `max_size` are closed at once, others when they are returned.

        Args:
            min_size: Connections that the pool keeps.
            max_size: Maximum number of connections. Default: `min_size`.
        """
        min_size, max_size = self._check_size(min_size, max_size)
        logger.info("resizing %r to min_size=%s max_size=%s", self.name, min_size, max_size)
        with self._lock:
            missing, closing = self._set_sizes(min_size, max_size)
        for conn in closing:
            self._close_connection(conn)
        for _ in range(missing):
            self.run_task(AddConnection(self))

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
        while (conn := super()._get_ready_connection(timeout)) is not None and not self._is_usable(
            conn
        ):
            lost = [other for other in self._pool if not self._is_usable(other)]
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
        return hide_secrets(self._limit_retries(super()._resolve_kwargs()))


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
        check_callbacks(
            is_async=True,
            conninfo=conninfo,
            kwargs=kwargs,
            check=check,
            configure=configure,
            reset=reset,
            reconnect_failed=reconnect_failed,
        )
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
        self._unfinished: set[asyncio.Task[None]] = set()
        self._own_loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        await self._open_if_awaited()
        return await super().__aenter__()

    def __await__(self) -> Generator[Any, None, Self]:
        return self._open_if_awaited().__await__()

    async def _open_if_awaited(self) -> Self:
        running_loop()
        if self._awaits_connections:
            try:
                await self.open(wait=True, timeout=self.timeout)
            except BaseException:
                await self.close()  # if this is canceled, the caller never gets the pool
                raise
        return self

    def _open(self) -> None:
        check_event_loop()
        if self._closed:
            self._own_loop = asyncio.get_running_loop()
        super()._open()

    # The pool's workers run on the event loop that opened it. An idle connection works on any.

    def _is_foreign(self) -> bool:
        """Return whether another event loop than the pool's runs."""
        own = self._own_loop
        return own is not None and own is not asyncio.get_running_loop()

    def _check_own_loop(self) -> None:
        """Raise `ConfigError` if a client would wait for workers on another event loop."""
        if self._is_foreign():
            loop = cast("asyncio.AbstractEventLoop", self._own_loop)
            state = "is closed" if loop.is_closed() else "is another one than this"
            raise ConfigError(
                f"the pool {self.name!r} has no idle connection, and the event loop that opened it "
                f"{state}: open a pool in each event loop, or run all in one asyncio.run(main())"
            )

    async def _close_from_other_loop(self, timeout: float) -> None:  # noqa: ASYNC109
        own = cast("asyncio.AbstractEventLoop", self._own_loop)
        if own.is_running():
            closing = asyncio.run_coroutine_threadsafe(self.close(timeout), own)
            await asyncio.wrap_future(closing)
            return
        # Its workers never run again
        self._closed = True
        self._waiting.clear()
        while self._pool:
            await self._close_connection(self._pool.popleft())

    def _give_up_task(self, task: AsyncMaintenanceTask) -> None:
        """Free what a task would have replaced or returned: no worker runs it."""
        if isinstance(task, AsyncReturnConnection):
            task.conn.pgconn.finish()
        if isinstance(task, AsyncReturnConnection | AsyncAddConnection):
            self._nconns -= 1

    async def wait(self, timeout: float = 30.0) -> None:  # noqa: ASYNC109  # psycopg_pool's name
        """Wait for `min_size` connections.

        If it raises and the pool has never connected, the pool is closed.

        Args:
            timeout: Seconds to wait.

        Raises:
            ConfigError: The arguments of the connections are invalid; it lists every problem.
            ConnectError: A permanent failure, raised at once, as one of its subclasses, such as
                `LoginError`; or the time is over and the pool cannot connect; a failed connection
                is its `__cause__`. It is a `psycopg_pool.PoolTimeout` too.
            psycopg_pool.PoolTimeout: The time is over, and all connections are in use.
        """
        error: psycopg.Error | None
        if self._history.successes and (delay := self._remaining_cooldown()):
            await asyncio.sleep(max(0.0, min(delay, timeout)))
            timeout = max(0.0, timeout - delay)
        self._check_open_getconn()
        async with self._lock:
            self._retry_now()
            if len(self._pool) >= self._min_size:
                return
            self._check_own_loop()
            event = self._join_full_waiters(asyncio.Event)
        logger.info("waiting for pool %r initialization", self.name)
        try:
            is_full = await wait_for_event(event, timeout)
        finally:
            self._leave_full_waiters()
        if self._closed:
            raise PoolClosed(f"the pool {self.name!r} is closed")
        error = self._error_of_wait(None if is_full else self._timed_out(timeout))
        if error is None:
            logger.info("pool %r is ready to use", self.name)
            return
        if not is_full or not self._history.successes:
            await self.close(CLOSE_TIMEOUT_SECONDS)
        raise error

    async def open(self, wait: bool = False, timeout: float = 30.0) -> None:  # noqa: ASYNC109
        """Open the pool.

        Args:
            wait: Whether to wait for `min_size` connections, as `wait()` does.
            timeout: Seconds to wait.
        """
        self._opens_and_waits = wait
        try:
            await super().open(wait, timeout)
        finally:
            self._opens_and_waits = False

    async def close(self, timeout: float = 5.0) -> None:  # noqa: ASYNC109
        """Close the pool: clients that wait raise `PoolClosed`.

        Connections that are being made end at once. Connections in use work until they are
        returned.

        Args:
            timeout: Seconds to wait in all for the tasks of the pool, which may be in a callback
                of yours.
        """
        if self._closed:
            return
        if self._is_foreign():
            await self._close_from_other_loop(timeout)
            return
        await super().close(0)
        if (event := self._pool_full_event) is not None:
            event.set()
        await agather(*self._joining, timeout=timeout)
        self._joining = []

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.close(CLOSE_TIMEOUT_SECONDS)

    async def _signal_stop_worker(self) -> list[AWorker]:
        # psycopg_pool waits for each of them in turn before it tells the waiting clients
        self._joining = await super()._signal_stop_worker()
        return []

    def run_task(self, task: AsyncMaintenanceTask) -> None:
        """Run a maintenance task in a worker.

        Args:
            task: The task.
        """
        if type(task) is AsyncReturnConnection:
            task = AsyncReturn(self, task.conn, task.from_getconn)
        if not self._is_foreign():
            super().run_task(task)
        elif (own := cast("asyncio.AbstractEventLoop", self._own_loop)).is_closed():
            self._give_up_task(task)
        else:
            own.call_soon_threadsafe(super().run_task, task)

    async def getconn(self, timeout: float | None = None) -> ACT:  # noqa: ASYNC109
        """Return a connection that the server has not closed, as far as its socket shows.

        Args:
            timeout: Seconds to wait for a connection. Default: the pool's `timeout`.

        Raises:
            ConfigError: The arguments of the connections are invalid; it lists every problem.
            ConnectError: A permanent failure, if the pool has no open connection: raised at once,
                or within `timeout` if the pool failed less than a second ago. Or the time is over
                and the pool cannot connect; a failed connection is its `__cause__`. It is a
                `psycopg_pool.PoolTimeout` too.
            psycopg_pool.PoolTimeout: The time is over, and all connections are in use.
        """
        error: psycopg.Error | None
        if delay := self._remaining_cooldown():
            timeout = self.timeout if timeout is None else timeout
            await asyncio.sleep(max(0.0, min(delay, timeout)))
            timeout = max(0.0, timeout - delay)
        try:
            conn = await super().getconn(timeout)
        except PoolTimeout as ex:
            error = self._error_of_wait(ex) or ex
        except ConnectError as ex:
            error = pool_error(ex)
        else:
            record_checkout(conn)
            return conn
        raise error

    async def _putconn(self, conn: ACT, from_getconn: bool) -> None:
        if self._reset:
            await super()._putconn(conn, from_getconn)  # a worker does it
        elif self._return_at_once(conn):
            pass
        elif self._is_foreign():
            self.run_task(AsyncReturnConnection(self, conn, from_getconn))
        else:
            await self._finish(self._return_connection(conn, from_getconn), "return")

    def _return_at_once(self, conn: ACT) -> bool:
        """Put an idle connection back if that needs no wait, which could be canceled."""
        if (
            self._closed
            or self._nconns > self._max_size
            or self._waiting
            or self._pool_full_event is not None
            or self._lock.locked()
            or conn.pgconn.transaction_status != TransactionStatus.IDLE
            or self._is_expired(conn)
        ):
            return False
        conn._pool = None  # noqa: SLF001  # as psycopg_pool does
        self._pool.append(conn)
        return True

    async def _finish(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Return or check connections, also if the client is canceled meanwhile."""
        task = asyncio.create_task(work, name=f"{self.name}-{name}")
        self._unfinished.add(task)
        task.add_done_callback(self._unfinished.discard)
        await asyncio.shield(task)

    @classmethod
    async def worker(cls, q: AQueue[AsyncMaintenanceTask]) -> None:
        """Run the tasks in a queue.

        psycopg_pool's worker takes its cancellation for a failed task and continues, so that the
        event loop never ends.

        Args:
            q: The queue; a `StopWorker` in it ends the worker.
        """
        while not isinstance(task := await q.get(), StopWorker):
            try:
                await task.run()
            except (Exception, asyncio.CancelledError) as ex:  # noqa: BLE001  # must not end it
                if not is_canceled():
                    logger.warning("task run %s failed: %s: %s", task, type(ex).__name__, ex)
            if is_canceled():
                raise asyncio.CancelledError

    async def _connect(self, timeout: float | None = None) -> ACT:  # noqa: ASYNC109
        changes_before = self._history.changes
        deadline = self._stop_deadline()
        token = _deadline.CURRENT.set(deadline)
        try:
            conn = await super()._connect(timeout)
            if self._suspect:
                await self._check_new(conn)
        except Exception as ex:
            self._record_failure(ex, changes_before, deadline)
            raise
        finally:
            _deadline.CURRENT.reset(token)
        self._register(conn)
        self._watch_read_only(conn)
        return conn

    async def _check_new(self, conn: ACT) -> None:
        """Check a new connection by a round trip: PgBouncer accepts it while its server is down."""
        try:
            steps = round_trip(conn.pgconn, self._stop_deadline())
            await waiting.wait_async(steps, conn.pgconn.socket, _deadline.STOP_CHECK_SECONDS)
        except BaseException as error:
            conn.pgconn.finish()
            if isinstance(error, psycopg.Error):
                raise self._failed_check(error) from None
            raise
        self._suspect = False

    async def _add_connection(
        self, attempt: AttemptWithBackoff | None, growing: bool = False
    ) -> None:
        try:
            await self._try_to_add(self._attempt(attempt), growing=growing)
        finally:  # reconnect_failed may raise
            async with self._lock:
                failed = self._fail_waiting()
            for client, error in failed:
                await client.fail(error)

    async def _try_to_add(self, attempt: AttemptWithBackoff, *, growing: bool) -> None:
        """Do what psycopg_pool's `_add_connection` does, and log only what is true and new."""
        async with self._lock:
            if self._drop_surplus():
                self._growing = self._growing and not growing
                return
        started = time.monotonic()
        try:
            conn = await self._connect()
        except _deadline.Stopped:
            return
        except (Exception, asyncio.CancelledError) as ex:
            if is_canceled():
                raise
            if self._is_retried(ex, attempt, started):
                task = AsyncAddConnection(self, attempt, growing=growing)
                await self.schedule_task(task, attempt.delay)
                return
            async with self._lock:
                self._nconns -= 1
                self._growing = self._growing and not growing
            await self.reconnect_failed()
            return
        logger.info("adding new connection to the pool")
        await self._add_to_pool(conn)
        if growing:
            async with self._lock:
                self._go_on_growing()

    async def _add_to_pool(self, conn: ACT) -> None:
        is_surplus = False
        if self._nconns > self._max_size:
            async with self._lock:
                is_surplus = self._drop_surplus()
        if is_surplus:
            await self._close_connection(conn)
        else:
            await super()._add_to_pool(conn)

    async def check(self) -> None:
        """Check all idle connections by a round trip, and replace those that do not work.

        It goes on in the background if the caller is canceled.
        """
        await self._finish(super().check(), "check")

    async def resize(self, min_size: int, max_size: int | None = None) -> None:
        """Change the size of the pool.

        Idle connections above `max_size` are closed at once, others when they are returned.

        Args:
            min_size: Connections that the pool keeps.
            max_size: Maximum number of connections. Default: `min_size`.
        """
        min_size, max_size = self._check_size(min_size, max_size)
        logger.info("resizing %r to min_size=%s max_size=%s", self.name, min_size, max_size)
        self._ensure_lock()
        async with self._lock:
            missing, closing = self._set_sizes(min_size, max_size)
        for conn in closing:
            await self._close_connection(conn)
        for _ in range(missing):
            self.run_task(AsyncAddConnection(self))

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
        while (
            conn := await super()._get_ready_connection(timeout)
        ) is not None and not self._is_usable(conn):
            lost = [other for other in self._pool if not self._is_usable(other)]
            for other in lost:
                self._pool.remove(other)
            for closed in (conn, *lost):
                self._stats[self._CONNECTIONS_LOST] += 1
                await self._close_connection(closed)
                self.run_task(AsyncAddConnection(self))
        if conn is None:
            self._check_own_loop()
        return conn

    # As in ConnectionPool

    async def _resolve_conninfo(self) -> Any:
        return hide_secret("conninfo", await super()._resolve_conninfo())

    async def _resolve_kwargs(self) -> dict[str, Any]:
        return hide_secrets(self._limit_retries(await super()._resolve_kwargs()))
