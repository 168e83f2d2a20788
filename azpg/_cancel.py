"""Send the cancel request of `Connection.cancel()` over TLS if the connection uses it."""

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

CANCEL_TIMEOUT_SECONDS: Final = 5.0
"""The timeout of a cancel request, the same as psycopg's for Ctrl-C."""


def cancel(pgconn: PGconn, unencrypted: Callable[[], None]) -> None:
    """Send a cancel request for the query of a connection, and wait until it is sent.

    Args:
        pgconn: The connection.
        unencrypted: Called to send the request with libpq before version 17, which has no
            encrypted cancel requests.

    Raises:
        psycopg.errors.CancellationTimeout: It took more than `CANCEL_TIMEOUT_SECONDS`.
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
    # PGcancelConn.blocking() does not release the GIL, so it would block all threads
    deadline = time.monotonic() + CANCEL_TIMEOUT_SECONDS
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
