"""One client's way in: TLS, the token check in Azure's place, then a plain pipe to the server."""

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from azpg.emulator import _azure_messages
from azpg.emulator._counters import Counters
from azpg.emulator._errors import RejectionError
from azpg.emulator._faults import ConnectFault, Faults, ListenerName
from azpg.emulator._protocol import (
    AUTHENTICATION_CLEARTEXT_PASSWORD,
    CANCEL_REQUEST,
    GSSENC_REQUEST,
    MAX_PASSWORD_BYTES,
    SSL_REQUEST,
    StartupMessage,
    Streams,
    encode_message,
    fatal_error,
    parse_cancel,
    parse_password,
    parse_startup,
    read_message,
    read_startup_packet,
    request_code,
    sqlstate_from,
)

from .certificates import ServerCertificates
from .tls_connection import TLSConnection

_log = logging.getLogger("azpg.emulator")

_ENCRYPTION_REQUESTS = {SSL_REQUEST, GSSENC_REQUEST}
_TLS_RECORD = b"\x16"
_AUTHENTICATION_OK = b"\0\0\0\0"
# PostgreSQL's own authentication_timeout.
_AUTHENTICATION_TIMEOUT_SECONDS = 60
_CHUNK_BYTES = 1 << 16
# On, and wait for nothing: closing then sends RST.
_LINGER_ZERO = struct.pack("ii", 1, 0)

# A client that goes away in the middle is nothing to report.
_DISCONNECTED = (OSError, EOFError)

# Returns for a password that lets its bearer in, or raises the refusal.
PasswordCheck = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class SessionContext:
    """Hold what all doors share: who may enter, and what they see and count."""

    password_check_for: Callable[[str], PasswordCheck | None]
    """Returns the check of a role's password; None if the server behind checks it."""
    certificates: ServerCertificates
    counters: Counters
    reserved_users: frozenset[str]
    """The users that the emulator itself is, and no client can be."""
    reserved_databases: Mapping[ListenerName, str]
    """The name at a place that is no database: PgBouncer's console."""


class ProxySession:
    """Serve one accepted connection, broken as the faults say that were in force then."""

    def __init__(
        self,
        sock: socket.socket,
        listener: ListenerName,
        upstream_socket: Path,
        context: SessionContext,
        faults: Faults,
    ) -> None:
        self._sock = sock
        self._upstream_socket = upstream_socket
        self._password_check_for = context.password_check_for
        self._certificates = context.certificates
        self._counters = context.counters
        self._reserved_users = context.reserved_users
        self._reserved_database = context.reserved_databases.get(listener)
        self._faults = faults
        self._send_close_notify = True

    async def serve(self) -> None:
        """Serve the connection to its end; a failure must not take the door down with it."""
        self._counters["connections"] += 1
        self._sock.setblocking(False)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.closing(self._sock):
            try:
                if self._faults.connect == "stall":
                    await self._stall()
                else:
                    await self._authenticate_and_forward()
            except _DISCONNECTED:
                pass
            except Exception:  # noqa: BLE001  # said on stderr; the others go on
                _log.exception("the front door failed a connection")

    def abort(self, *, reset: bool) -> None:
        """See to it that the connection, when its task is cancelled, ends without a goodbye."""
        self._send_close_notify = False
        if reset:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)

    async def _stall(self) -> None:
        """Read until the client gives up, and never answer."""
        loop = asyncio.get_running_loop()
        while await loop.sock_recv(self._sock, _CHUNK_BYTES):
            pass

    async def _authenticate_and_forward(self) -> None:
        async with asyncio.timeout(_AUTHENTICATION_TIMEOUT_SECONDS) as limit:
            client = await self._negotiate_tls()
            if client is not None:
                try:
                    if (server := await self._connect_upstream(client)) is not None:
                        limit.reschedule(None)
                        await self._forward(client, *server)
                finally:
                    if self._send_close_notify:
                        client.close()

    def _cut_at(self, stage: ConnectFault) -> None:
        if self._faults.connect == stage:
            self._send_close_notify = False
            raise EOFError(stage)

    async def _negotiate_tls(self) -> TLSConnection | None:
        """Bring the connection to TLS, or deal with what needs none and return None."""
        loop = asyncio.get_running_loop()
        stripped = self._faults.tls == "stripped"
        declined: set[int] = set()
        while True:
            # A client that speaks TLS at once is told by its first byte, left for the handshake.
            await _wait_until_readable(self._sock)
            if self._sock.recv(1, socket.MSG_PEEK) == _TLS_RECORD:
                self._cut_at("cut-at-ssl-request")
                return None if stripped else await self._handshake(direct=True)
            packet = await read_startup_packet(partial(loop.sock_recv, self._sock))
            code = request_code(packet)
            if code == CANCEL_REQUEST:
                await self._cancel(packet)
                return None
            # A request for encryption is eight bytes; as by PostgreSQL it is declined once.
            if code not in _ENCRYPTION_REQUESTS or code in declined or len(packet) != 8:
                rejection = self._rejection_without_encryption(packet)
                self._counters["refused_sign_ins"] += 1
                await loop.sock_sendall(
                    self._sock, fatal_error(rejection.sqlstate, rejection.message)
                )
                return None
            if code == SSL_REQUEST:
                self._cut_at("cut-at-ssl-request")
                if not stripped:
                    await loop.sock_sendall(self._sock, b"S")
                    return await self._handshake(direct=False)
            declined.add(code)
            await loop.sock_sendall(self._sock, b"N")

    def _rejection_without_encryption(self, packet: bytes) -> RejectionError:
        try:
            startup = parse_startup(packet)
        except RejectionError as rejection:
            return rejection
        return _azure_messages.no_encryption(
            self._sock.getpeername()[0], startup.user, startup.database
        )

    async def _handshake(self, *, direct: bool) -> TLSConnection | None:
        client = TLSConnection(self._sock, self._certificates.tls_context(self._faults.certificate))
        if self._faults.connect == "cut-in-tls":
            await client.partial_handshake()
            return None
        protocol = await client.handshake()
        self._counters["tls_handshakes"] += 1
        if direct and protocol != "postgresql":
            # As PostgreSQL: without ALPN it could be some other protocol's client.
            client.close()
            return None
        return client

    async def _connect_upstream(self, client: TLSConnection) -> Streams | None:
        """Judge the sign-in and return the way to the server behind, or refuse."""
        packet = await read_startup_packet(client.read)
        if request_code(packet) == CANCEL_REQUEST:
            await self._cancel(packet)
            return None
        if self._faults.error is not None:
            await client.write(fatal_error(*self._faults.error))
            return None
        try:
            startup = parse_startup(packet)
            await self._authenticate(startup, client)
        except RejectionError as rejection:
            self._counters["refused_sign_ins"] += 1
            await client.write(fatal_error(rejection.sqlstate, rejection.message))
            return None
        reader, writer = await asyncio.open_unix_connection(self._upstream_socket)
        # What was checked is what is sent: never the client's own bytes.
        writer.write(startup.packet)
        return reader, writer

    async def _authenticate(self, startup: StartupMessage, client: TLSConnection) -> None:
        """Check an Entra role's token; any other role is for the server behind to judge."""
        if startup.user in self._reserved_users:
            raise _azure_messages.wrong_password(startup.user)
        if startup.database == self._reserved_database:
            # To PgBouncer every client is the emulator's own process, whose system user it would
            # let into its console without a password.
            raise _azure_messages.console_not_allowed()
        check_password = self._password_check_for(startup.user)
        if check_password is None:
            return
        await client.write(AUTHENTICATION_CLEARTEXT_PASSWORD)
        message_type, body = await read_message(client.read, MAX_PASSWORD_BYTES)
        self._cut_at("cut-at-password")
        if message_type != b"p":
            raise _azure_messages.token_malformed()
        check_password(parse_password(body))

    async def _cancel(self, packet: bytes) -> None:
        """Pass a cancel request on; the server answers it by closing."""
        request = parse_cancel(packet)
        self._counters["cancel_requests"] += 1
        reader, writer = await asyncio.open_unix_connection(self._upstream_socket)
        with contextlib.closing(writer):
            writer.write(request)
            await reader.read()

    async def _forward(
        self, client: TLSConnection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Carry bytes both ways until either side ends."""
        directions = (
            asyncio.create_task(self._forward_client(client, writer)),
            asyncio.create_task(self._forward_server(reader, client)),
        )
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for direction in directions:
                direction.cancel()
            await asyncio.gather(*directions, return_exceptions=True)
            writer.close()

    async def _forward_client(self, client: TLSConnection, writer: asyncio.StreamWriter) -> None:
        while data := await client.read(_CHUNK_BYTES):
            # Before anything else a native role's client answers the server's question.
            self._cut_at("cut-at-password")
            writer.write(data)
            await writer.drain()

    async def _forward_server(self, reader: asyncio.StreamReader, client: TLSConnection) -> None:
        """Carry the server's bytes, reading along until it has decided on the sign-in."""
        decided = False
        while not decided:
            message_type, body = await read_message(reader.read, _CHUNK_BYTES)
            if accepted := message_type == b"R" and body == _AUTHENTICATION_OK:
                self._cut_at("cut-before-ok")
                self._counters["sign_ins"] += 1
                decided = True
            elif message_type == b"E":
                self._counters["refused_sign_ins"] += sqlstate_from(body)[:2] in {"08", "28"}
                decided = True
            await client.write(encode_message(message_type, body))
            if accepted:
                self._cut_at("cut-after-ok")
        while data := await reader.read(_CHUNK_BYTES):
            await client.write(data)


async def _wait_until_readable(sock: socket.socket) -> None:
    ready = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock)
