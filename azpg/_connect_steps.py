"""Connect with libpq in steps that never block, so that `connect_timeout` always applies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import errors
from psycopg.pq import ConnStatus, PGconn, PollingStatus
from psycopg.waiting import Wait

if TYPE_CHECKING:
    from psycopg.abc import PQGenConn
    from psycopg.pq import abc


def connect(conninfo: str) -> PQGenConn[abc.PGconn]:
    """Connect as psycopg's `generators.connect` does, with a connection that never blocks.

    psycopg checks `connect_timeout` between the steps, but makes the connection nonblocking only
    after the last one. Until then libpq blocks in a step if the server does not read: a server
    that requests the password endlessly would block the thread or the event loop. With a
    nonblocking connection libpq fails instead.

    Raises:
        psycopg.OperationalError: The attempt failed.
    """
    pgconn = PGconn.connect_start(conninfo.encode())
    if pgconn.status == ConnStatus.BAD:
        raise _error("connection is bad", pgconn.get_error_message(), pgconn)
    address = _make_nonblocking(pgconn)
    while pgconn.status != ConnStatus.BAD:
        state = pgconn.connect_poll()
        if state == PollingStatus.OK:
            return pgconn
        if state == PollingStatus.FAILED:
            break
        wait = Wait.R if state == PollingStatus.READING else Wait.W
        while not (yield pgconn.socket, wait):
            pass
    reason = address + pgconn.error_message.decode(errors="replace")
    raise _error("connection failed", reason.rstrip(), pgconn)


def _make_nonblocking(pgconn: abc.PGconn) -> str:
    """Make a connection nonblocking; return the address, with which libpq begins each message."""
    # Setting `nonblocking` clears the address
    address = pgconn.error_message.decode(errors="replace")
    pgconn.nonblocking = 1
    return address


def _error(summary: str, reason: str, pgconn: abc.PGconn) -> errors.OperationalError:
    return errors.OperationalError(f"{summary}: {reason}", pgconn=errors.finish_pgconn(pgconn))
