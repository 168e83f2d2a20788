"""What the sync and async pools share: failures, growing again, fork and statistics."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import WeakKeyDictionary

from psycopg.pq import ConnStatus
from psycopg_pool import PoolClosed, PoolTimeout
from psycopg_pool.base import BasePool as PsycopgPool

from azpg import _deadline, _fork
from azpg._diagnosis.explain import explain
from azpg._redact import redact
from azpg.errors import ConnectError

from ._arguments import SecretKwargs, find_entra_password, hide_conninfo, hide_kwargs
from ._errors import pool_error
from ._failures import FailureHistory, PoolAttempt, copy_error, is_permanent
from ._liveness import is_alive, reported_read_only, turned_read_only

if TYPE_CHECKING:
    import psycopg
    from psycopg._connection_base import BaseConnection
    from psycopg_pool.base import AttemptWithBackoff

logger = logging.getLogger("psycopg.pool")

CLOSE_TIMEOUT_SECONDS = 1.0
"""How long a pool that azpg closes waits for its threads or tasks."""


def record_checkout(conn: Any) -> None:
    """Note when a client got a connection."""
    conn._checked_out_at = time.monotonic()  # noqa: SLF001  # azpg's own class


class BasePool(PsycopgPool):
    """A mixin that overrides hooks of psycopg_pool's sync and async pool classes.

    Methods that need the pool's lock say so: the caller, which is sync or async, acquires it.
    """

    _is_async: bool
    _MIN_SIZE = 4
    _lock: Any
    _waiting: Any

    def __init__(
        self,
        *args: Any,
        min_size: int | None,
        close_returns: bool,
        reconnect_failed: Any,
        **options: Any,
    ) -> None:
        self._prepare()
        self._history = FailureHistory()
        self._connections: WeakKeyDictionary[BaseConnection[Any], tuple[bool, ...] | None] = (
            WeakKeyDictionary()
        )
        """each connection, and what the server reported about being read-only"""
        self._watches_read_only = False
        self._read_only_at = -math.inf
        self._uses_pgbouncer: bool | None = None
        self._suspect = False
        """a connection broke while a client used it: the next new ones are checked"""
        self._opens_and_waits = False
        self._joining: list[Any] = []
        """threads or tasks that close() waits for"""
        self._full_event: Any = None
        self._full_waiters = 0
        """how many wait for that event, in wait()"""
        self._running_callbacks = 0
        """of `reconnect_failed`"""
        self._retried_changed_arguments = False
        if min_size is None:
            min_size = self._MIN_SIZE
        super().__init__(  # type: ignore[call-arg]  # psycopg_pool's pool class, next in the MRO
            *args,
            min_size=min_size,
            close_returns=close_returns,
            reconnect_failed=reconnect_failed,
            **options,
        )
        # psycopg_pool's null pools drop these
        self._reconnect_failed = reconnect_failed
        self.close_returns = close_returns

    def _prepare(self) -> None:
        """Set the attributes that psycopg_pool's constructor needs."""

    def __del__(self) -> None:
        # At interpreter exit the workers no longer run, and to join each of them takes 5 s
        if not sys.is_finalizing() and (psycopg_pools_del := getattr(super(), "__del__", None)):
            psycopg_pools_del()

    def __repr__(self) -> str:
        head, at, address = super().__repr__().rpartition(" at ")
        # Take the server from a connection: conninfo and kwargs may be functions
        for conn in self._list_connections():
            _, bracket, server = repr(conn).partition("(")
            if bracket:
                return f"{head} ({server.rpartition(')')[0]}){at}{address}"
        return f"{head}{at}{address}"

    def _register(self, conn: BaseConnection[Any]) -> None:
        """Record a new connection."""
        self._history.record_success()
        self._retried_changed_arguments = False
        self._connections[conn] = None

    def _watch_read_only(self, conn: BaseConnection[Any]) -> None:
        """Note what the server reports, if the caller asked for one that accepts writes."""
        if not self._uses_pgbouncer and (reported := reported_read_only(conn)) is not None:
            self._connections[conn] = reported
            self._watches_read_only = True

    def _limit_retries(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of a single connection attempt: the pool itself does the retries."""
        self._uses_pgbouncer = kwargs.get("pgbouncer")
        return {"retry_timeout": 0.0, **kwargs}

    def _stop_deadline(self) -> _deadline.Deadline:
        """Return the deadline of a connection: it ends when the pool closes."""
        current = _deadline.CURRENT.get()
        return current or _deadline.Deadline(math.inf, math.inf, "", lambda: self._closed)

    def _record_failure(
        self, failure: Exception, changes_before: int, deadline: _deadline.Deadline
    ) -> None:
        if isinstance(failure, _deadline.Stopped):
            return
        if time.monotonic() >= deadline.at and (permanent := self._history.permanent()):
            failure = permanent  # the client had too little time to know better
        self._history.record_failure(failure, changes_before)

    def _is_retried(
        self, failure: BaseException, attempt: AttemptWithBackoff, started: float
    ) -> bool:
        """Return whether a failed attempt is repeated, after `attempt.delay`."""
        self._log_failure(failure)
        if not attempt.time_to_give_up(started):
            attempt.update_delay(started)
            return True
        if not self._history.permanent():
            logger.warning(
                "reconnection attempt in pool %r failed after %s sec",
                self.name,
                self.reconnect_timeout,
            )
        return False

    def _go_on_growing(self) -> None:
        """Make another connection if clients wait or too few are left; needs the lock."""
        self._growing = False
        if self._nconns < self._min_size or self._waiting:
            self._maybe_grow_pool()

    def _log_failure(self, failure: BaseException) -> None:
        """Log a failed connection: not if a client raises it, and not once for each worker."""
        is_raised = is_permanent(failure) and (
            self._waiting or self._full_event is not None or self._opens_and_waits
        )
        is_repeated = not self._history.is_news(failure)
        level = logging.DEBUG if is_raised or is_repeated else logging.WARNING
        reason = str(failure) or type(failure).__name__
        logger.log(level, "error connecting in %r: %s", self.name, reason)

    def _list_connections(self) -> list[BaseConnection[Any]]:
        """Return the connections that still exist, closed ones too."""
        # keyrefs() returns a list at once: another worker may register a connection meanwhile
        return [conn for ref in self._connections.keyrefs() if (conn := ref()) is not None]

    # The arguments of the connections: what the caller assigns or changes counts for the next one

    @property
    def conninfo(self) -> Any:
        """The connection string; its repr hides it if it contains a secret."""
        return vars(self)["conninfo"]

    @conninfo.setter
    def conninfo(self, conninfo: Any) -> None:
        vars(self)["conninfo"] = hide_conninfo(conninfo)

    @property
    def kwargs(self) -> Any:
        """The keyword arguments of the connections; their repr hides the secrets."""
        kwargs = vars(self)["kwargs"]
        if isinstance(kwargs, SecretKwargs):
            kwargs.take_changes()
        return kwargs

    @kwargs.setter
    def kwargs(self, kwargs: Any) -> None:
        vars(self)["kwargs"] = hide_kwargs(kwargs)

    # Failures

    def _attempt(self, attempt: AttemptWithBackoff | None) -> AttemptWithBackoff:
        return PoolAttempt(self._history, self.reconnect_timeout) if attempt is None else attempt

    def _permanent_failure(self) -> psycopg.Error | None:
        """Return the error to raise if the pool has no open connection and can make none."""
        if self._running_callbacks:  # reconnect_failed may change the arguments
            return None
        error = self._history.permanent()
        if error is None or any(not conn.closed for conn in self._list_connections()):
            return None
        return error

    def _error_of_wait(self, timeout: PoolTimeout | None) -> psycopg.Error | None:
        """Return the error to raise after a wait.

        Args:
            timeout: psycopg_pool's error if the time is over, otherwise None.
        """
        if failure := self._permanent_failure():
            return pool_error(failure)
        return timeout and self._error_of_timeout(timeout)

    def _error_of_timeout(self, timeout: PoolTimeout) -> psycopg.Error:
        """Return a pool's timeout with what its client waited for, as far as that is known."""
        if isinstance(timeout, ConnectError):
            return timeout  # it says so
        open_connections = [conn for conn in self._list_connections() if not conn.closed]
        in_use = [conn for conn in open_connections if conn not in self._pool]
        reason = ""
        if is_connecting := self._nconns > len(open_connections):
            reason = self._describe_connecting()
        elif in_use:
            since = min(getattr(conn, "_checked_out_at", math.inf) for conn in in_use)
            seconds = max(0.0, time.monotonic() - since)
            reason = f"connections in use: {len(in_use)}, the oldest for {seconds:.0f} s"
        if reason:
            timeout = type(timeout)(f"{timeout}; {reason}")
        return self._history.error_of_timeout(timeout, is_connecting=is_connecting)

    def _describe_connecting(self) -> str:
        password = find_entra_password(self.conninfo, self.kwargs, is_async=self._is_async)
        if password is not None and (seconds := password.request_age()):
            return f"waiting for a token from {password.credential_name()} for {seconds:.0f} s"
        return "a connection attempt is in progress"

    def _connect_arguments(self) -> tuple[Any, Any]:
        """Return a copy of the arguments of the connections, as far as they are values."""
        kwargs = self.kwargs
        return self.conninfo, kwargs.copy() if isinstance(kwargs, SecretKwargs) else kwargs

    def _retry_changed_arguments(self, before: tuple[Any, Any]) -> None:
        """Connect again if `reconnect_failed` has changed the arguments; needs the lock."""
        if self._retried_changed_arguments or not self._history.permanent():
            return
        if self._connect_arguments() != before:
            self._retried_changed_arguments = True
            self._history.restart()
            self._maybe_grow_pool()

    def _timed_out(self, timeout: float) -> PoolTimeout:
        return PoolTimeout(f"pool initialization incomplete after {timeout} sec")

    @property
    def _pool_full_event(self) -> Any:
        return self._full_event

    @_pool_full_event.setter
    def _pool_full_event(self, event: Any) -> None:
        # wait() may create the event just after the last attempt has failed
        self._full_event = event
        if event is not None and self._permanent_failure():
            event.set()

    def _join_full_waiters(self, event_class: Any) -> Any:
        """Return the event that wait() waits for; needs the lock."""
        self._full_waiters += 1
        if self._pool_full_event is None:
            self._pool_full_event = event_class()
        return self._pool_full_event

    def _leave_full_waiters(self) -> None:
        """End the wait for the event; needs the lock, or the event loop."""
        self._full_waiters -= 1
        if not self._full_waiters:
            self._pool_full_event = None

    def _fail_waiting(self) -> list[tuple[Any, psycopg.Error]]:
        """Dequeue the waiting clients if they wait in vain; needs the lock.

        Returns:
            Each client with the error that the caller passes to its `fail()`.
        """
        if not (error := self._permanent_failure()):
            # After reconnect_timeout psycopg_pool starts no attempt for the clients that wait
            if self._waiting and self._nconns < max(self._min_size, 1):
                self._maybe_grow_pool()
            return []
        clients = list(self._waiting)
        self._waiting.clear()
        if self._pool_full_event is not None:
            self._pool_full_event.set()
        # Copied under the lock: a connection that succeeds later clears the history
        return [(client, copy_error(error)) for client in clients]

    # Sizes

    def _drop_surplus(self) -> bool:
        """Give up one connection if there are more than `max_size`; needs the lock."""
        if self._nconns <= self._max_size:
            return False
        self._nconns -= 1
        return True

    def _set_sizes(self, min_size: int, max_size: int) -> tuple[int, list[Any]]:
        """Set the sizes; needs the lock.

        Returns:
            The number of connections to make, and the connections to close.
        """
        self._min_size, self._max_size = min_size, max_size
        missing = max(0, min_size - self._nconns)
        surplus = max(0, min(self._nconns - max_size, len(self._pool)))
        self._nconns += missing - surplus
        closing = [self._pool.popleft() for _ in range(surplus)]
        if not self._opened:
            self._nconns = min_size
            return 0, closing
        if self._waiting:
            self._maybe_grow_pool()
        return 0 if self._closed else missing, closing

    # Growing again: psycopg_pool does not replace the connections whose attempts failed

    def _maybe_grow_pool(self) -> None:
        if not self._history.cooling_down():
            super()._maybe_grow_pool()  # type: ignore[misc]  # as above

    def _remaining_cooldown(self) -> float:
        """Return the seconds that a client waits before it asks for a connection.

        Without that a program that catches `PoolTimeout` and tries again would never pause.
        """
        if self._closed or self._pool or not (remaining := self._history.remaining_cooldown()):
            return 0.0
        return remaining if self._permanent_failure() else 0.0

    def _grow_to_min_size(self, timeout: float | None) -> None:
        """Connect again at a checkout, or raise the failure during its cooldown; needs the lock."""
        in_vain = self._history.cooling_down() or (timeout is not None and timeout <= 0)
        if in_vain and not self._pool and (error := self._permanent_failure()):
            self._stats[self._REQUESTS_ERRORS] += 1
            raise error
        if self._nconns < self._min_size:
            self._maybe_grow_pool()

    def _retry_now(self) -> None:
        """Connect again for `wait()` after a permanent failure and its cooldown; needs the lock."""
        if self._history.permanent() and not self._history.cooling_down():
            self._history.forget()
            self._maybe_grow_pool()

    def _is_usable(self, conn: BaseConnection[Any]) -> bool:
        """Return whether a client can have an idle connection."""
        return is_alive(conn) and not self._is_outdated(conn)

    def _is_outdated(self, conn: BaseConnection[Any]) -> bool:
        """Return whether a connection has to be replaced, because its server became read-only.

        A server tells a session only after its next statement, so all idle ones are replaced.
        """
        if not self._watches_read_only:
            return False
        if turned_read_only(conn, self._connections.get(conn)):
            self._read_only_at = time.monotonic()
        return bool(conn._created_at <= self._read_only_at)  # noqa: SLF001  # set by psycopg_pool

    def _is_expired(self, conn: BaseConnection[Any]) -> bool:
        """Return whether a returned connection is replaced because of drain() or its age."""
        created_at, expire_at = conn._created_at, conn._expire_at  # noqa: SLF001  # set by psycopg_pool
        return bool(created_at <= self._drained_at or expire_at <= time.monotonic())

    def _failed_check(self, error: Exception) -> ConnectError:
        """Return the error of a new connection that does not answer."""
        explanation = explain(error)
        return ConnectError(
            f"the new connection does not work: {redact(str(error))}",
            kind=explanation.kind,
            hint=explanation.hint,
            transient=True,
        )

    def _check_pool_putconn(self, conn: BaseConnection[Any]) -> None:
        if getattr(conn, "_pool", None) is not self:
            super()._check_pool_putconn(conn)
            return
        if conn.pgconn.status != ConnStatus.OK:
            self._suspect = True
        if self._is_outdated(conn) or (self._waiting and not is_alive(conn)):
            conn.pgconn.finish()  # psycopg_pool replaces a closed connection

    # Fork

    def _open(self) -> None:
        super()._open()  # type: ignore[misc]  # as above
        _fork.OPEN_POOLS.add(self)

    def close_after_fork(self) -> None:
        """Close the pool in a forked child: its threads, tasks and connections are the parent's."""
        self._closed = True
        self._lock = type(self._lock)()
        self._waiting.clear()
        self._check_open = self._check_open_getconn = self._raise_forked  # type: ignore[method-assign]  # of this pool only

    def _raise_forked(self) -> NoReturn:
        raise PoolClosed(
            f"the pool {self.name!r} was opened before process {os.getpid()} was forked, so its "
            "connections belong to the parent process. Create the pool in each process (for "
            "example in gunicorn's post_fork), or create it with open=False and open it there"
        )

    # Statistics

    def _get_measures(self) -> dict[str, int]:
        measures = super()._get_measures()
        password = find_entra_password(self.conninfo, self.kwargs, is_async=self._is_async)
        if password is None:
            return measures
        fetched, failed, seconds_to_expiry = password.stats()
        measures |= {"tokens_fetched": fetched, "tokens_failed": failed}
        if seconds_to_expiry is not None:
            measures["token_seconds_to_expiry"] = int(seconds_to_expiry)
        return measures
