"""Failover to the standby, and the read replica."""

import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from azpg.emulator import Emulator, EmulatorError

Connect = Callable[..., psycopg.Connection[Any]]
GetConnectError = Callable[..., str]


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """Run an emulator with a standby, for these tests only."""
    with Emulator(standby=True) as emulator:
        yield emulator


@pytest.fixture
def reader(emulator: Emulator) -> dict[str, Any]:
    """Return the connection parameters of the reader."""
    return {
        "host": emulator.reader_host,
        "hostaddr": emulator.reader_hostaddr,
        "port": emulator.reader_port,
    }


@pytest.fixture
def writer_and_reader(emulator: Emulator) -> dict[str, Any]:
    """Return the connection parameters of the writer first and the reader second."""
    return {
        "host": f"{emulator.host},{emulator.reader_host}",
        "hostaddr": f"{emulator.hostaddr},{emulator.reader_hostaddr}",
        "port": f"{emulator.port},{emulator.reader_port}",
    }


@pytest.fixture
def table(connect: Connect) -> str:
    """Create an empty table of numbers and return its name."""
    with connect() as session:
        session.execute("CREATE TABLE IF NOT EXISTS numbers (n bigint PRIMARY KEY)")
        session.execute("TRUNCATE numbers")
    return "numbers"


def test_no_acknowledged_commit_is_lost(emulator: Emulator, connect: Connect, table: str) -> None:
    """Every commit that was acknowledged before or during two failovers is there afterwards."""
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
    emulator: Emulator, connect: Connect, get_connect_error: GetConnectError, table: str
) -> None:
    """Sessions end with 57P01; then connections are refused, get 57P03, and succeed."""
    with connect(autocommit=True) as session, connect(port=emulator.pgbouncer_port) as pooled:
        (before,) = fetch_one(session, "SELECT system_identifier FROM pg_control_system()")
        errors: list[str] = []
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
            except psycopg.OperationalError as error:
                errors.append(str(error))
        failing_over.join()
        with pytest.raises(psycopg.OperationalError):
            pooled.execute("SELECT 1")
    stages = [
        stage
        for stage, _ in itertools.groupby("Connection refused" in message for message in errors)
    ]
    assert stages == [True, False]
    assert "FATAL:  the database system is starting up" in errors[-1]
    for port in (emulator.port, emulator.pgbouncer_port):
        with connect(port=port) as session:
            assert fetch_one(session, "SELECT pg_is_in_recovery()") == (False,)
            session.execute(f"INSERT INTO {table} VALUES (%s)", [port])
    with connect() as session:
        assert fetch_one(session, "SELECT system_identifier FROM pg_control_system()") == (before,)
        assert fetch_one(session, "SELECT state, sync_state FROM pg_stat_replication") == (
            "streaming",
            "sync",
        )


def test_the_reader_has_its_own_address_and_name(
    emulator: Emulator, reader: dict[str, Any]
) -> None:
    """The reader has its own host name and address, on PostgreSQL's port."""
    assert reader["host"] == "myserver-replica.postgres.database.azure.com"
    assert reader["hostaddr"] != emulator.hostaddr
    assert reader["port"] == 5432


def test_the_reader_is_read_only(connect: Connect, reader: dict[str, Any], table: str) -> None:
    """What was written on the primary can be read at the reader, where writing fails."""
    with connect(autocommit=True) as session:
        session.execute(f"INSERT INTO {table} VALUES (1)")
    with connect(**reader, autocommit=True) as session:
        while session.execute(f"SELECT n FROM {table}").fetchall() != [(1,)]:
            pass  # until it has been replicated
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            session.execute(f"INSERT INTO {table} VALUES (2)")


@pytest.mark.parametrize(
    ("target_session_attrs", "is_standby"),
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
    connect: Connect, writer_and_reader: dict[str, Any], target_session_attrs: str, is_standby: bool
) -> None:
    """Libpq selects the writer or the reader by target_session_attrs."""
    with connect(**writer_and_reader, target_session_attrs=target_session_attrs) as session:
        assert fetch_one(session, "SELECT pg_is_in_recovery()") == (is_standby,)


def test_load_balance_hosts(connect: Connect, writer_and_reader: dict[str, Any]) -> None:
    """With load_balance_hosts libpq connects to both."""
    connected_hosts: set[str] = set()
    while len(connected_hosts) < 2:
        with connect(**writer_and_reader, load_balance_hosts="random") as session:
            connected_hosts.add(session.info.host)
    assert connected_hosts == set(writer_and_reader["host"].split(","))


def test_prefer_standby_falls_back_to_the_primary(
    emulator: Emulator, connect: Connect, writer_and_reader: dict[str, Any]
) -> None:
    """With prefer-standby libpq connects to the primary if the reader refuses connections."""
    with (
        emulator.fault(connect="refuse", at="reader"),
        connect(**writer_and_reader, target_session_attrs="prefer-standby") as session,
    ):
        assert fetch_one(session, "SELECT pg_is_in_recovery()") == (False,)


def test_a_new_standby_replaces_the_promoted_one(
    emulator: Emulator, connect: Connect, reader: dict[str, Any], table: str
) -> None:
    """A failover ends the reader's sessions; afterwards a new standby has the same address."""
    with connect(**reader) as session:
        emulator.fail_over(refused=0, starting=0)
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")
    assert (emulator.reader_hostaddr, emulator.reader_port) == (reader["hostaddr"], reader["port"])
    with connect(**reader) as session:
        assert fetch_one(session, "SELECT pg_is_in_recovery()") == (True,)


def test_new_roles_authenticate_at_the_reader(
    emulator: Emulator, connect: Connect, reader: dict[str, Any]
) -> None:
    """A role created while there is a standby authenticates there, also after a failover."""
    carol = emulator.add_role("carol@contoso.com")
    for _ in range(2):
        for server in ({}, reader):
            with connect(carol.name, emulator.token(carol), **server) as session:
                assert fetch_one(session, "SELECT session_user") == (carol.name,)
        emulator.fail_over(refused=0, starting=0)


def test_the_standby_reconnects_after_restarts(
    emulator: Emulator, connect: Connect, table: str
) -> None:
    """After each kind of restart the standby reconnects, and commits are acknowledged."""
    for n, mode in enumerate(("fast", "immediate", "kill", "kill-backend")):
        emulator.restart_postgres(mode)  # type: ignore[arg-type]  # mypy infers str
        with connect() as session:
            session.execute(f"INSERT INTO {table} VALUES (%s)", [n])


def test_failover_without_standby_and_pgbouncer(tools: Path) -> None:
    """Without `standby=True` the standby is created when needed, also by an older PostgreSQL.

    Without PgBouncer, restarting it raises an error.
    """
    with Emulator(pgbouncer=False, postgres=tools.parent) as emulator:
        options: dict[str, Any] = {
            "user": "myapp",
            "dbname": "postgres",
            "password": emulator.token(),
            "sslmode": "verify-full",
            "sslrootcert": emulator.root_certificate,
        }
        with psycopg.connect(host=emulator.host, hostaddr=emulator.hostaddr, **options) as session:
            assert fetch_one(session, "SELECT count(*) FROM pg_stat_replication") == (0,)
            assert fetch_one(session, "SHOW synchronous_standby_names") == ("",)
        emulator.fail_over(refused=0, starting=0)
        with psycopg.connect(
            host=emulator.reader_host, hostaddr=emulator.reader_hostaddr, **options
        ) as session:
            assert fetch_one(session, "SELECT pg_is_in_recovery()") == (True,)
        with pytest.raises(EmulatorError, match="without PgBouncer"):
            emulator.restart_pgbouncer()


def test_negative_durations_raise_an_error(emulator: Emulator) -> None:
    """Negative durations raise an error before the failover begins."""
    with pytest.raises(EmulatorError, match="are seconds"):
        emulator.fail_over(refused=-1)
    with socket.create_connection((emulator.hostaddr, emulator.port)):
        pass


def fetch_one(session: psycopg.Connection[Any], query: str) -> tuple[Any, ...]:
    """Return the one row of a query."""
    (row,) = session.execute(query.encode()).fetchall()
    return tuple(row)
