"""The front door itself: TLS in each form, the ports, many clients and odd ones, the counts."""

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
Refusal = Callable[..., str]


def test_azures_ports_are_used(emulator: Emulator) -> None:
    """The door stands on 5432 and 6432, so that a client's own defaults are exercised."""
    assert (emulator.port, emulator.pgbouncer_port) == (5432, 6432)
    assert "PGPORT" not in emulator.env
    assert emulator.notes == ()


@pytest.mark.parametrize("negotiation", ["postgres", "direct"])
def test_tls_negotiations(connect: Connect, port: int, negotiation: str) -> None:
    """TLS can be asked for first or be spoken from the first byte."""
    with connect(port=port, sslnegotiation=negotiation) as connection:
        assert connection.pgconn.ssl_in_use


def test_direct_tls_requires_alpn(emulator: Emulator) -> None:
    """A client that speaks TLS at once without naming the protocol is cut, as by PostgreSQL."""
    context = ssl.create_default_context(cafile=emulator.root_certificate)
    with (
        socket.create_connection((emulator.hostaddr, emulator.port)) as plain,
        context.wrap_socket(plain, server_hostname=emulator.host) as encrypted,
    ):
        assert encrypted.recv(1) == b""


def test_gss_encryption_is_declined(emulator: Emulator) -> None:
    """A request for GSS encryption is answered N, and TLS can still follow."""
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
    """A client that sends anything at all is cut, and the next one is served."""
    with (
        socket.create_connection((emulator.hostaddr, port), timeout=10) as plain,
        contextlib.suppress(OSError),  # cut before all of it was sent
    ):
        plain.sendall(sent)
        plain.shutdown(socket.SHUT_WR)
        while plain.recv(1000):
            pass
    with connect(port=port):
        pass


def test_a_connection_without_tls_is_rejected(refusal: Refusal, port: int) -> None:
    """A client that does not ask for TLS is told so in PostgreSQL's words and gets no further."""
    said = refusal(port=port, sslmode="disable")
    assert (
        'FATAL:  no pg_hba.conf entry for host "127.0.0.1", user "myapp", '
        'database "postgres", no encryption'
    ) in said


def test_the_stripped_tls_fault(emulator: Emulator, refusal: Refusal, port: int) -> None:
    """A server that declines TLS is refused by a client that insists."""
    with emulator.fault(tls="stripped"):
        assert "server does not support SSL" in refusal(port=port)


def test_pgbouncer_rejects_startup_options(emulator: Emulator, refusal: Refusal) -> None:
    """Startup options are refused, and a session does not own its server."""
    assert "unsupported startup parameter" in refusal(
        port=emulator.pgbouncer_port, options="-c search_path=public"
    )


def test_large_results_and_parameters(connect: Connect, port: int) -> None:
    """Results and uploads of many megabytes pass unharmed both ways."""
    with connect(port=port) as connection:
        text = connection.execute("SELECT repeat('x', 20000000)").fetchone()
        assert text is not None
        assert len(text[0]) == 20_000_000
        assert connection.execute("SELECT length(%s)", text).fetchone() == (20_000_000,)


def test_concurrent_connections(emulator: Emulator) -> None:
    """Forty clients at once are all served."""
    token = emulator.token()

    async def one() -> Any:
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
        return await asyncio.gather(*(one() for _ in range(40)))

    assert asyncio.run(main()) == [(1,)] * 40


def test_counts(emulator: Emulator, connect: Connect, refusal: Refusal) -> None:
    """Connections, handshakes, sign-ins and refusals are counted."""
    before = emulator.counts
    with connect():
        pass
    refusal(password="no token")
    refusal("nobody-here")
    refusal(sslmode="disable")
    seen = emulator.counts - before
    assert (seen.connections, seen.tls_handshakes) == (4, 3)
    assert (seen.sign_ins, seen.refused_sign_ins) == (1, 3)
