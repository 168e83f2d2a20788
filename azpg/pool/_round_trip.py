"""Check a new connection by one round trip, which ends in time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import psycopg
from psycopg.pq import ExecStatus

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn

MAX_SECONDS = 5.0
"""How long a new connection may take to answer: PgBouncer makes a query wait for a server that is
down, by default for two minutes."""

POLL_SECONDS = 0.01
"""How often to look for the answer."""


class RoundTrip:
    """An empty query on a new connection. No method waits.

    Args:
        pgconn: The connection.
        end: When the caller stops waiting, on the monotonic clock.
    """

    def __init__(self, pgconn: PGconn, end: float) -> None:
        self._pgconn = pgconn
        self._end = min(end, time.monotonic() + MAX_SECONDS)
        pgconn.send_query(b"")
        pgconn.flush()

    def is_done(self) -> bool:
        """Return whether the server has answered.

        Raises:
            psycopg.Error: The connection does not work, or the time is over.
        """
        self._pgconn.consume_input()
        if self._pgconn.is_busy():
            if time.monotonic() >= self._end:
                raise psycopg.OperationalError("the server did not answer in time")
            return False
        while (result := self._pgconn.get_result()) is not None:
            if result.status == ExecStatus.FATAL_ERROR:
                raise psycopg.errors.error_from_result(result)
        return True
