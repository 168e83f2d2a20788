"""Check without a round trip whether the server has closed an idle connection."""

from __future__ import annotations

import logging
import select
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import DiagnosticField

if TYPE_CHECKING:
    from psycopg._connection_base import BaseConnection
    from psycopg.pq.abc import PGconn, PGresult

logger = logging.getLogger("azpg")

MAX_READS = 64
"""Reads of one check, each of up to 16 KB. A server that still sends is not idle: close it."""


def is_alive(conn: BaseConnection[Any]) -> bool:
    """Return False if the socket of an idle connection shows that the server has closed it.

    Reads what the server has sent meanwhile (TLS session tickets, notices, notifications) and
    calls the connection's handlers with it, as psycopg does after a query.
    """
    pgconn = conn.pgconn
    try:
        return not _has_input(pgconn.socket) or _drain_and_check(pgconn)
    except psycopg.Error:  # the connection is closed and has no socket
        return False
    except Exception:  # the caller's own handler may raise anything
        logger.warning("a connection is given up, as its handler failed", exc_info=True)
        return False


def _has_input(descriptor: int) -> bool:
    """Return whether a socket can be read, without waiting."""
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([descriptor], [], [], 0)[0])
    poll = select.poll()  # select() cannot take a descriptor above 1023
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def _drain_and_check(pgconn: PGconn) -> bool:
    """Read all input of a connection; return whether the server keeps the connection open."""
    has_fatal_error = False
    original_handler = pgconn.notice_handler

    def handle_notice(result: PGresult) -> None:
        # Without a running query libpq reports the error that ends the session as a notice
        nonlocal has_fatal_error
        severity = result.error_field(DiagnosticField.SEVERITY_NONLOCALIZED)
        has_fatal_error = has_fatal_error or severity in (b"FATAL", b"PANIC")
        if original_handler is not None:
            original_handler(result)

    pgconn.notice_handler = handle_notice
    try:
        for _ in range(MAX_READS):
            pgconn.consume_input()
            while (notification := pgconn.notifies()) is not None:
                if pgconn.notify_handler is not None:
                    pgconn.notify_handler(notification)
            if has_fatal_error:
                return False
            if not _has_input(pgconn.socket):
                return True
        return False
    finally:
        pgconn.notice_handler = original_handler
