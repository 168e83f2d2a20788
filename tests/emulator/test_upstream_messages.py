"""What the proxy sends to the real servers: packets that it has built itself."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from pathlib import Path

import pytest
from fix_raw_client import CANCEL_REQUEST, PROTOCOL_3_0, SSL_REQUEST, packet

from azpg.emulator import _azure_host
from azpg.emulator._counters import Counters
from azpg.emulator._proxy.certificates import ServerCertificates
from azpg.emulator._proxy.listener import Listener
from azpg.emulator._proxy.proxy_session import SessionContext

AZURE_HOST = _azure_host.parse_host("myserver.postgres.database.azure.com")


async def _no_password_check(_role: str) -> None:
    """Leave every password to the real server."""


async def received(folder: Path, sent: bytes) -> bytes:
    """Send bytes within TLS to a listener and return what its server receives first."""
    server = folder / "server"
    first: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def record(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first.set_result(await reader.read(1000))
        writer.close()

    certificates = ServerCertificates(AZURE_HOST)
    context = SessionContext(_no_password_check, certificates, Counters(), frozenset(), {})
    client_context = ssl.create_default_context(cadata=certificates.root_pem.decode())
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    async with await asyncio.start_unix_server(record, server):
        listener = Listener("postgres", sock, server, context)
        reader, writer = await asyncio.open_connection(*listener.address)
        try:
            writer.write(packet(b"", SSL_REQUEST))
            assert await reader.readexactly(1) == b"S"
            await writer.start_tls(client_context, server_hostname=AZURE_HOST.name)
            writer.write(sent)
            async with asyncio.timeout(60):
                return await first
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            await listener.stop()


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"user\0alice\0\0", b"user\0alice\0database\0alice\0\0"),
        (b"database\0\0user\0alice\0\0", b"database\0alice\0user\0alice\0\0"),
        (b"user\0alice\0database\0shop\0x\0\0\0", b"user\0alice\0database\0shop\0x\0\0\0"),
    ],
)
def test_the_startup_packet_is_rebuilt_from_what_was_checked(
    tmp_path: Path, sent: bytes, expected: bytes
) -> None:
    """The server receives the user and the database that were checked, and always both."""
    for version in (PROTOCOL_3_0, PROTOCOL_3_0 + 2):
        read = asyncio.run(received(tmp_path, packet(sent, version)))
        assert read == packet(expected, version)


@pytest.mark.parametrize("key", [b"abcd", b"k" * 32])
def test_the_cancel_request_is_rebuilt(tmp_path: Path, key: bytes) -> None:
    """The server receives the process ID and the key, and nothing that followed them."""
    request = packet(struct.pack("!i", 77) + key, CANCEL_REQUEST)
    assert asyncio.run(received(tmp_path, request + packet(b"user\0alice\0\0"))) == request
