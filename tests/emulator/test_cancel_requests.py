"""Cancel requests for a running query."""

import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from azpg.emulator import Emulator

Connect = Callable[..., psycopg.Connection[Any]]


@pytest.mark.parametrize("method", ["cancel", "cancel_safe"])
def test_cancel(emulator: Emulator, connect: Connect, port: int, method: str) -> None:
    """A query is canceled at once, without TLS (`cancel`) and within TLS (`cancel_safe`)."""
    before = emulator.counts
    with connect(port=port) as connection, connect() as observer:
        name = f"to be canceled on {port} by {method}"
        connection.execute("SELECT set_config('application_name', %s, true)", [name])
        canceled = threading.Event()

        def cancel_when_it_runs() -> None:
            running = "SELECT 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(30)'"
            while not observer.execute(f"{running} AND application_name = %s", [name]).fetchone():
                observer.rollback()  # within one transaction the view does not change
            getattr(connection, method)()
            canceled.set()

        thread = threading.Thread(target=cancel_when_it_runs)
        thread.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("SELECT pg_sleep(30)")
        thread.join()
        assert canceled.is_set()
    counts = emulator.counts - before
    assert counts.cancel_requests == 1
    assert counts.tls_handshakes == (3 if method == "cancel_safe" else 2)
