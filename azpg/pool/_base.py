"""What all four pools share: the causes of failures, growing again, fork and figures."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import WeakKeyDictionary

from psycopg_pool import PoolClosed
from psycopg_pool.base import BasePool as PsycopgPool

from azpg import _fork

from ._failures import Attempt, Causes, own
from ._liveness import alive
from ._options import entra_password

if TYPE_CHECKING:
    import psycopg
    from psycopg._connection_base import BaseConnection
    from psycopg_pool.base import AttemptWithBackoff


class BasePool(PsycopgPool):
    """Hold what the sync and the async pools do in the same way, on psycopg_pool's own hooks."""

    _is_async: bool
    _MIN_SIZE = 4
    _lock: Any
    _waiting: Any

    def __init__(
        self, *args: Any, min_size: int | None, reconnect_failed: Any, **options: Any
    ) -> None:
        self._causes = Causes()
        self._live: WeakKeyDictionary[BaseConnection[Any], None] = WeakKeyDictionary()
        self._full_event: Any = None
        if min_size is None:
            min_size = self._MIN_SIZE
        super().__init__(  # type: ignore[call-arg]  # that of the class beside this one
            *args, min_size=min_size, reconnect_failed=reconnect_failed, **options
        )
        self._reconnect_failed = reconnect_failed  # psycopg_pool's null pools drop it

    def __del__(self) -> None:
        # At the program's end the workers stand still: to wait for them takes 5 s for each
        if not sys.is_finalizing() and (ended := getattr(super(), "__del__", None)):
            ended()

    def __repr__(self) -> str:
        shown, at, address = super().__repr__().rpartition(" at ")
        # The server is known from a connection: conninfo and kwargs may be functions
        for conn in self._connections():
            _, bracket, server = repr(conn).partition("(")
            if bracket:
                return f"{shown} ({server.rpartition(')')[0]}){at}{address}"
        return f"{shown}{at}{address}"

    def _connections(self) -> list[BaseConnection[Any]]:
        # Taken at once, in a list: another worker may add one meanwhile
        return [conn for ref in self._live.keyrefs() if (conn := ref()) is not None]

    # Causes

    def _took(self, conn: BaseConnection[Any]) -> None:
        self._causes.succeeded()
        self._live[conn] = None

    def _attempt(self, attempt: AttemptWithBackoff | None) -> AttemptWithBackoff:
        return Attempt(self._causes, self.reconnect_timeout) if attempt is None else attempt

    def _hopeless(self) -> psycopg.Error | None:
        """Return why nothing is to be waited for: no connection lives, and no try can help."""
        error = self._causes.final()
        return error if error and all(conn.closed for conn in self._connections()) else None

    @property
    def _pool_full_event(self) -> Any:
        return self._full_event

    @_pool_full_event.setter
    def _pool_full_event(self, event: Any) -> None:
        # Who begins to wait just after the last try has failed is told as well
        self._full_event = event
        if event is not None and self._hopeless():
            event.set()

    def _give_up(self) -> list[tuple[Any, psycopg.Error]]:
        """Return whom to fail and how, once nothing is to be waited for. Called locked."""
        if not (error := self._hopeless()):
            # psycopg_pool, once reconnect_timeout is over, lets clients wait for nobody's try
            if self._waiting and self._nconns < max(self._min_size, 1):
                self._maybe_grow_pool()
            return []
        waiting = list(self._waiting)
        self._waiting.clear()
        if self._pool_full_event is not None:
            self._pool_full_event.set()
        # Settled here: what is remembered may be forgotten before they are told
        return [(client, own(error)) for client in waiting]

    # Growing again: psycopg_pool's pool stays as small as failed connects have made it

    def _maybe_grow_pool(self) -> None:
        if self._causes.resting() is None:
            super()._maybe_grow_pool()  # type: ignore[misc]  # of the class beside this one

    def _grow_again(self) -> None:
        """Have a checkout try what has failed for good, once a second at most. Called locked."""
        if not self._pool and self._causes.resting() and (error := self._hopeless()):
            self._stats[self._REQUESTS_ERRORS] += 1
            raise error
        if self._nconns < self._min_size:
            self._maybe_grow_pool()

    def _try_again(self) -> None:
        """Do the same for who waits until the pool is full. Called locked."""
        if self._causes.final() and not self._causes.resting():
            self._causes.forget()
            self._maybe_grow_pool()

    def _check_pool_putconn(self, conn: BaseConnection[Any]) -> None:
        if getattr(conn, "_pool", None) is not self:
            super()._check_pool_putconn(conn)
        elif self._waiting and not alive(conn):
            conn.pgconn.finish()  # so that it is replaced instead of handed on

    # Fork

    def _open(self) -> None:
        super()._open()  # type: ignore[misc]  # as above
        _fork.POOLS.add(self)

    def end_in_child(self) -> None:
        """Be closed: threads and tasks are the parent's, and so are the sessions."""
        self._closed = True
        self._lock = type(self._lock)()
        self._waiting.clear()
        self._check_open = self._check_open_getconn = self._refuse  # type: ignore[method-assign]  # of this one

    def _refuse(self) -> NoReturn:
        raise PoolClosed(
            f"the pool {self.name!r} was opened before the process {os.getpid()} was forked: its "
            "connections are the parent's. Make a pool in each process, in gunicorn's post_fork, "
            "say, or with open=False and open it there"
        )

    # Figures

    def _get_measures(self) -> dict[str, int]:
        measures = super()._get_measures()
        password = entra_password(
            getattr(self, "conninfo", ""), getattr(self, "kwargs", None), is_async=self._is_async
        )
        if password is None:
            return measures
        fetched, failed, left = password.stats()
        measures |= {"tokens_fetched": fetched, "tokens_failed": failed}
        if left is not None:
            measures["token_seconds_to_expiry"] = int(left)
        return measures
