"""Restarts of the real servers, and their connection slots used up."""

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from azpg.emulator import Emulator

Connect = Callable[..., psycopg.Connection[Any]]
Refusal = Callable[..., str]


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """Run an emulator whose servers only these tests restart."""
    with Emulator() as emulator:
        yield emulator


@pytest.fixture
def witness(connect: Connect) -> Iterator[psycopg.Connection[Any]]:
    """Hold a session that something is about to happen to, after a commit."""
    with connect(autocommit=True) as session:
        session.execute("CREATE TABLE IF NOT EXISTS kept (line text)")
        session.execute("TRUNCATE kept")
        session.execute("INSERT INTO kept VALUES ('acknowledged')")
        yield session


@pytest.mark.parametrize("mode", ["fast", "immediate", "kill", "kill-backend"])
def test_restart_postgres(
    emulator: Emulator, connect: Connect, witness: psycopg.Connection[Any], mode: Any
) -> None:
    """Sessions end, a fast restart's in the words for it; the server is back, nothing is lost."""
    (started,) = one(witness, "SELECT pg_postmaster_start_time()")
    emulator.restart_postgres(mode)
    with pytest.raises(psycopg.OperationalError) as ended:
        witness.execute("SELECT 1")
    if mode == "fast":
        assert isinstance(ended.value, psycopg.errors.AdminShutdown)
        assert "terminating connection due to administrator command" in str(ended.value)
    with connect() as session:
        assert one(session, "SELECT line FROM kept") == ("acknowledged",)
        kept_its_process = one(session, "SELECT pg_postmaster_start_time()") == (started,)
        assert kept_its_process == (mode == "kill-backend")


def test_restart_postgres_during_a_query(
    emulator: Emulator, connect: Connect, witness: psycopg.Connection[Any]
) -> None:
    """A killed server starts again although a session of it was at work."""
    witness.pgconn.send_query(b"SELECT pg_sleep(60)")
    emulator.restart_postgres("kill")
    witness.close()  # libpq awaits an answer
    with connect() as session:
        assert one(session, "SELECT line FROM kept") == ("acknowledged",)


def test_restart_pgbouncer(
    emulator: Emulator, connect: Connect, witness: psycopg.Connection[Any]
) -> None:
    """PgBouncer's clients are cut off and can come back; PostgreSQL's own do not notice."""
    with connect(port=emulator.pgbouncer_port) as client:
        emulator.restart_pgbouncer()
        with pytest.raises(psycopg.OperationalError):
            client.execute("SELECT 1")
    with connect(port=emulator.pgbouncer_port) as client:
        assert one(client, "SELECT 1") == (1,)
    assert one(witness, "SELECT 1") == (1,)


def test_a_fault_outlasts_a_restart(emulator: Emulator, connect: Connect, refusal: Refusal) -> None:
    """A port that was told to refuse still does after a restart."""
    with emulator.fault(connect="refuse"):
        emulator.restart_postgres()
        assert "Connection refused" in refusal()
    with connect():
        pass


@pytest.mark.parametrize(
    ("reserved", "words"),
    [
        (False, "remaining connection slots are reserved"),
        (True, "sorry, too many clients already"),
    ],
)
def test_slots_used_up(
    emulator: Emulator,
    connect: Connect,
    refusal: Refusal,
    witness: psycopg.Connection[Any],
    reserved: bool,
    words: str,
) -> None:
    """The next client is told so by PostgreSQL, sessions go on, and after it there is room."""
    with emulator.slots_used_up(reserved=reserved):
        assert words in refusal()
        assert one(witness, "SELECT line FROM kept") == ("acknowledged",)
    with connect(), connect(), connect():
        pass


def one(session: psycopg.Connection[Any], query: str) -> tuple[Any, ...]:
    """Return the one row of a query."""
    (row,) = session.execute(query.encode()).fetchall()
    return tuple(row)
