"""One client's connection: TLS, the check of its token, then forwarding to the server."""

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
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
_ENCRYPTION_REQUEST_BYTES = 8
_TLS_HANDSHAKE_RECORD = b"\x16"
_AUTHENTICATION_OK = b"\0\0\0\0"
# The classes of SQLSTATEs that mean that authentication failed.
_AUTHENTICATION_ERROR_CLASSES = {"08", "28"}
# The default of PostgreSQL's authentication_timeout.
_AUTHENTICATION_TIMEOUT_SECONDS = 60
_CHUNK_BYTES = 1 << 16
# SO_LINGER with a timeout of zero makes `close` send RST.
_LINGER_ZERO = struct.pack("ii", 1, 0)

# Raised if the client disconnects, which is not an error of the emulator.
_DISCONNECTED = (OSError, EOFError)

# Returns if the password is valid, otherwise raises RejectionError.
PasswordCheck = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class SessionContext:
    """What all sessions of all listeners share."""

    password_check_for: Callable[[str], Awaitable[PasswordCheck | None]]
    """Returns the password check of a role, or None if the real server checks its password."""
    certificates: ServerCertificates
    counters: Counters
    reserved_users: frozenset[str]
    """The users with which the emulator administers the real servers; clients cannot use them."""
    reserved_databases: Mapping[ListenerName, str]
    """The database name that opens PgBouncer's admin console, by listener."""


class ProxySession:
    """Serve one accepted connection.

    Args:
        sock: The connection.
        listener: The name of the listener that accepted it.
        upstream_socket: The path of the real server's Unix socket.
        context: What all sessions share.
        faults: The faults that applied when the connection was accepted.
    """

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
        self._listener: ListenerName = listener
        self._faults = faults
        self._send_close_notify = True

    async def serve(self) -> None:
        """Serve the connection until it ends; never raise, so that the listener goes on."""
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
            except Exception:  # noqa: BLE001  # logged; other connections go on
                _log.exception("the emulator failed to serve a connection")

    def abort(self, *, reset: bool) -> None:
        """Make the connection end abruptly when its task is canceled.

        Args:
            reset: Whether it ends by RST and not by FIN.
        """
        self._send_close_notify = False
        if reset:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)

    async def _stall(self) -> None:
        """Read until the client disconnects, and never answer."""
        loop = asyncio.get_running_loop()
        while await loop.sock_recv(self._sock, _CHUNK_BYTES):
            pass

    async def _authenticate_and_forward(self) -> None:
        async with asyncio.timeout(_AUTHENTICATION_TIMEOUT_SECONDS) as timeout:
            client = await self._negotiate_tls()
            if client is None:
                return
            try:
                upstream = await self._connect_upstream(client)
                if upstream is not None:
                    timeout.reschedule(None)
                    await self._forward(client, *upstream)
            finally:
                if self._send_close_notify:
                    client.close()

    def _cut_at(self, stage: ConnectFault) -> None:
        """End the connection abruptly if it was requested at this stage."""
        if self._faults.connect == stage:
            self._send_close_notify = False
            raise EOFError(stage)

    async def _negotiate_tls(self) -> TLSConnection | None:
        """Return the connection with TLS, or None if there is nothing more to do.

        Cancel requests and rejections are handled without TLS.
        """
        loop = asyncio.get_running_loop()
        stripped = self._faults.tls == "stripped"
        declined_requests: set[int] = set()
        while True:
            # The first byte tells whether the client starts TLS directly. It is only peeked at,
            # because it belongs to the handshake.
            await _wait_until_readable(self._sock)
            if self._sock.recv(1, socket.MSG_PEEK) == _TLS_HANDSHAKE_RECORD:
                self._cut_at("cut-at-ssl-request")
                return None if stripped else await self._handshake(direct=True)
            packet = await read_startup_packet(partial(loop.sock_recv, self._sock))
            code = request_code(packet)
            if code == CANCEL_REQUEST:
                await self._forward_cancel(packet)
                return None
            # Like PostgreSQL, decline each encryption request only once.
            is_new_encryption_request = (
                code in _ENCRYPTION_REQUESTS
                and code not in declined_requests
                and len(packet) == _ENCRYPTION_REQUEST_BYTES
            )
            if not is_new_encryption_request:
                await self._reject_without_encryption(packet)
                return None
            if code == SSL_REQUEST:
                self._cut_at("cut-at-ssl-request")
                if not stripped:
                    await loop.sock_sendall(self._sock, b"S")
                    return await self._handshake(direct=False)
            declined_requests.add(code)
            await loop.sock_sendall(self._sock, b"N")

    async def _reject_without_encryption(self, packet: bytes) -> None:
        try:
            startup = parse_startup(packet)
        except RejectionError as malformed:
            rejection = malformed
        else:
            rejection = _azure_messages.no_encryption(
                self._sock.getpeername()[0], startup.user, startup.database
            )
        self._counters["refused_sign_ins"] += 1
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._sock, fatal_error(rejection.sqlstate, rejection.message))

    async def _handshake(self, *, direct: bool) -> TLSConnection | None:
        """Do the TLS handshake.

        Args:
            direct: Whether the client started TLS without an SSLRequest.
        """
        context = self._certificates.tls_context(self._listener, self._faults.certificate)
        client = TLSConnection(self._sock, context)
        if self._faults.connect == "cut-in-tls":
            await client.partial_handshake()
            return None
        protocol = await client.handshake()
        self._counters["tls_handshakes"] += 1
        if direct and protocol != "postgresql":
            # Like PostgreSQL, require ALPN here: without it the client could use another protocol.
            client.close()
            return None
        return client

    async def _connect_upstream(self, client: TLSConnection) -> Streams | None:
        """Authenticate the client and connect to the real server.

        Returns None if the client was rejected or has sent a cancel request.
        """
        packet = await read_startup_packet(client.read)
        if request_code(packet) == CANCEL_REQUEST:
            await self._forward_cancel(packet)
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
        # The packet is rebuilt from what was checked; the client's own bytes are never forwarded.
        writer.write(startup.packet)
        return reader, writer

    async def _authenticate(self, startup: StartupMessage, client: TLSConnection) -> None:
        """Check the token of an Entra role; the real server authenticates any other role.

        Raises:
            RejectionError: If the token is invalid, or the user or database is reserved.
        """
        if self._is_reserved_user(startup.user):
            raise _azure_messages.wrong_password(startup.user)
        if self._is_admin_console(startup.database):
            # PgBouncer lets its own operating system user into the console without a password.
            # All clients connect to it from the emulator's process, which can be that user's.
            raise _azure_messages.console_not_allowed()
        check_password = await self._password_check_for(startup.user)
        if check_password is None:
            return
        await client.write(AUTHENTICATION_CLEARTEXT_PASSWORD)
        message_type, body = await read_message(client.read, MAX_PASSWORD_BYTES)
        self._cut_at("cut-at-password")
        if message_type != b"p":
            raise _azure_messages.token_malformed()
        check_password(parse_password(body))

    def _is_reserved_user(self, user: str) -> bool:
        return user in self._reserved_users

    def _is_admin_console(self, database: str) -> bool:
        return database == self._reserved_database

    async def _forward_cancel(self, packet: bytes) -> None:
        """Forward a cancel request and wait until the real server closes the connection."""
        request = parse_cancel(packet)
        self._counters["cancel_requests"] += 1
        reader, writer = await asyncio.open_unix_connection(self._upstream_socket)
        with contextlib.closing(writer):
            writer.write(request)
            await reader.read()

    async def _forward(
        self, client: TLSConnection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Forward bytes in both directions until either side ends the connection."""
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
        """Forward what the client sends."""
        while data := await client.read(_CHUNK_BYTES):
            # The first bytes of a native role's client answer the server's password request.
            self._cut_at("cut-at-password")
            writer.write(data)
            await writer.drain()

    async def _forward_server(self, reader: asyncio.StreamReader, client: TLSConnection) -> None:
        """Forward what the server sends, message by message until authentication has ended."""
        authentication_ended = False
        while not authentication_ended:
            message_type, body = await read_message(reader.read, _CHUNK_BYTES)
            succeeded = message_type == b"R" and body == _AUTHENTICATION_OK
            failed = message_type == b"E"
            authentication_ended = succeeded or failed
            if succeeded:
                self._cut_at("cut-before-ok")
                self._counters["sign_ins"] += 1
            elif failed and sqlstate_from(body)[:2] in _AUTHENTICATION_ERROR_CLASSES:
                self._counters["refused_sign_ins"] += 1
            await client.write(encode_message(message_type, body))
            if succeeded:
                self._cut_at("cut-after-ok")
        while data := await reader.read(_CHUNK_BYTES):
            await client.write(data)


async def _wait_until_readable(sock: socket.socket) -> None:
    readable = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sock, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(sock)
