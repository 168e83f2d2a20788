"""The null pool classes: they keep no connections, and limit their number."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
import psycopg_pool
from psycopg.pq import TransactionStatus
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from azpg import _deadline, _fork, _retry
from azpg.errors import ConnectError

from ._base import BasePool, record_checkout
from ._errors import pool_error, timeout_error
from ._failures import copy_error, is_permanent
from ._pools import ACT, CT, AsyncConnectionPool, ConnectionPool
from ._slots import SLOT, Slot, Slots

if TYPE_CHECKING:
    from collections import deque

    from psycopg._connection_base import BaseConnection

    from ._slots import Client

logger = logging.getLogger("psycopg.pool")

MAX_DELAY_SECONDS = 1.0
"""The longest delay after a connection that failed the caller's `check` or `configure`."""


class Checkout(NamedTuple):
    """One client's wait for a connection."""

    started: float
    timeout: float

    @classmethod
    def start(cls, timeout: float) -> Checkout:
        """Return a checkout that begins now."""
        return cls(time.monotonic(), timeout)

    def left(self) -> float:
        """Return the seconds that are left."""
        return max(0.0, self.started + self.timeout - time.monotonic())

    def next_delay(self, failures: int, kind: str = "") -> float | None:
        """Return the seconds to wait before the client connects again, or None if time is over.

        Args:
            failures: Number of the client's failures before this one.
            kind: The error kind of this one.
        """
        backoff = _retry.Backoff(self.timeout, self.started, max_delay=MAX_DELAY_SECONDS)
        backoff.attempts = failures
        return backoff.next_delay(kind, time.monotonic(), random.uniform)

    def timed_out(self) -> PoolTimeout:
        """Return the error of a client that got no connection in time."""
        waited = min(self.timeout, time.monotonic() - self.started)
        return PoolTimeout(f"couldn't get a connection after {waited:.2f} sec")


class NullPool(BasePool):
    """What the sync and async null pools share: the slots, and what a failure means."""

    _MIN_SIZE = 0

    def _prepare(self) -> None:
        self._slots = Slots(0)
        self._failing_since: float | None = None

    # psycopg_pool's numbers and its queue are those of the slots

    @property
    def _max_size(self) -> int:
        return self._slots.size

    @_max_size.setter
    def _max_size(self, size: int) -> None:
        self._slots.resize(size)

    @property
    def _nconns(self) -> int:
        return self._slots.taken

    @_nconns.setter
    def _nconns(self, taken: int) -> None:
        self._slots.taken = taken

    @property
    def _waiting(self) -> Any:
        return self._slots.waiting

    @_waiting.setter
    def _waiting(self, waiting: deque[Client]) -> None:
        self._slots.waiting = waiting

    # Checkouts

    def _enter(self, checkout: Checkout, max_waiting: int) -> Client:
        """Take a slot or join the queue."""
        # No client connects during the cooldown after a permanent failure
        if self._history.cooling_down() and (error := self._permanent_failure()):
            self._stats[self._REQUESTS_ERRORS] += 1
            raise error
        if not checkout.left():
            raise checkout.timed_out()
        client = self._slots.enter(max_waiting)
        if client is None:
            self._stats[self._REQUESTS_ERRORS] += 1
            raise TooManyRequests(
                f"the pool {self.name!r} has already {len(self._waiting)} requests waiting"
            )
        if not client.done():
            self._stats[self._REQUESTS_QUEUED] += 1
        return client

    def _leave(self, client: Client, checkout: Checkout) -> Slot | BaseConnection[Any]:
        """Return what a client was given, or raise the error."""
        given = self._slots.leave(client)
        if given is None:
            raise checkout.timed_out()
        if isinstance(given, Exception):
            raise given
        return given

    def _record_wait(self, checkout: Checkout) -> None:
        waited = time.monotonic() - checkout.started
        self._stats[self._REQUESTS_WAIT_MS] += int(1000.0 * waited)

    def _limit_retries(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        single = super()._limit_retries(kwargs)
        deadline = _deadline.CURRENT.get()
        if deadline is None:
            return single
        # The connect itself retries until the client's deadline, if reconnect_failed is not due
        # before; otherwise the pool does
        left = max(0.0, deadline.at - time.monotonic())
        if left > self.reconnect_timeout:
            left = 0.0
        given = kwargs.get("retry_timeout")
        return kwargs | {"retry_timeout": left if given is None else min(given, left)}

    def _deadline_of(self, checkout: Checkout) -> _deadline.Deadline:
        seconds = checkout.timeout
        return _deadline.Deadline(
            checkout.started + seconds, seconds, f"timeout={seconds:g}", lambda: self._closed
        )

    def _raise_if_closed(self) -> None:
        if self._closed:
            raise PoolClosed(f"the pool {self.name!r} is closed")

    def _is_reconnect_failed_due(self, failure: Exception, started: float) -> bool:
        """Note that a client could not connect; return whether to call `reconnect_failed`."""
        if isinstance(failure, _deadline.Stopped):
            return False
        if is_permanent(failure):
            return True
        if self._failing_since is None:
            self._failing_since = started
        if time.monotonic() - self._failing_since < self.reconnect_timeout:
            return False
        self._failing_since = math.inf  # once, until the pool has connected
        return True

    def _delay_after(self, failure: Exception, checkout: Checkout, failures: int) -> float:
        """Return the seconds to wait before a client connects again, or raise an error.

        Args:
            failure: What connecting failed with.
            checkout: The client's.
            failures: Number of the client's failures before this one.
        """
        self._raise_if_closed()
        if is_permanent(failure) and checkout.left():
            if not failures and not self._history.permanent():
                return 0.0  # reconnect_failed has changed the arguments
            if error := self._permanent_failure():
                self._slots.fail(lambda: copy_error(error))
            raise failure
        delay = checkout.next_delay(failures, getattr(failure, "kind", ""))
        if delay is None:
            raise timeout_error(checkout.timed_out(), failure)
        return delay

    def _delay_after_check(self, failure: Exception, checkout: Checkout, failures: int) -> float:
        """Do the same after the caller's check has raised."""
        delay = checkout.next_delay(failures)
        if delay is None:
            raise timeout_error(checkout.timed_out(), failure, "the last check failed: ")
        return delay

    def _error_of_checkout(self, error: psycopg.Error) -> psycopg.Error:
        if isinstance(error, PoolTimeout):
            return self._error_of_wait(error) or error
        return pool_error(error)

    # Returned connections

    def _is_reusable(self, conn: BaseConnection[Any]) -> bool:
        """Return whether the next client can have a connection that was returned and reset."""
        if conn.pgconn.transaction_status == TransactionStatus.UNKNOWN:
            self._stats[self._RETURNS_BAD] += 1
            logger.warning("discarding closed connection: %s", conn)
            return False
        if self._is_expired(conn) or self._is_outdated(conn):
            logger.info("discarding expired connection")
            return False
        return not self._closed

    def _record_return(self, conn: BaseConnection[Any]) -> None:
        if conn.pgconn.transaction_status == TransactionStatus.UNKNOWN:
            self._stats[self._RETURNS_BAD] += 1

    # The pool

    def _open(self) -> None:
        # There are no workers to start
        if not self._closed:
            return
        self._check_open()
        self._closed, self._opened = False, True
        _fork.OPEN_POOLS.add(self)

    def __del__(self) -> None:
        """There are no workers to stop."""

    def _close(self) -> None:
        """Fail the clients that wait; those that connect notice it themselves."""
        self._closed = True
        logger.debug("pool %r closed", self.name)
        self._slots.close(lambda: PoolClosed(f"the pool {self.name!r} is closed"))

    def _resize(self, min_size: int, max_size: int | None) -> None:
        min_size, max_size = self._check_size(min_size, max_size)
        logger.info("resizing %r to min_size=%s max_size=%s", self.name, min_size, max_size)
        self._min_size, self._max_size = min_size, max_size

    def close_after_fork(self) -> None:
        """Close the pool in a forked child: its connections are the parent's."""
        self._slots = Slots(self._max_size)
        super().close_after_fork()


class NullConnectionPool(NullPool, ConnectionPool[CT], psycopg_pool.NullConnectionPool[CT]):
    """A psycopg_pool null pool: it keeps no connections, it only limits their number.

    Use it where something else keeps the connections, such as PgBouncer. It takes the arguments of
    `azpg.ConnectionPool`; `min_size` is 0, and `max_size` is unlimited by default. It has no
    threads: each client connects itself, and retries transient failures until its timeout.

    >>> with azpg.create_pool(server="myserver", pool_class=azpg.NullConnectionPool) as pool:
    ...     with pool.connection() as conn:
    ...         conn.execute("select 1").fetchone()
    (1,)
    """

    __module__ = "azpg"

    def getconn(self, timeout: float | None = None) -> CT:
        """Return a new connection, or one that another client has just returned.

        Args:
            timeout: Seconds to wait for a connection. Default: the pool's `timeout`.

        Raises:
            ConfigError: The arguments of the connections are invalid; it lists every problem.
            ConnectError: A permanent failure, raised at once, or within `timeout` if the pool
                failed less than a second ago. Or the time is over and the pool cannot connect; a
                failed connection is its `__cause__`. It is a `psycopg_pool.PoolTimeout` too.
            psycopg_pool.PoolTimeout: The time is over, and all connections are in use.
        """
        logger.info("connection requested from %r", self.name)
        self._stats[self._REQUESTS_NUM] += 1
        self._check_open_getconn()
        checkout = Checkout.start(self.timeout if timeout is None else timeout)
        try:
            conn = self._checkout(checkout, self.max_waiting)
        except (PoolTimeout, ConnectError) as ex:
            error = self._error_of_checkout(ex)
        else:
            logger.info("connection given by %r", self.name)
            record_checkout(conn)
            return conn
        raise error

    def _checkout(self, checkout: Checkout, max_waiting: int) -> CT:
        if delay := self._remaining_cooldown():
            self._sleep(min(delay, checkout.left()))
        client = self._enter(checkout, max_waiting)
        given: Any = None
        try:
            if not client.done():
                with suppress(TimeoutError):
                    client.result(checkout.left())
                self._record_wait(checkout)
            given = self._leave(client, checkout)
            failures = 0
            while True:
                if given is SLOT:
                    given = self._connect_in_time(checkout)
                conn: CT = given
                if (failure := self._check_failure(conn)) is None:
                    break
                given = SLOT
                self._close_connection(conn)
                self._sleep(self._delay_after_check(failure, checkout, failures))
                failures += 1
        except BaseException:
            self._stats[self._REQUESTS_ERRORS] += 1
            # The client may have been given something at the moment when it stopped waiting
            self._take_back(self._slots.leave(client) if given is None else given)
            raise
        return conn

    def _connect_in_time(self, checkout: Checkout) -> CT:
        started, failures = time.monotonic(), 0
        while True:
            token = _deadline.CURRENT.set(self._deadline_of(checkout))
            try:
                conn = self._connect()
                break
            except Exception as failure:  # noqa: BLE001  # the caller's callbacks may raise any
                if self._is_reconnect_failed_due(failure, started):
                    self.reconnect_failed()
                delay = self._delay_after(failure, checkout, failures)
            finally:
                _deadline.CURRENT.reset(token)
            failures += 1
            self._sleep(delay)
        self._failing_since = None
        if self._closed:
            self._close_connection(conn)
            self._raise_if_closed()
        return conn

    def _sleep(self, seconds: float) -> None:
        token = _deadline.CURRENT.set(self._deadline_of(Checkout.start(seconds)))
        try:
            _deadline.sleep(seconds)
        except _deadline.Stopped:
            self._raise_if_closed()
        finally:
            _deadline.CURRENT.reset(token)

    def _check_failure(self, conn: CT) -> Exception | None:
        """Lend a connection to the caller's check; return what that raised."""
        conn._pool = self  # noqa: SLF001  # as psycopg_pool does
        try:
            self._check_connection(conn)
        except Exception as ex:  # noqa: BLE001  # the caller's own
            return ex
        return None

    def _take_back(self, given: Any) -> None:
        """Free the slot of a client that gets no connection."""
        if given is None or isinstance(given, Exception):
            return
        try:
            if given is not SLOT:
                self._close_connection(given)
        finally:
            self._slots.give(SLOT)

    def putconn(self, conn: CT) -> None:
        """Close a connection, or pass it on to a client that waits for one.

        Args:
            conn: A connection of this pool.
        """
        self._check_pool_putconn(conn)
        logger.info("returning connection to %r", self.name)
        if self._waiting and not self._closed:
            given: Any = SLOT
            try:
                self._reset_connection(conn)
                if self._is_reusable(conn):
                    given = conn
            finally:
                self._give(conn, given)
        else:
            self._record_return(conn)
            self._give(conn, SLOT)

    def _give(self, conn: CT, given: Any) -> None:
        conn._pool = None  # noqa: SLF001  # as psycopg_pool does
        try:
            if given is SLOT:
                self._close_connection(conn)
        finally:
            was_given = self._slots.give(given)
        if given is not SLOT and not was_given:
            self._close_connection(conn)

    def wait(self, timeout: float = 30.0) -> None:
        """Open a connection to test that the pool can connect, and close it.

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
        self._check_open_getconn()
        logger.info("waiting for pool %r initialization", self.name)
        try:
            self.putconn(self._checkout(Checkout.start(timeout), max_waiting=0))
        except psycopg.Error as ex:
            error = self._error_of_checkout(ex)
        else:
            logger.info("pool %r is ready to use", self.name)
            return
        if not self._history.successes:
            self.close()
        raise error

    def close(self, timeout: float = 5.0) -> None:  # noqa: ARG002  # psycopg_pool's name
        """Close the pool: clients that wait or connect raise `PoolClosed`.

        Connections in use work until they are returned.

        Args:
            timeout: Without effect, as there are no threads to wait for.
        """
        if not self._closed:
            self._close()

    def resize(self, min_size: int, max_size: int | None = None) -> None:
        """Change the maximum number of connections.

        Args:
            min_size: Must be 0.
            max_size: Maximum number of connections; 0 for unlimited.
        """
        self._resize(min_size, max_size)


class AsyncNullConnectionPool(
    NullPool, AsyncConnectionPool[ACT], psycopg_pool.AsyncNullConnectionPool[ACT]
):
    """A psycopg_pool async null pool: it keeps no connections, it only limits their number.

    Use it where something else keeps the connections, such as PgBouncer. It takes the arguments of
    `azpg.AsyncConnectionPool`; `min_size` is 0, and `max_size` is unlimited by default. It has no
    tasks: each client connects itself, and retries transient failures until its timeout. Any event
    loop may use it.

    >>> async with azpg.create_pool_async(
    ...     server="myserver", pool_class=azpg.AsyncNullConnectionPool
    ... ) as pool:
    ...     async with pool.connection() as conn:
    ...         await (await conn.execute("select 1")).fetchone()
    (1,)
    """

    __module__ = "azpg"

    async def getconn(self, timeout: float | None = None) -> ACT:  # noqa: ASYNC109
        """Return a new connection, or one that another client has just returned.

        Args:
            timeout: Seconds to wait for a connection. Default: the pool's `timeout`.

        Raises:
            ConfigError: The arguments of the connections are invalid; it lists every problem.
            ConnectError: A permanent failure, raised at once, or within `timeout` if the pool
                failed less than a second ago. Or the time is over and the pool cannot connect; a
                failed connection is its `__cause__`. It is a `psycopg_pool.PoolTimeout` too.
            psycopg_pool.PoolTimeout: The time is over, and all connections are in use.
        """
        logger.info("connection requested from %r", self.name)
        self._stats[self._REQUESTS_NUM] += 1
        self._check_open_getconn()
        checkout = Checkout.start(self.timeout if timeout is None else timeout)
        try:
            conn = await self._checkout(checkout, self.max_waiting)
        except (PoolTimeout, ConnectError) as ex:
            error = self._error_of_checkout(ex)
        else:
            logger.info("connection given by %r", self.name)
            record_checkout(conn)
            return conn
        raise error

    async def _checkout(self, checkout: Checkout, max_waiting: int) -> ACT:
        if delay := self._remaining_cooldown():
            await self._sleep(min(delay, checkout.left()))
        client = self._enter(checkout, max_waiting)
        given: Any = None
        try:
            if not client.done():
                # This does not cancel the future: _leave() ends the wait
                await asyncio.wait([asyncio.wrap_future(client)], timeout=checkout.left())
                self._record_wait(checkout)
            given = self._leave(client, checkout)
            failures = 0
            while True:
                if given is SLOT:
                    given = await self._connect_in_time(checkout)
                conn: ACT = given
                if (failure := await self._check_failure(conn)) is None:
                    break
                given = SLOT
                await self._close_connection(conn)
                await self._sleep(self._delay_after_check(failure, checkout, failures))
                failures += 1
        except BaseException:
            self._stats[self._REQUESTS_ERRORS] += 1
            # The client may have been given something at the moment when it stopped waiting
            await self._take_back(self._slots.leave(client) if given is None else given)
            raise
        return conn

    async def _connect_in_time(self, checkout: Checkout) -> ACT:
        started, failures = time.monotonic(), 0
        while True:
            token = _deadline.CURRENT.set(self._deadline_of(checkout))
            try:
                conn = await self._connect()
                break
            except Exception as failure:  # noqa: BLE001  # the caller's callbacks may raise any
                if self._is_reconnect_failed_due(failure, started):
                    await self.reconnect_failed()
                delay = self._delay_after(failure, checkout, failures)
            finally:
                _deadline.CURRENT.reset(token)
            failures += 1
            await self._sleep(delay)
        self._failing_since = None
        if self._closed:
            await self._close_connection(conn)
            self._raise_if_closed()
        return conn

    async def _sleep(self, seconds: float) -> None:
        token = _deadline.CURRENT.set(self._deadline_of(Checkout.start(seconds)))
        try:
            await _deadline.sleep_async(seconds)
        except _deadline.Stopped:
            self._raise_if_closed()
        finally:
            _deadline.CURRENT.reset(token)

    async def _check_failure(self, conn: ACT) -> Exception | None:
        """Lend a connection to the caller's check; return what that raised."""
        conn._pool = self  # noqa: SLF001  # as psycopg_pool does
        try:
            await self._check_connection(conn)
        except Exception as ex:  # noqa: BLE001  # the caller's own
            return ex
        return None

    async def _take_back(self, given: Any) -> None:
        """Free the slot of a client that gets no connection."""
        if given is None or isinstance(given, Exception):
            return
        try:
            if given is not SLOT:
                await self._close_connection(given)
        finally:
            self._slots.give(SLOT)

    async def putconn(self, conn: ACT) -> None:
        """Close a connection, or pass it on to a client that waits for one.

        Args:
            conn: A connection of this pool.
        """
        self._check_pool_putconn(conn)
        logger.info("returning connection to %r", self.name)
        if self._waiting and not self._closed:
            await self._finish(self._reset_and_give(conn), "return")
        else:
            self._record_return(conn)
            await self._give(conn, SLOT)

    async def _reset_and_give(self, conn: ACT) -> None:
        given: Any = SLOT
        try:
            await self._reset_connection(conn)
            if self._is_reusable(conn):
                given = conn
        finally:
            await self._give(conn, given)

    async def _give(self, conn: ACT, given: Any) -> None:
        conn._pool = None  # noqa: SLF001  # as psycopg_pool does
        try:
            if given is SLOT:
                await self._close_connection(conn)
        finally:
            was_given = self._slots.give(given)
        if given is not SLOT and not was_given:
            await self._close_connection(conn)

    async def wait(self, timeout: float = 30.0) -> None:  # noqa: ASYNC109  # psycopg_pool's name
        """Open a connection to test that the pool can connect, and close it.

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
        self._check_open_getconn()
        logger.info("waiting for pool %r initialization", self.name)
        try:
            await self.putconn(await self._checkout(Checkout.start(timeout), max_waiting=0))
        except psycopg.Error as ex:
            error = self._error_of_checkout(ex)
        else:
            logger.info("pool %r is ready to use", self.name)
            return
        if not self._history.successes:
            await self.close()
        raise error

    async def close(self, timeout: float = 5.0) -> None:  # noqa: ARG002, ASYNC109  # psycopg_pool's
        """Close the pool: clients that wait or connect raise `PoolClosed`.

        Connections in use work until they are returned.

        Args:
            timeout: Without effect, as there are no tasks to wait for.
        """
        if not self._closed:
            self._close()

    async def resize(self, min_size: int, max_size: int | None = None) -> None:
        """Change the maximum number of connections.

        Args:
            min_size: Must be 0.
            max_size: Maximum number of connections; 0 for unlimited.
        """
        self._resize(min_size, max_size)
