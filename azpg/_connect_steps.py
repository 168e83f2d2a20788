"""Establish a connection step by step, so that no step outlasts `connect_timeout`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import errors
from psycopg.pq import ConnStatus, PGconn, PollingStatus
from psycopg.waiting import Wait

if TYPE_CHECKING:
    from psycopg.abc import PQGenConn
    from psycopg.pq import abc


def connect(conninfo: str) -> PQGenConn[abc.PGconn]:
    """Do what psycopg's `generators.connect` does, on a libpq connection that never blocks.

    psycopg looks at `connect_timeout` between the steps, but makes the connection nonblocking only
    at the end. Until then libpq waits inside a step if the server does not read: a server that asks
    for the password again and again blocks the thread, and with it the event loop. A nonblocking
    libpq ends the attempt instead.

    Raises `psycopg.OperationalError` if the attempt fails.
    """
    pgconn = PGconn.connect_start(conninfo.encode())
    if pgconn.status == ConnStatus.BAD:
        raise _error("connection is bad", pgconn.get_error_message(), pgconn)
    # The setting clears what libpq begins each message with: the server's address.
    place = pgconn.error_message.decode(errors="replace")
    pgconn.nonblocking = 1
    while pgconn.status != ConnStatus.BAD:
        state = pgconn.connect_poll()
        if state == PollingStatus.OK:
            return pgconn
        if state == PollingStatus.FAILED:
            break
        wait = Wait.R if state == PollingStatus.READING else Wait.W
        while not (yield pgconn.socket, wait):
            pass
    reason = place + pgconn.error_message.decode(errors="replace")
    raise _error("connection failed", reason.rstrip(), pgconn)


def _error(what: str, reason: str, pgconn: abc.PGconn) -> errors.OperationalError:
    return errors.OperationalError(f"{what}: {reason}", pgconn=errors.finish_pgconn(pgconn))
