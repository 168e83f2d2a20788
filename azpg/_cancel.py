"""Send the cancel request of `Connection.cancel()` encrypted, as the connection is."""

from __future__ import annotations

import logging
import time
from functools import cache
from selectors import EVENT_READ, EVENT_WRITE, DefaultSelector
from typing import TYPE_CHECKING, Final

import psycopg
from psycopg.pq import PollingStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg.pq.abc import PGcancelConn, PGconn

logger = logging.getLogger("azpg")

CANCEL_SECONDS: Final = 5.0
"""How long a cancel request may take: as long as psycopg's own on Ctrl-C."""


def cancel(pgconn: PGconn, unencrypted: Callable[[], None]) -> None:
    """Ask the server to cancel what a connection is doing, and wait until the request was sent.

    `unencrypted` sends the request where libpq cannot encrypt it, which is before libpq 17.

    Raises `psycopg.errors.CancellationTimeout` after `CANCEL_SECONDS`.
    """
    if psycopg.capabilities.has_cancel_safe():
        request = pgconn.cancel_conn()
        try:
            _send(request)
        finally:
            request.finish()
        return
    if pgconn.ssl_in_use:
        _warn_once()
    unencrypted()


def _send(request: PGcancelConn) -> None:
    # Not PGcancelConn.blocking(): it keeps Python's lock, so that all threads wait with it.
    deadline = time.monotonic() + CANCEL_SECONDS
    request.start()
    while (state := request.poll()) != PollingStatus.OK:
        if state == PollingStatus.FAILED:
            reason = request.get_error_message()
            raise psycopg.OperationalError(f"cancellation failed: {reason}")
        event = EVENT_READ if state == PollingStatus.READING else EVENT_WRITE
        with DefaultSelector() as selector:
            selector.register(request.socket, event)
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise psycopg.errors.CancellationTimeout("cancellation timeout expired")


@cache
def _warn_once() -> None:
    logger.warning(
        "libpq %d sends cancel requests unencrypted: who reads one can cancel the queries of its "
        "session. libpq 17 and newer encrypt them: pip install --upgrade 'psycopg[binary]'",
        psycopg.pq.version() // 10000,
    )
