"""The listeners: their ports, TLS in each form, many clients, invalid clients, the counters."""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from azpg.emulator import Emulator

Connect = Callable[..., psycopg.Connection[Any]]
GetConnectError = Callable[..., str]


def test_azures_ports_are_used(emulator: Emulator) -> None:
    """The listeners use 5432 and 6432, so that a client's default ports are tested."""
    assert (emulator.port, emulator.pgbouncer_port) == (5432, 6432)
    assert "PGPORT" not in emulator.env
    assert emulator.notes == ()


@pytest.mark.parametrize("negotiation", ["postgres", "direct"])
def test_tls_negotiations(connect: Connect, port: int, negotiation: str) -> None:
    """A client can request TLS first or start TLS directly."""
    with connect(port=port, sslnegotiation=negotiation) as connection:
        assert connection.pgconn.ssl_in_use


def test_direct_tls_requires_alpn(emulator: Emulator) -> None:
    """Direct TLS without ALPN ends the connection, as at PostgreSQL."""
    context = ssl.create_default_context(cafile=emulator.root_certificate)
    with (
        socket.create_connection((emulator.hostaddr, emulator.port)) as plain,
        context.wrap_socket(plain, server_hostname=emulator.host) as encrypted,
    ):
        assert encrypted.recv(1) == b""


def test_gss_encryption_is_declined(emulator: Emulator) -> None:
    """A request for GSS encryption is declined, and TLS can follow."""
    with socket.create_connection((emulator.hostaddr, emulator.port)) as plain:
        for request, answer in ((80877104, b"N"), (80877103, b"S")):
            plain.sendall(struct.pack("!ii", 8, request))
            assert plain.recv(1) == answer


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\x16",
        b"\x16\x03\x01\x00\x05hello",
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack("!ii", 8, 80877103) + b"no TLS at all",
        struct.pack("!ii", 2_000_000_000, 196608),
        struct.pack("!ii", 4, 80877103),
        struct.pack("!ii", -1, -1),
        struct.pack("!ii", 8, 80877102),
        struct.pack("!ii", 12, 196608) + b"user",
    ],
)
def test_garbage_ends_only_its_own_connection(
    emulator: Emulator, connect: Connect, port: int, sent: bytes
) -> None:
    """A client that sends garbage is disconnected, and the next one is served."""
    with (
        socket.create_connection((emulator.hostaddr, port), timeout=30) as plain,
        contextlib.suppress(OSError),  # disconnected before everything was sent
    ):
        plain.sendall(sent)
        plain.shutdown(socket.SHUT_WR)
        while plain.recv(1000):
            pass
    with connect(port=port):
        pass


def test_a_connection_without_tls_is_rejected(
    get_connect_error: GetConnectError, port: int
) -> None:
    """A client without TLS gets PostgreSQL's error message."""
    error = get_connect_error(port=port, sslmode="disable")
    assert (
        'FATAL:  no pg_hba.conf entry for host "127.0.0.1", user "myapp", '
        'database "postgres", no encryption'
    ) in error


def test_the_stripped_tls_fault(
    emulator: Emulator, get_connect_error: GetConnectError, port: int
) -> None:
    """A client that requires TLS rejects a server that declines it."""
    with emulator.fault(tls="stripped"):
        assert "server does not support SSL" in get_connect_error(port=port)


def test_pgbouncer_rejects_startup_options(
    emulator: Emulator, get_connect_error: GetConnectError
) -> None:
    """PgBouncer has Azure's settings, which reject options that it does not track itself."""
    assert "unsupported startup parameter" in get_connect_error(
        port=emulator.pgbouncer_port, options="-c work_mem=8MB"
    )


def test_large_results_and_parameters(connect: Connect, port: int) -> None:
    """Results and parameters of many megabytes are forwarded intact."""
    with connect(port=port) as connection:
        text = connection.execute("SELECT repeat('x', 20000000)").fetchone()
        assert text is not None
        assert len(text[0]) == 20_000_000
        assert connection.execute("SELECT length(%s)", text).fetchone() == (20_000_000,)


def test_concurrent_connections(emulator: Emulator) -> None:
    """Forty clients are served at the same time."""
    token = emulator.token()

    async def fetch_one() -> Any:
        connection = await psycopg.AsyncConnection.connect(
            host=emulator.host,
            hostaddr=emulator.hostaddr,
            user="myapp",
            dbname="postgres",
            password=token,
            sslmode="verify-full",
            sslrootcert=emulator.root_certificate,
        )
        async with connection:
            cursor = await connection.execute("SELECT 1")
            return await cursor.fetchone()

    async def main() -> list[Any]:
        return await asyncio.gather(*(fetch_one() for _ in range(40)))

    assert asyncio.run(main()) == [(1,)] * 40


def test_counts(emulator: Emulator, connect: Connect, get_connect_error: GetConnectError) -> None:
    """Connections, handshakes, successful and failed authentications are counted."""
    before = emulator.counts
    with connect():
        pass
    get_connect_error(password="no token")
    get_connect_error("nobody-here")
    get_connect_error(sslmode="disable")
    counts = emulator.counts - before
    assert (counts.connections, counts.tls_handshakes) == (4, 3)
    assert (counts.sign_ins, counts.refused_sign_ins) == (1, 3)
