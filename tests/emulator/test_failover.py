"""Failing over to the real standby, and the reader behind a name of its own."""

import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from azpg.emulator import Emulator, EmulatorError

Connect = Callable[..., psycopg.Connection[Any]]
Refusal = Callable[..., str]


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """Run an emulator with a standby that only these tests promote."""
    with Emulator(standby=True) as emulator:
        yield emulator


@pytest.fixture
def reader(emulator: Emulator) -> dict[str, Any]:
    """Return what leads to the reader alone."""
    return {
        "host": emulator.reader_host,
        "hostaddr": emulator.reader_hostaddr,
        "port": emulator.reader_port,
    }


@pytest.fixture
def both(emulator: Emulator) -> dict[str, Any]:
    """Return what leads to the writer first and to the reader second."""
    return {
        "host": f"{emulator.host},{emulator.reader_host}",
        "hostaddr": f"{emulator.hostaddr},{emulator.reader_hostaddr}",
        "port": f"{emulator.port},{emulator.reader_port}",
    }


@pytest.fixture
def table(connect: Connect) -> str:
    """Make a table that keeps numbers, and return its name."""
    with connect() as session:
        session.execute("CREATE TABLE IF NOT EXISTS numbers (n bigint PRIMARY KEY)")
        session.execute("TRUNCATE numbers")
    return "numbers"


def test_no_acknowledged_commit_is_lost(emulator: Emulator, connect: Connect, table: str) -> None:
    """Writers go on through two failovers; what they were told is written, is there in the end."""
    numbers = itertools.count()
    acknowledged: list[int] = []
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            try:
                with connect(autocommit=True, connect_timeout=5) as session:
                    while not done.is_set():
                        n = next(numbers)
                        session.execute(f"INSERT INTO {table} VALUES (%s)", [n])
                        acknowledged.append(n)
            except psycopg.OperationalError:
                pass

    writers = [threading.Thread(target=write) for _ in range(3)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(2):
            so_far = len(acknowledged)
            while len(acknowledged) < so_far + 20:
                done.wait(0.01)
            emulator.fail_over(refused=0, starting=0)
    finally:
        done.set()
        for writer in writers:
            writer.join()
    with connect() as session:
        found = {n for (n,) in session.execute(f"SELECT n FROM {table}")}
    assert set(acknowledged) <= found


def test_the_stages_of_a_failover(
    emulator: Emulator, connect: Connect, refusal: Refusal, table: str
) -> None:
    """Sessions end with 57P01, the address refuses, says 57P03, then answers, and takes writes."""
    with connect(autocommit=True) as session, connect(port=emulator.pgbouncer_port) as pooled:
        (before,) = one(session, "SELECT system_identifier FROM pg_control_system()")
        said: list[str] = []
        failing_over = threading.Thread(
            target=emulator.fail_over, kwargs={"refused": 1.0, "starting": 1.0}
        )
        token = emulator.token()
        failing_over.start()
        with pytest.raises(psycopg.errors.AdminShutdown, match="due to administrator command"):
            session.execute("SELECT pg_sleep(60)")
        while failing_over.is_alive():
            try:
                connect(password=token).close()
            except psycopg.OperationalError as refused:
                said.append(str(refused))
        failing_over.join()
        with pytest.raises(psycopg.OperationalError):
            pooled.execute("SELECT 1")
    stages = [
        stage for stage, _ in itertools.groupby("Connection refused" in text for text in said)
    ]
    assert stages == [True, False]
    assert "FATAL:  the database system is starting up" in said[-1]
    for port in (emulator.port, emulator.pgbouncer_port):
        with connect(port=port) as session:
            assert one(session, "SELECT pg_is_in_recovery()") == (False,)
            session.execute(f"INSERT INTO {table} VALUES (%s)", [port])
    with connect() as session:
        assert one(session, "SELECT system_identifier FROM pg_control_system()") == (before,)
        assert one(session, "SELECT state, sync_state FROM pg_stat_replication") == (
            "streaming",
            "sync",
        )


def test_the_reader_has_its_own_address_and_name(
    emulator: Emulator, reader: dict[str, Any]
) -> None:
    """The reader is a server of its own, on the usual port."""
    assert reader["host"] == "myserver-replica.postgres.database.azure.com"
    assert reader["hostaddr"] != emulator.hostaddr
    assert reader["port"] == 5432


def test_the_reader_is_read_only(connect: Connect, reader: dict[str, Any], table: str) -> None:
    """What is written arrives at the reader, which refuses to write itself."""
    with connect(autocommit=True) as session:
        session.execute(f"INSERT INTO {table} VALUES (1)")
    with connect(**reader, autocommit=True) as session:
        while session.execute(f"SELECT n FROM {table}").fetchall() != [(1,)]:
            pass  # on its way
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            session.execute(f"INSERT INTO {table} VALUES (2)")


@pytest.mark.parametrize(
    ("wanted", "standby"),
    [
        ("read-write", False),
        ("primary", False),
        ("read-only", True),
        ("standby", True),
        ("prefer-standby", True),
        ("any", False),
    ],
)
def test_target_session_attrs(
    connect: Connect, both: dict[str, Any], wanted: str, standby: bool
) -> None:
    """Of writer and reader libpq chooses the one that was asked for."""
    with connect(**both, target_session_attrs=wanted) as session:
        assert one(session, "SELECT pg_is_in_recovery()") == (standby,)


def test_load_balance_hosts(connect: Connect, both: dict[str, Any]) -> None:
    """With load_balance_hosts both are reached, in whatever order."""
    seen: set[str] = set()
    while len(seen) < 2:
        with connect(**both, load_balance_hosts="random") as session:
            seen.add(session.info.host)
    assert seen == set(both["host"].split(","))


def test_prefer_standby_falls_back_to_the_primary(
    emulator: Emulator, connect: Connect, both: dict[str, Any]
) -> None:
    """When the reader refuses, the writer is there for those who only prefer a standby."""
    with (
        emulator.fault(connect="refuse", at="reader"),
        connect(**both, target_session_attrs="prefer-standby") as session,
    ):
        assert one(session, "SELECT pg_is_in_recovery()") == (False,)


def test_a_new_standby_replaces_the_promoted_one(
    emulator: Emulator, connect: Connect, reader: dict[str, Any], table: str
) -> None:
    """A failover cuts the reader's sessions; afterwards a new standby is at the same address."""
    with connect(**reader) as session:
        emulator.fail_over(refused=0, starting=0)
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")
    assert (emulator.reader_hostaddr, emulator.reader_port) == (reader["hostaddr"], reader["port"])
    with connect(**reader) as session:
        assert one(session, "SELECT pg_is_in_recovery()") == (True,)


def test_new_roles_authenticate_at_the_reader(
    emulator: Emulator, connect: Connect, reader: dict[str, Any]
) -> None:
    """A role made while there is a standby signs in there as well, and after a failover too."""
    carol = emulator.add_role("carol@contoso.com")
    for _ in range(2):
        for place in ({}, reader):
            with connect(carol.name, emulator.token(carol), **place) as session:
                assert one(session, "SELECT session_user") == (carol.name,)
        emulator.fail_over(refused=0, starting=0)


def test_the_standby_reconnects_after_restarts(
    emulator: Emulator, connect: Connect, table: str
) -> None:
    """After any restart of the primary the standby finds it again, and commits are acknowledged."""
    for n, mode in enumerate(("fast", "immediate", "kill", "kill-backend")):
        emulator.restart_postgres(mode)  # type: ignore[arg-type]  # mypy sees strings
        with connect() as session:
            session.execute(f"INSERT INTO {table} VALUES (%s)", [n])


def test_failover_without_standby_and_pgbouncer() -> None:
    """A plain emulator has no standby and makes one when needed; with an older PostgreSQL too.

    Without PgBouncer there is none to restart.
    """
    with Emulator(pgbouncer=False, postgres="/usr/lib/postgresql/15") as emulator:
        known: dict[str, Any] = {
            "user": "myapp",
            "dbname": "postgres",
            "password": emulator.token(),
            "sslmode": "verify-full",
            "sslrootcert": emulator.root_certificate,
        }
        with psycopg.connect(host=emulator.host, hostaddr=emulator.hostaddr, **known) as session:
            assert one(session, "SELECT count(*) FROM pg_stat_replication") == (0,)
            assert one(session, "SHOW synchronous_standby_names") == ("",)
        emulator.fail_over(refused=0, starting=0)
        with psycopg.connect(
            host=emulator.reader_host, hostaddr=emulator.reader_hostaddr, **known
        ) as session:
            assert one(session, "SELECT pg_is_in_recovery()") == (True,)
        with pytest.raises(EmulatorError, match="without PgBouncer"):
            emulator.restart_pgbouncer()


def test_negative_durations_raise_an_error(emulator: Emulator) -> None:
    """Durations are refused that are none, before anything happens."""
    with pytest.raises(EmulatorError, match="are seconds"):
        emulator.fail_over(refused=-1)
    with socket.create_connection((emulator.hostaddr, emulator.port)):
        pass


def one(session: psycopg.Connection[Any], query: str) -> tuple[Any, ...]:
    """Return the one row of a query."""
    (row,) = session.execute(query.encode()).fetchall()
    return tuple(row)
