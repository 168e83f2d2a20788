"""Whether an idle connection is alive, as far as this machine knows: a look, and no round trip."""

from __future__ import annotations

import logging
import select
from functools import cache
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import DiagnosticField

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg._connection_base import BaseConnection
    from psycopg.pq.abc import PGconn, PGresult

logger = logging.getLogger("azpg")

READS = 64
"""How often what waits on an idle connection is read, 16 KB at most each time."""


def alive(conn: BaseConnection[Any]) -> bool:
    """Tell whether the server has kept an idle connection open, as far as its socket knows.

    What waits there is taken in: TLS's tickets, notices, notifications, which are handed on as
    after a query, and the server's last word.
    """
    pgconn = conn.pgconn
    try:
        return not _look(pgconn.socket)(0) or _lives_on(pgconn)
    except psycopg.Error:  # it has no socket any more
        return False
    except Exception:  # the caller's own handler of notifications
        logger.warning("a connection is given up, as its handler failed", exc_info=True)
        return False


@cache
def _look(descriptor: int) -> Callable[[int], list[Any]]:
    """Return what tells if something waits on a socket, made once for each number of a socket."""
    if not hasattr(select, "poll"):
        return lambda timeout: select.select([descriptor], [], [], timeout)[0]
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return poll.poll


def _lives_on(pgconn: PGconn) -> bool:
    """Take in what waits on a connection, and tell whether it is still one."""
    last_words = False
    told = pgconn.notice_handler

    def notice(result: PGresult) -> None:
        # Outside a query libpq takes the error that ends a session for one more notice
        nonlocal last_words
        severity = result.error_field(DiagnosticField.SEVERITY_NONLOCALIZED)
        last_words = last_words or severity in (b"FATAL", b"PANIC")
        if told is not None:
            told(result)

    pgconn.notice_handler = notice
    try:
        for _ in range(READS):
            pgconn.consume_input()
            while (notification := pgconn.notifies()) is not None:
                if pgconn.notify_handler is not None:
                    pgconn.notify_handler(notification)
            if last_words:
                return False
            if not _look(pgconn.socket)(0):
                return True
        return False  # endless
    finally:
        pgconn.notice_handler = told
