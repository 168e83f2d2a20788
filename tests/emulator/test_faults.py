"""Connection faults: refuse, stall, cut at each stage, an error message; and their end."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, Literal

import psycopg
import pytest

from azpg.emulator import Emulator
from azpg.emulator._proxy.loopback import listen

Connect = Callable[..., psycopg.Connection[Any]]
GetConnectError = Callable[..., str]
ListenerName = Literal["postgres", "pgbouncer"]

# libpq's error messages for a connection that ends before it is ready.
ENDED = "server closed the connection unexpectedly|SSL error: unexpected eof|EOF detected"


@pytest.fixture(autouse=True)
def _end_faults_after_the_test(emulator: Emulator) -> Iterator[None]:
    """End every fault after each test."""
    yield
    emulator.end_faults()


@pytest.fixture
def listener(emulator: Emulator, port: int) -> ListenerName:
    """Return the name of the listener under test."""
    return "postgres" if port == emulator.port else "pgbouncer"


@pytest.fixture
def other_port(emulator: Emulator, port: int) -> int:
    """Return the port of the other listener."""
    assert emulator.pgbouncer_port is not None
    return emulator.port + emulator.pgbouncer_port - port


def test_connect_refuse(
    emulator: Emulator, connect: Connect, listener: ListenerName, port: int, other_port: int
) -> None:
    """A listener refuses connections for as long as the fault lasts; all others go on."""
    with connect(port=port) as before:
        with emulator.fault(connect="refuse", at=listener):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((emulator.hostaddr, port))
            with connect(port=other_port):
                pass
            assert before.execute("SELECT 1").fetchone() == (1,)
        with connect(port=port):
            pass
        assert before.execute("SELECT 1").fetchone() == (1,)


def test_a_refusing_port_stays_reserved(emulator: Emulator) -> None:
    """Another emulator does not get the ports of one whose listeners refuse connections."""
    with emulator.fault(connect="refuse"):
        others = listen([emulator.port, 6432])
        for other in others:
            assert other.getsockname()[0] != emulator.hostaddr
            other.close()


def test_connect_stall(
    emulator: Emulator, get_connect_error: GetConnectError, listener: ListenerName, port: int
) -> None:
    """A stalled listener accepts and never answers, so that the client times out."""
    with emulator.fault(connect="stall", at=listener):
        before = emulator.counts
        assert "timeout expired" in get_connect_error(port=port, connect_timeout=2)
        assert (emulator.counts - before).connections == 1


@pytest.mark.parametrize("negotiation", ["postgres", "direct"])
@pytest.mark.parametrize(
    ("stage", "handshakes", "sign_ins"),
    [
        ("cut-at-ssl-request", 0, 0),
        ("cut-in-tls", 0, 0),
        ("cut-at-password", 1, 0),
        ("cut-before-ok", 1, 0),
        ("cut-after-ok", 1, 1),
    ],
)
def test_connect_cut_at_each_stage(
    emulator: Emulator,
    connect: Connect,
    port: int,
    stage: Any,
    negotiation: str,
    handshakes: int,
    sign_ins: int,
) -> None:
    """A connection ends at the requested stage, not earlier and not later."""
    before = emulator.counts
    with (
        emulator.fault(connect=stage),
        pytest.raises(psycopg.OperationalError, match=ENDED) as error,
    ):
        connect(port=port, sslnegotiation=negotiation)
    counts = emulator.counts - before
    assert (counts.tls_handshakes, counts.sign_ins) == (handshakes, sign_ins)
    assert error.value.pgconn is not None
    # libpq records whether the server has requested the password.
    assert bool(error.value.pgconn.used_password) == (handshakes == 1)
    with connect(port=port):
        pass


def test_a_native_role_is_cut_at_the_password(
    emulator: Emulator, connect: Connect, port: int
) -> None:
    """A native role's connection ends when the client sends its first SCRAM message."""
    emulator.add_role(f"native {port}", password="secret")
    with (
        emulator.fault(connect="cut-at-password"),
        pytest.raises(psycopg.OperationalError, match=ENDED),
    ):
        connect(f"native {port}", "secret", port=port)
    with connect(f"native {port}", "secret", port=port):
        pass


@pytest.mark.parametrize(
    ("sqlstate", "message"),
    [
        ("57P03", "the database system is starting up"),
        ("53300", "sorry, too many clients already"),
        ("08P01", "no more connections allowed (max_client_conn)"),
    ],
)
def test_say(
    emulator: Emulator, get_connect_error: GetConnectError, port: int, sqlstate: str, message: str
) -> None:
    """The server returns the requested error within TLS."""
    before = emulator.counts
    with emulator.fault(say=(sqlstate, message)):
        assert f"FATAL:  {message}" in get_connect_error(port=port)
    assert (emulator.counts - before).tls_handshakes == 1


@pytest.mark.parametrize("reset", [False, True])
def test_cut_ends_open_connections(
    emulator: Emulator,
    connect: Connect,
    listener: ListenerName,
    port: int,
    other_port: int,
    reset: bool,
) -> None:
    """`cut` ends busy and idle connections of one listener, and none of the other."""
    emulator.cut()
    name = f"cut on {port} by {reset}"
    with connect(port=other_port) as other, connect(port=port) as idle, connect(port=port) as busy:
        busy.execute("SELECT set_config('application_name', %s, true)", [name])
        running = threading.Event()
        cut: list[int] = []

        def cut_when_it_runs() -> None:
            with connect(port=other_port, autocommit=True) as observer:
                query = "SELECT 1 FROM pg_stat_activity WHERE application_name = %s"
                while not observer.execute(
                    query + " AND query = 'SELECT pg_sleep(30)'", [name]
                ).fetchone():
                    pass
                cut.append(emulator.cut(reset=reset, at=listener))
            running.set()

        thread = threading.Thread(target=cut_when_it_runs)
        thread.start()
        with pytest.raises(psycopg.OperationalError) as error:
            busy.execute("SELECT pg_sleep(30)")
        thread.join()
        assert running.is_set()
        assert cut == [2]
        # For a connection that ends without close_notify libpq has another message.
        assert ("server closed the connection unexpectedly" in str(error.value)) == reset
        with pytest.raises(psycopg.OperationalError):
            idle.execute("SELECT 1")
        assert other.execute("SELECT 1").fetchone() == (1,)


def test_end_faults(emulator: Emulator, connect: Connect, port: int) -> None:
    """`end_faults` ends every fault; contexts that end later have no effect."""
    with (
        emulator.fault(connect="refuse"),
        emulator.fault(certificate="expired", identity=500, token="malformed"),
    ):
        emulator.end_faults()
        with connect(port=port):
            pass
        with emulator.fault(say=("57P03", "the database system is shutting down")):
            pass
    with connect(port=port):
        pass


def test_overlapping_faults(
    emulator: Emulator, get_connect_error: GetConnectError, connect: Connect, port: int
) -> None:
    """Contexts may end in any order. Of two faults of one kind the later one applies."""
    first, second, third = (
        emulator.fault(say=("57P03", "first")),
        emulator.fault(say=("57P03", "second")),
        emulator.fault(certificate="other-name"),
    )
    with contextlib.ExitStack() as stack:
        first.__enter__()
        stack.push(second)
        second.__enter__()
        assert "second" in get_connect_error(port=port)
        third.__enter__()
        first.__exit__(None, None, None)
        assert "does not match host name" in get_connect_error(port=port)
        third.__exit__(None, None, None)
        assert "second" in get_connect_error(port=port)
    with connect(port=port):
        pass


def test_a_certificate_fault_at_one_listener(
    emulator: Emulator,
    get_connect_error: GetConnectError,
    connect: Connect,
    listener: ListenerName,
    port: int,
    other_port: int,
) -> None:
    """A wrong certificate can be presented by one listener only."""
    with emulator.fault(certificate="other-root", at=listener):
        assert "certificate verify failed" in get_connect_error(port=port)
        with connect(port=other_port):
            pass


def test_revoke_tokens(
    emulator: Emulator, get_connect_error: GetConnectError, connect: Connect, port: int
) -> None:
    """Revoked tokens are rejected with Azure's general message; later tokens are accepted."""
    token = emulator.token()
    with connect(password=token, port=port):
        emulator.revoke_tokens()
    assert "An error occurred while validating the access token" in get_connect_error(
        password=token, port=port
    )
    with connect(password=emulator.token(), port=port):
        pass
