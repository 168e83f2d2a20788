"""The front door: TLS, the token check in Azure's place, then a plain pipe to the real server."""

import asyncio
import contextlib
import logging
import socket
import ssl
import struct
from functools import partial
from pathlib import Path

from . import _azure
from ._certificates import Certificates
from ._counts import Tally
from ._protocol import (
    ASK_CLEARTEXT_PASSWORD,
    CANCEL_REQUEST,
    GSSENC_REQUEST,
    MAX_PASSWORD,
    SSL_REQUEST,
    Startup,
    code_of,
    error_fields,
    fatal,
    message,
    parse_startup,
    read_message,
    read_packet,
)
from ._tenant import Tenant

_log = logging.getLogger("azpg.emulator")

_TLS_RECORD = b"\x16"
# PostgreSQL's own authentication_timeout.
_SIGN_IN_TIMEOUT = 60
_CHUNK = 1 << 16

# A client that goes away in the middle is nothing to report.
_GONE = (OSError, EOFError, ssl.SSLError, TimeoutError)


class FrontDoor:
    """Stand on one port before one private Unix socket."""

    def __init__(
        self,
        listener: socket.socket,
        backend: Path,
        *,
        tenant: Tenant,
        certificates: Certificates,
        tally: Tally,
        reserved: str,
    ) -> None:
        self._listener = listener
        self._backend = backend
        self._tenant = tenant
        self._certificates = certificates
        self._tally = tally
        self._reserved = reserved

    async def serve(self) -> None:
        """Accept connections until cancelled; then every open one is cut."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as connections:
            while True:
                sock, _ = await loop.sock_accept(self._listener)
                connections.create_task(self._connection(sock))

    async def _connection(self, sock: socket.socket) -> None:
        """Serve one connection to its end; none of them may take the door down with it."""
        self._tally["connections"] += 1
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.closing(sock):
            try:
                async with asyncio.timeout(_SIGN_IN_TIMEOUT) as limit:
                    if (client := await self._encrypted(sock)) is None:
                        return
                    try:
                        server = await self._signed_in(*client)
                        limit.reschedule(None)
                        if server is not None:
                            await self._splice(*client, *server)
                    finally:
                        client[1].transport.abort()
            except _GONE:
                pass
            except Exception:  # noqa: BLE001  # said on stderr; the others go on
                _log.exception("the front door failed a connection")

    async def _encrypted(
        self, sock: socket.socket
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Bring the connection to TLS, or deal with what needs none and return None."""
        loop = asyncio.get_running_loop()
        while True:
            # A client that speaks TLS at once is told by its first byte, left for the handshake.
            await _readable(sock)
            if sock.recv(1, socket.MSG_PEEK) == _TLS_RECORD:
                if self._tenant.faults.tls == "stripped":
                    return None
                return await self._handshake(sock, direct=True)
            packet = await read_packet(partial(_receive, sock))
            code = code_of(packet)
            if code == SSL_REQUEST and self._tenant.faults.tls != "stripped":
                await loop.sock_sendall(sock, b"S")
                return await self._handshake(sock, direct=False)
            if code in {SSL_REQUEST, GSSENC_REQUEST}:
                await loop.sock_sendall(sock, b"N")
            elif code == CANCEL_REQUEST:
                await self._cancel(packet)
                return None
            else:
                asked = parse_startup(packet)
                address = sock.getpeername()[0]
                refusal = _azure.no_encryption(address, asked.user, asked.database)
                self._tally["refused_sign_ins"] += 1
                await loop.sock_sendall(sock, fatal(refusal.sqlstate, refusal.message))
                return None

    async def _handshake(
        self, sock: socket.socket, *, direct: bool
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        transport, protocol = await loop.connect_accepted_socket(
            lambda: asyncio.StreamReaderProtocol(reader),
            sock,
            ssl=self._certificates.context(self._tenant.faults.certificate),
        )
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        self._tally["tls_handshakes"] += 1
        chosen = transport.get_extra_info("ssl_object").selected_alpn_protocol()
        if direct and chosen != "postgresql":
            # As PostgreSQL: without ALPN, some other protocol's client could be meant.
            transport.abort()
            return None
        return reader, writer

    async def _signed_in(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Judge the sign-in and return the way to the server behind, or refuse."""
        packet = await read_packet(reader.readexactly)
        if code_of(packet) == CANCEL_REQUEST:
            await self._cancel(packet)
            await _close(writer)
            return None
        asked = parse_startup(packet)
        try:
            await self._judge(asked, reader, writer)
        except _azure.RefusalError as refusal:
            self._tally["refused_sign_ins"] += 1
            writer.write(fatal(refusal.sqlstate, refusal.message))
            await _close(writer)
            return None
        server = await asyncio.open_unix_connection(self._backend)
        server[1].write(packet)
        return server

    async def _judge(
        self, asked: Startup, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Check an Entra role's token; any other role is for the server behind to judge."""
        if asked.user == self._reserved:
            raise _azure.wrong_password(asked.user)
        role = self._tenant.role(asked.user)
        if role is None:
            return
        writer.write(ASK_CLEARTEXT_PASSWORD)
        kind, body = await read_message(reader, MAX_PASSWORD)
        if kind != b"p":
            raise _azure.malformed()
        self._tenant.admit(body.removesuffix(b"\0").decode(errors="replace"), role)

    async def _cancel(self, packet: bytes) -> None:
        """Pass a cancel request on; the server answers it by closing."""
        self._tally["cancel_requests"] += 1
        reader, writer = await asyncio.open_unix_connection(self._backend)
        writer.write(packet)
        await reader.read()
        writer.close()

    async def _splice(
        self,
        client_reader: asyncio.StreamReader,
        client_writer: asyncio.StreamWriter,
        server_reader: asyncio.StreamReader,
        server_writer: asyncio.StreamWriter,
    ) -> None:
        """Carry bytes both ways until either side ends."""
        directions = (
            asyncio.create_task(_pump(client_reader, server_writer)),
            asyncio.create_task(self._pump_back(server_reader, client_writer)),
        )
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for direction in directions:
                direction.cancel()
            await asyncio.gather(*directions, return_exceptions=True)
            server_writer.close()
            await _close(client_writer)

    async def _pump_back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry the server's bytes, reading along until it has decided on the sign-in."""
        while True:
            kind, body = await read_message(reader, _CHUNK)
            writer.write(message(kind, body))
            if kind == b"R" and struct.unpack_from("!i", body)[0] == 0:
                self._tally["sign_ins"] += 1
                break
            if kind == b"E":
                self._tally["refused_sign_ins"] += error_fields(body).get("C", "")[:2] in {
                    "08",
                    "28",
                }
                break
        await _pump(reader, writer)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()


async def _close(writer: asyncio.StreamWriter) -> None:
    """Send what is still to be sent, say goodbye in TLS, and close without waiting for an answer.

    A PostgreSQL server does not wait either: its clients see the end of the stream at once.
    """
    with contextlib.suppress(*_GONE):
        writer.transport.set_write_buffer_limits(high=0)
        await writer.drain()
    writer.close()
    writer.transport.abort()


async def _readable(sock: socket.socket) -> None:
    ready = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock)


async def _receive(sock: socket.socket, size: int) -> bytes:
    """Read exactly so many bytes: one more would be missing from the TLS handshake."""
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < size:
        part = await loop.sock_recv(sock, size - len(data))
        if not part:
            raise EOFError
        data += part
    return data
