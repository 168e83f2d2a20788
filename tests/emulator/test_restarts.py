"""Restarts of the real servers, and used up connection slots."""

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from azpg.emulator import Emulator

Connect = Callable[..., psycopg.Connection[Any]]
GetConnectError = Callable[..., str]


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """Run an emulator whose servers only these tests restart."""
    with Emulator() as emulator:
        yield emulator


@pytest.fixture
def open_session(connect: Connect) -> Iterator[psycopg.Connection[Any]]:
    """Return a session that is open during the restart and has committed a row."""
    with connect(autocommit=True) as session:
        session.execute("CREATE TABLE IF NOT EXISTS kept (line text)")
        session.execute("TRUNCATE kept")
        session.execute("INSERT INTO kept VALUES ('acknowledged')")
        yield session


@pytest.mark.parametrize("mode", ["fast", "immediate", "kill", "kill-backend"])
def test_restart_postgres(
    emulator: Emulator, connect: Connect, open_session: psycopg.Connection[Any], mode: Any
) -> None:
    """Sessions end, those of a fast restart with 57P01; then the committed row is still there."""
    (started,) = fetch_one(open_session, "SELECT pg_postmaster_start_time()")
    emulator.restart_postgres(mode)
    with pytest.raises(psycopg.OperationalError) as error:
        open_session.execute("SELECT 1")
    if mode == "fast":
        assert isinstance(error.value, psycopg.errors.AdminShutdown)
        assert "terminating connection due to administrator command" in str(error.value)
    with connect() as session:
        assert fetch_one(session, "SELECT line FROM kept") == ("acknowledged",)
        same_postmaster = fetch_one(session, "SELECT pg_postmaster_start_time()") == (started,)
        assert same_postmaster == (mode == "kill-backend")


def test_restart_postgres_during_a_query(
    emulator: Emulator, connect: Connect, open_session: psycopg.Connection[Any]
) -> None:
    """A killed server starts again although one of its sessions was running a query."""
    open_session.pgconn.send_query(b"SELECT pg_sleep(60)")
    emulator.restart_postgres("kill")
    open_session.close()  # libpq still waits for a result
    with connect() as session:
        assert fetch_one(session, "SELECT line FROM kept") == ("acknowledged",)


def test_restart_pgbouncer(
    emulator: Emulator, connect: Connect, open_session: psycopg.Connection[Any]
) -> None:
    """PgBouncer's connections end and new ones succeed; PostgreSQL's are not affected."""
    with connect(port=emulator.pgbouncer_port) as client:
        emulator.restart_pgbouncer()
        with pytest.raises(psycopg.OperationalError):
            client.execute("SELECT 1")
    with connect(port=emulator.pgbouncer_port) as client:
        assert fetch_one(client, "SELECT 1") == (1,)
    assert fetch_one(open_session, "SELECT 1") == (1,)


def test_a_fault_outlasts_a_restart(
    emulator: Emulator, connect: Connect, get_connect_error: GetConnectError
) -> None:
    """A listener still refuses connections after a restart if a fault says so."""
    with emulator.fault(connect="refuse"):
        emulator.restart_postgres()
        assert "Connection refused" in get_connect_error()
    with connect():
        pass


@pytest.mark.parametrize(
    ("reserved", "message"),
    [
        (False, "remaining connection slots are reserved"),
        (True, "sorry, too many clients already"),
    ],
)
def test_slots_used_up(
    emulator: Emulator,
    connect: Connect,
    get_connect_error: GetConnectError,
    open_session: psycopg.Connection[Any],
    reserved: bool,
    message: str,
) -> None:
    """PostgreSQL rejects new connections with its own message; open ones are not affected."""
    with emulator.slots_used_up(reserved=reserved):
        assert message in get_connect_error()
        assert fetch_one(open_session, "SELECT line FROM kept") == ("acknowledged",)
    with connect(), connect(), connect():
        pass


def fetch_one(session: psycopg.Connection[Any], query: str) -> tuple[Any, ...]:
    """Return the one row of a query."""
    (row,) = session.execute(query.encode()).fetchall()
    return tuple(row)
