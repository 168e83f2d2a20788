"""Cancelling a running query through the front door."""

import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from azpg.emulator import Emulator

Connect = Callable[..., psycopg.Connection[Any]]


@pytest.mark.parametrize("how", ["cancel", "cancel_safe"])
def test_cancel(emulator: Emulator, connect: Connect, port: int, how: str) -> None:
    """A query ends at once, whether libpq asks in clear (cancel) or inside TLS (cancel_safe)."""
    before = emulator.counts
    with connect(port=port) as connection, connect() as observer:
        name = f"to be cancelled on {port} by {how}"
        connection.execute("SELECT set_config('application_name', %s, true)", [name])
        cancelled = threading.Event()

        def cancel_once_it_runs() -> None:
            running = "SELECT 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(30)'"
            while not observer.execute(f"{running} AND application_name = %s", [name]).fetchone():
                observer.rollback()  # the view stands still within a transaction
            getattr(connection, how)()
            cancelled.set()

        thread = threading.Thread(target=cancel_once_it_runs)
        thread.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("SELECT pg_sleep(30)")
        thread.join()
        assert cancelled.is_set()
    seen = emulator.counts - before
    assert seen.cancel_requests == 1
    assert seen.tls_handshakes == (3 if how == "cancel_safe" else 2)
