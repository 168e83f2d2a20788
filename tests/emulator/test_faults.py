"""Faults of the front door: refused, stalled, cut at each stage, told something; and their end."""

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
Refusal = Callable[..., str]
ListenerName = Literal["postgres", "pgbouncer"]

# What libpq says of a connection that ends before it is ready.
ENDED = "server closed the connection unexpectedly|SSL error: unexpected eof|EOF detected"


@pytest.fixture(autouse=True)
def _end_faults_after_the_test(emulator: Emulator) -> Iterator[None]:
    """Leave no fault behind."""
    yield
    emulator.end_faults()


@pytest.fixture
def place(emulator: Emulator, port: int) -> ListenerName:
    """Name the port that is being tested."""
    return "postgres" if port == emulator.port else "pgbouncer"


@pytest.fixture
def other_port(emulator: Emulator, port: int) -> int:
    """Name the port that is not being tested."""
    assert emulator.pgbouncer_port is not None
    return emulator.port + emulator.pgbouncer_port - port


def test_connect_refuse(
    emulator: Emulator, connect: Connect, place: ListenerName, port: int, other_port: int
) -> None:
    """A port refuses for as long as asked; the other port and open connections go on."""
    with connect(port=port) as before:
        with emulator.fault(connect="refuse", at=place):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((emulator.hostaddr, port))
            with connect(port=other_port):
                pass
            assert before.execute("SELECT 1").fetchone() == (1,)
        with connect(port=port):
            pass
        assert before.execute("SELECT 1").fetchone() == (1,)


def test_a_refusing_port_stays_reserved(emulator: Emulator) -> None:
    """Nobody else gets the emulator's ports while both refuse."""
    with emulator.fault(connect="refuse"):
        others = listen([emulator.port, 6432])
        for other in others:
            assert other.getsockname()[0] != emulator.hostaddr
            other.close()


def test_connect_stall(
    emulator: Emulator, refusal: Refusal, place: ListenerName, port: int
) -> None:
    """A stalled port accepts and never answers, so that only the client's patience ends it."""
    with emulator.fault(connect="stall", at=place):
        before = emulator.counts
        assert "timeout expired" in refusal(port=port, connect_timeout=2)
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
    """A connection is cut at the stage asked for, none earlier and none later."""
    before = emulator.counts
    with (
        emulator.fault(connect=stage),
        pytest.raises(psycopg.OperationalError, match=ENDED) as failed,
    ):
        connect(port=port, sslnegotiation=negotiation)
    seen = emulator.counts - before
    assert (seen.tls_handshakes, seen.sign_ins) == (handshakes, sign_ins)
    assert failed.value.pgconn is not None
    # libpq knows whether it was ever asked for the password.
    assert bool(failed.value.pgconn.used_password) == (handshakes == 1)
    with connect(port=port):
        pass


def test_a_native_role_is_cut_at_the_password(
    emulator: Emulator, connect: Connect, port: int
) -> None:
    """A role that proves its password to PostgreSQL itself is cut when it begins to."""
    emulator.add_role(f"native {port}", password="secret")
    with (
        emulator.fault(connect="cut-at-password"),
        pytest.raises(psycopg.OperationalError, match=ENDED),
    ):
        connect(f"native {port}", "secret", port=port)
    with connect(f"native {port}", "secret", port=port):
        pass


@pytest.mark.parametrize(
    ("sqlstate", "text"),
    [
        ("57P03", "the database system is starting up"),
        ("53300", "sorry, too many clients already"),
        ("08P01", "no more connections allowed (max_client_conn)"),
    ],
)
def test_say(emulator: Emulator, refusal: Refusal, port: int, sqlstate: str, text: str) -> None:
    """A server answers with the error asked for, over verified TLS."""
    before = emulator.counts
    with emulator.fault(say=(sqlstate, text)):
        assert f"FATAL:  {text}" in refusal(port=port)
    assert (emulator.counts - before).tls_handshakes == 1


@pytest.mark.parametrize("reset", [False, True])
def test_cut_ends_open_connections(
    emulator: Emulator,
    connect: Connect,
    place: ListenerName,
    port: int,
    other_port: int,
    reset: bool,
) -> None:
    """Open connections are cut while a query runs and while they are idle; other ports' are not."""
    emulator.cut()
    name = f"cut on {port} by {reset}"
    with connect(port=other_port) as other, connect(port=port) as idle, connect(port=port) as busy:
        busy.execute("SELECT set_config('application_name', %s, true)", [name])
        running = threading.Event()
        cut: list[int] = []

        def cut_once_it_runs() -> None:
            with connect(port=other_port, autocommit=True) as observer:
                query = "SELECT 1 FROM pg_stat_activity WHERE application_name = %s"
                while not observer.execute(
                    query + " AND query = 'SELECT pg_sleep(30)'", [name]
                ).fetchone():
                    pass
                cut.append(emulator.cut(reset=reset, at=place))
            running.set()

        thread = threading.Thread(target=cut_once_it_runs)
        thread.start()
        with pytest.raises(psycopg.OperationalError) as broken:
            busy.execute("SELECT pg_sleep(30)")
        thread.join()
        assert running.is_set()
        assert cut == [2]
        # libpq's words for an RST; of an end without TLS's goodbye it says that instead.
        assert ("server closed the connection unexpectedly" in str(broken.value)) == reset
        with pytest.raises(psycopg.OperationalError):
            idle.execute("SELECT 1")
        assert other.execute("SELECT 1").fetchone() == (1,)


def test_end_faults(emulator: Emulator, connect: Connect, port: int) -> None:
    """`end_faults` mends everything at once, and contexts that end later change nothing."""
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
    emulator: Emulator, refusal: Refusal, connect: Connect, port: int
) -> None:
    """Contexts may end in any order; of two faults of a kind the later one is in force."""
    first, second, third = (
        emulator.fault(say=("57P03", "first")),
        emulator.fault(say=("57P03", "second")),
        emulator.fault(certificate="other-name"),
    )
    with contextlib.ExitStack() as stack:
        first.__enter__()
        stack.push(second)
        second.__enter__()
        assert "second" in refusal(port=port)
        third.__enter__()
        first.__exit__(None, None, None)
        assert "does not match host name" in refusal(port=port)
        third.__exit__(None, None, None)
        assert "second" in refusal(port=port)
    with connect(port=port):
        pass


def test_a_certificate_fault_at_one_listener(
    emulator: Emulator,
    refusal: Refusal,
    connect: Connect,
    place: ListenerName,
    port: int,
    other_port: int,
) -> None:
    """The wrong certificate can be shown at one port alone."""
    with emulator.fault(certificate="other-root", at=place):
        assert "certificate verify failed" in refusal(port=port)
        with connect(port=other_port):
            pass


def test_revoke_tokens(emulator: Emulator, refusal: Refusal, connect: Connect, port: int) -> None:
    """Tokens that were revoked are refused in Azure's general words, and later ones are taken."""
    token = emulator.token()
    with connect(password=token, port=port):
        emulator.revoke_tokens()
    assert "An error occurred while validating the access token" in refusal(
        password=token, port=port
    )
    with connect(password=emulator.token(), port=port):
        pass
