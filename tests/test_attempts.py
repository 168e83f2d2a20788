"""Verified servers that do not complete a connection attempt: connect() ends it in time."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import generators, waiting
from psycopg.conninfo import make_conninfo

import azpg
from azpg import _attempt, _deadline

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_api import Api, AsyncApi, SyncApi
    from fix_credentials import Credentials
    from fix_hostile import Certificates, Hostile, Peer, Script
    from fix_servers import Postgres

pytestmark = pytest.mark.compat

CLEARTEXT = b"R\0\0\0\x08\0\0\0\x03"
CONNECT_TIMEOUT = 2
ENDLESS = 10
"""seconds that even a loaded machine does not add; what a server blocks lasts longer"""


def ask_and_read(peer: Peer) -> None:
    """Request the password again after each answer."""
    while True:
        peer.send(CLEARTEXT)
        peer.message()


def ask_and_read_nothing(peer: Peer) -> None:
    """Request the password endlessly, and read no answer."""
    while True:
        peer.send(CLEARTEXT * 1000)


def ask_and_read_slowly(peer: Peer) -> None:
    """Request the password many times, and read the answers slowly."""
    peer.send(CLEARTEXT * 10_000)
    while peer.read(1000):
        threading.Event().wait(0.05)


def trickle(peer: Peer) -> None:
    """Send a message byte by byte, which would take an hour."""
    peer.send(b"R\0\0\x7f\0")
    while True:
        peer.send(b"\0")
        threading.Event().wait(0.05)


@pytest.fixture
def asked(
    request: pytest.FixtureRequest,
    hostile: Callable[[Script], Hostile],
    certificates: Certificates,
    credentials: Credentials,
) -> dict[str, Any]:
    """Return a function that connects to a server that plays one of the scripts."""

    def talk(peer: Peer) -> None:
        peer.start_tls(certificates.right)
        peer.packet()
        request.param(peer)

    options = {"user": "me", "sslrootcert": certificates.root, "connect_timeout": CONNECT_TIMEOUT}
    token = credentials.with_get_token()
    return {**hostile(talk).address(), **options, "credential": token}


SCRIPTS = [ask_and_read, ask_and_read_nothing, ask_and_read_slowly, trickle]


@pytest.mark.parametrize("asked", SCRIPTS, indirect=True)
def test_a_server_cannot_block_a_connect(api: Api, asked: dict[str, Any]) -> None:
    """connect() ends within connect_timeout, however the server keeps libpq busy."""
    begun = time.monotonic()
    with pytest.raises(azpg.ConnectError):
        api.open(**asked)
    assert time.monotonic() - begun < ENDLESS


@pytest.mark.parametrize("asked", SCRIPTS, indirect=True)
def test_a_server_cannot_block_the_event_loop(asked: dict[str, Any]) -> None:
    """While a server keeps libpq busy, the other tasks of the event loop go on."""
    pauses: list[float] = []

    async def tick(ended: asyncio.Event) -> None:
        while not ended.is_set():
            begun = time.monotonic()
            await asyncio.sleep(0.01)
            pauses.append(time.monotonic() - begun)

    async def connect() -> None:
        ended = asyncio.Event()
        ticking = asyncio.create_task(tick(ended))
        await asyncio.sleep(0)  # let it start
        with pytest.raises(azpg.ConnectError):
            await azpg.connect_async(**asked)
        ended.set()
        await ticking

    asyncio.run(connect())
    assert max(pauses) < ENDLESS


@pytest.mark.parametrize("asked", [ask_and_read_nothing], indirect=True)
def test_a_server_that_reads_no_answer_is_a_protocol_error(api: Api, asked: dict[str, Any]) -> None:
    """The error says that the protocol was violated, and is not retried."""
    with pytest.raises(azpg.ConnectError) as caught:
        api.open(**asked | {"retry_timeout": 60})
    assert caught.value.kind == "protocol"
    assert f"port {asked['port']}" in str(caught.value)


def test_a_long_password_is_sent_whole(
    api: Api, hostile: Callable[[Script], Hostile], certificates: Certificates
) -> None:
    """A password of 12,000 characters, longer than any token, fits in libpq's buffer."""
    received: list[bytes] = []

    def talk(peer: Peer) -> None:
        peer.start_tls(certificates.right)
        peer.packet()
        peer.ask(3)
        received.append(peer.message()[1])
        peer.refuse('password authentication failed for user "me"', "28P01")

    password = "long" * 3000
    with pytest.raises(azpg.LoginError):
        api.open(
            **hostile(talk).address(), user="me", password=password, sslrootcert=certificates.root
        )
    assert received == [password.encode() + b"\0"]


ROOTLESS = {"sslmode": "verify-full", "sslrootcert": "nowhere"}

# The contract with psycopg


def conninfo_of(postgres: Postgres, **changed: str) -> str:
    """Return the connection string for libpq."""
    params = {name: str(value) for name, value in postgres.conninfo().items()}
    return make_conninfo(**params | changed)


@pytest.mark.parametrize("changed", [{"dbname": "nowhere"}, {"port": "1"}, {"port": "x"}, ROOTLESS])
def test_the_errors_are_the_same_as_psycopgs(postgres: Postgres, changed: dict[str, str]) -> None:
    """A failed connection has an error of the same class with the same text as psycopg's own."""

    def outcome(connection_class: type[psycopg.Connection[Any]]) -> psycopg.OperationalError:
        with _attempt.Attempt(), pytest.raises(psycopg.OperationalError) as caught:
            waiting.wait_conn(connection_class._connect_gen(conninfo), interval=0.1)
        return caught.value

    conninfo = conninfo_of(postgres, **changed)
    found, expected = outcome(azpg.Connection), outcome(psycopg.Connection)
    assert (type(found), str(found)) == (type(expected), str(expected))
    assert isinstance(found.pgconn, psycopg.errors.FinishedPGconn)


@pytest.mark.parametrize("generator", [generators.connect, generators._connect])
def test_the_connection_of_a_generator_is_found(postgres: Postgres, generator: Any) -> None:
    """Both kinds of psycopg keep the connection where `find_pgconn` looks, in C and in Python."""

    def steps() -> Any:
        return (yield from generator(conninfo_of(postgres)))

    running = steps()
    next(running)
    pgconn = _attempt.find_pgconn(running)
    assert pgconn is not None
    assert pgconn.status > psycopg.pq.ConnStatus.BAD
    running.close()


@pytest.mark.parametrize("is_stopped", [False, True])
def test_the_end_of_an_attempt_closes_its_socket(postgres: Postgres, is_stopped: bool) -> None:
    """Also if something, such as a traceback, still refers to psycopg's generator."""

    def check_stopped() -> None:
        if is_stopped:
            raise _deadline.Stopped

    error = _deadline.Stopped if is_stopped else KeyboardInterrupt
    steps: list[Any] = []
    descriptors: list[int] = []

    def connect() -> None:
        with _attempt.Attempt(check_stopped):
            steps.append(azpg.Connection._connect_gen(conninfo_of(postgres)))
            descriptors.append(next(steps[0])[0])
            if is_stopped:
                steps[0].send(waiting.Ready.NONE)
            raise KeyboardInterrupt

    with pytest.raises(error) as caught:
        connect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptors[0])
    assert caught.value.__traceback__ is not None


def test_connects_without_the_connection_of_the_generator(
    api: SyncApi | AsyncApi, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a later psycopg keeps the connection elsewhere, it connects all the same."""
    monkeypatch.setattr(_attempt, "find_pgconn", lambda _steps: None)
    with api.connect(**postgres.conninfo()) as conn:
        assert api.row(conn, "select 1") == (1,)


def test_psycopg_calls_the_hook(
    api: SyncApi | AsyncApi, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Psycopg connects with `_connect_gen`, which azpg overrides."""
    conninfos: list[str] = []
    connect = _attempt.connect

    def record(steps: Any, conninfo: str) -> Any:
        conninfos.append(conninfo)
        return connect(steps, conninfo)

    monkeypatch.setattr(_attempt, "connect", record)
    with api.connect(**postgres.conninfo()):
        assert len(conninfos) == 1


def test_connects_without_the_hook(
    api: SyncApi | AsyncApi, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a later psycopg does not call the hook, its own generator connects."""
    monkeypatch.delattr(api.connection_class, "_connect_gen")
    with api.connect(**postgres.conninfo()) as conn:
        assert api.row(conn, "select 1") == (1,)


def test_connects_with_a_hook_of_another_signature(
    api: SyncApi | AsyncApi, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a later psycopg passes more arguments to the hook, its own generator gets them."""
    hook = api.connection_class._connect_gen
    parent = api.connection_class.__mro__[1]
    given: list[float] = []

    def with_timeout(cls: Any, conninfo: str = "", *, timeout: float) -> Any:
        given.append(timeout)
        return cls((yield from generators.connect(conninfo)))

    monkeypatch.setattr(parent, "_connect_gen", classmethod(with_timeout))
    monkeypatch.setattr(api.connection_class, "_connect_gen", lambda info: hook(info, timeout=3))
    with api.connect(**postgres.conninfo()) as conn:
        assert api.row(conn, "select 1") == (1,)
    assert given == [3]
