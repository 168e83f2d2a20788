"""Check without a round trip whether a connection still works, and accepts writes."""

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

REPORTS_READ_ONLY_SINCE = 140000
"""The first version of PostgreSQL that reports the parameters below."""

_PRIMARY = (b"in_hot_standby",)
_READ_WRITE = (b"in_hot_standby", b"default_transaction_read_only")
_REPORTED = {b"primary": _PRIMARY, b"read-write": _READ_WRITE}


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


def reported_read_only(conn: BaseConnection[Any]) -> tuple[bool, ...] | None:
    """Return what the server reports about being read-only, if the caller asked for a writable one.

    PostgreSQL reports both since version 14. PgBouncer repeats what its first server reported, so
    on its port the values mean nothing.
    """
    pgconn = conn.pgconn
    info = {option.keyword: option.val for option in pgconn.info}
    if pgconn.server_version < REPORTS_READ_ONLY_SINCE or info.get(b"port") == b"6432":
        return None
    if (names := _REPORTED.get(info.get(b"target_session_attrs") or b"")) is None:
        return None
    return _is_on(pgconn, names)


def turned_read_only(conn: BaseConnection[Any], before: tuple[bool, ...] | None) -> bool:
    """Return whether the server of a connection became read-only since the connection was made.

    Args:
        conn: A connection.
        before: What `reported_read_only` returned when the connection was made.
    """
    if before is None or conn.closed:
        return False
    names = _READ_WRITE if len(before) == len(_READ_WRITE) else _PRIMARY
    return any(now and not was for now, was in zip(_is_on(conn.pgconn, names), before, strict=True))


def _is_on(pgconn: PGconn, names: tuple[bytes, ...]) -> tuple[bool, ...]:
    return tuple(pgconn.parameter_status(name) == b"on" for name in names)


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
