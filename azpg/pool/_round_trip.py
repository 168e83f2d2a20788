"""Check a new connection by one round trip, which ends in time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import psycopg
from psycopg import generators
from psycopg.pq import ExecStatus

if TYPE_CHECKING:
    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGconn

    from azpg._deadline import Deadline

MAX_SECONDS = 5.0
"""How long a new connection may take to answer: PgBouncer makes a query wait for a server that is
down, by default for two minutes."""


def round_trip(pgconn: PGconn, deadline: Deadline) -> PQGen[None]:
    """Send an empty query: a generator for the functions of `psycopg.waiting`.

    A connection's own `wait()` would not do: if it is interrupted it cancels the query, for 5 s.

    Args:
        pgconn: The connection.
        deadline: The moment at which the caller stops waiting.

    Raises:
        psycopg.Error: The connection does not work, or the time is over.
        Stopped: Nobody waits for the connection any more.
    """
    end = min(deadline.at, time.monotonic() + MAX_SECONDS)
    pgconn.send_query(b"")
    steps = generators.execute(pgconn)
    try:
        waiting_for = next(steps)
        while True:
            ready = yield waiting_for
            deadline.check_stopped()
            if not ready and time.monotonic() >= end:
                raise psycopg.OperationalError("the server did not answer in time")
            waiting_for = steps.send(ready)
    except StopIteration as stop:
        results = stop.value
    for result in results:
        if result.status == ExecStatus.FATAL_ERROR:
            raise psycopg.errors.error_from_result(result)
