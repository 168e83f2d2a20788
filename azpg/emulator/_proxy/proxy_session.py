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
from azpg.emulator._counters import Tally
from azpg.emulator._errors import RefusalError
from azpg.emulator._faults import ConnectFault, Faults, Place
from azpg.emulator._protocol import (
    ASK_CLEARTEXT_PASSWORD,
    CANCEL_REQUEST,
    GSSENC_REQUEST,
    MAX_PASSWORD,
    SSL_REQUEST,
    Startup,
    Streams,
    code_of,
    fatal,
    message,
    parse_cancel,
    parse_password,
    parse_startup,
    read_message,
    read_packet,
    sqlstate_of,
)

from .certificates import Certificates
from .tls_connection import TLSConnection

_log = logging.getLogger("azpg.emulator")

_ENCRYPTION_REQUESTS = {SSL_REQUEST, GSSENC_REQUEST}
_TLS_RECORD = b"\x16"
_AUTHENTICATION_OK = b"\0\0\0\0"
# PostgreSQL's own authentication_timeout.
_SIGN_IN_TIMEOUT = 60
_CHUNK = 1 << 16
# On, and wait for nothing: closing then sends RST.
_RESET = struct.pack("ii", 1, 0)

# A client that goes away in the middle is nothing to report.
_GONE = (OSError, EOFError)

# Returns for a password that lets its bearer in, or raises the refusal.
PasswordCheck = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class House:
    """Hold what all doors share: who may enter, and what they see and count."""

    password_check_for: Callable[[str], PasswordCheck | None]
    """Returns the check of a role's password; None if the server behind checks it."""
    certificates: Certificates
    tally: Tally
    reserved_users: frozenset[str]
    """The users that the emulator itself is, and no client can be."""
    reserved_databases: Mapping[Place, str]
    """The name at a place that is no database: PgBouncer's console."""


class Session:
    """Serve one accepted connection, broken as the faults say that were in force then."""

    def __init__(
        self, sock: socket.socket, place: Place, backend: Path, house: House, faults: Faults
    ) -> None:
        self._sock = sock
        self._backend = backend
        self._password_check_for = house.password_check_for
        self._certificates = house.certificates
        self._tally = house.tally
        self._reserved_users = house.reserved_users
        self._reserved_database = house.reserved_databases.get(place)
        self._faults = faults
        self._goodbye = True

    async def serve(self) -> None:
        """Serve the connection to its end; a failure must not take the door down with it."""
        self._tally["connections"] += 1
        self._sock.setblocking(False)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.closing(self._sock):
            try:
                if self._faults.connect == "stall":
                    await self._stall()
                else:
                    await self._let_in()
            except _GONE:
                pass
            except Exception:  # noqa: BLE001  # said on stderr; the others go on
                _log.exception("the front door failed a connection")

    def end_as_a_dead_machine(self, *, reset: bool) -> None:
        """See to it that the connection, when its task is cancelled, ends without a goodbye."""
        self._goodbye = False
        if reset:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    async def _stall(self) -> None:
        """Read until the client gives up, and never answer."""
        loop = asyncio.get_running_loop()
        while await loop.sock_recv(self._sock, _CHUNK):
            pass

    async def _let_in(self) -> None:
        async with asyncio.timeout(_SIGN_IN_TIMEOUT) as limit:
            client = await self._encrypted()
            if client is not None:
                try:
                    if (server := await self._signed_in(client)) is not None:
                        limit.reschedule(None)
                        await self._splice(client, *server)
                finally:
                    if self._goodbye:
                        client.close()

    def _cut_at(self, stage: ConnectFault) -> None:
        if self._faults.connect == stage:
            self._goodbye = False
            raise EOFError(stage)

    async def _encrypted(self) -> TLSConnection | None:
        """Bring the connection to TLS, or deal with what needs none and return None."""
        loop = asyncio.get_running_loop()
        stripped = self._faults.tls == "stripped"
        declined: set[int] = set()
        while True:
            # A client that speaks TLS at once is told by its first byte, left for the handshake.
            await _readable(self._sock)
            if self._sock.recv(1, socket.MSG_PEEK) == _TLS_RECORD:
                self._cut_at("cut-at-ssl-request")
                return None if stripped else await self._handshake(direct=True)
            packet = await read_packet(partial(loop.sock_recv, self._sock))
            code = code_of(packet)
            if code == CANCEL_REQUEST:
                await self._cancel(packet)
                return None
            # A request for encryption is eight bytes; as by PostgreSQL it is declined once.
            if code not in _ENCRYPTION_REQUESTS or code in declined or len(packet) != 8:
                refusal = self._refusal_without_encryption(packet)
                self._tally["refused_sign_ins"] += 1
                await loop.sock_sendall(self._sock, fatal(refusal.sqlstate, refusal.message))
                return None
            if code == SSL_REQUEST:
                self._cut_at("cut-at-ssl-request")
                if not stripped:
                    await loop.sock_sendall(self._sock, b"S")
                    return await self._handshake(direct=False)
            declined.add(code)
            await loop.sock_sendall(self._sock, b"N")

    def _refusal_without_encryption(self, packet: bytes) -> RefusalError:
        try:
            asked = parse_startup(packet)
        except RefusalError as refusal:
            return refusal
        return _azure_messages.no_encryption(
            self._sock.getpeername()[0], asked.user, asked.database
        )

    async def _handshake(self, *, direct: bool) -> TLSConnection | None:
        client = TLSConnection(self._sock, self._certificates.context(self._faults.certificate))
        if self._faults.connect == "cut-in-tls":
            await client.half_a_handshake()
            return None
        protocol = await client.handshake()
        self._tally["tls_handshakes"] += 1
        if direct and protocol != "postgresql":
            # As PostgreSQL: without ALPN it could be some other protocol's client.
            client.close()
            return None
        return client

    async def _signed_in(self, client: TLSConnection) -> Streams | None:
        """Judge the sign-in and return the way to the server behind, or refuse."""
        packet = await read_packet(client.read)
        if code_of(packet) == CANCEL_REQUEST:
            await self._cancel(packet)
            return None
        if self._faults.say is not None:
            await client.write(fatal(*self._faults.say))
            return None
        try:
            asked = parse_startup(packet)
            await self._judge(asked, client)
        except RefusalError as refusal:
            self._tally["refused_sign_ins"] += 1
            await client.write(fatal(refusal.sqlstate, refusal.message))
            return None
        reader, writer = await asyncio.open_unix_connection(self._backend)
        # What was checked is what is sent: never the client's own bytes.
        writer.write(asked.packet)
        return reader, writer

    async def _judge(self, asked: Startup, client: TLSConnection) -> None:
        """Check an Entra role's token; any other role is for the server behind to judge."""
        if asked.user in self._reserved_users:
            raise _azure_messages.wrong_password(asked.user)
        if asked.database == self._reserved_database:
            # To PgBouncer every client is the emulator's own process, whose system user it would
            # let into its console without a password.
            raise _azure_messages.no_console()
        check_password = self._password_check_for(asked.user)
        if check_password is None:
            return
        await client.write(ASK_CLEARTEXT_PASSWORD)
        kind, body = await read_message(client.read, MAX_PASSWORD)
        self._cut_at("cut-at-password")
        if kind != b"p":
            raise _azure_messages.malformed()
        check_password(parse_password(body))

    async def _cancel(self, packet: bytes) -> None:
        """Pass a cancel request on; the server answers it by closing."""
        request = parse_cancel(packet)
        self._tally["cancel_requests"] += 1
        reader, writer = await asyncio.open_unix_connection(self._backend)
        with contextlib.closing(writer):
            writer.write(request)
            await reader.read()

    async def _splice(
        self, client: TLSConnection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Carry bytes both ways until either side ends."""
        directions = (
            asyncio.create_task(self._carry_in(client, writer)),
            asyncio.create_task(self._carry_out(reader, client)),
        )
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for direction in directions:
                direction.cancel()
            await asyncio.gather(*directions, return_exceptions=True)
            writer.close()

    async def _carry_in(self, client: TLSConnection, writer: asyncio.StreamWriter) -> None:
        while data := await client.read(_CHUNK):
            # Before anything else a native role's client answers the server's question.
            self._cut_at("cut-at-password")
            writer.write(data)
            await writer.drain()

    async def _carry_out(self, reader: asyncio.StreamReader, client: TLSConnection) -> None:
        """Carry the server's bytes, reading along until it has decided on the sign-in."""
        decided = False
        while not decided:
            kind, body = await read_message(reader.read, _CHUNK)
            if accepted := kind == b"R" and body == _AUTHENTICATION_OK:
                self._cut_at("cut-before-ok")
                self._tally["sign_ins"] += 1
                decided = True
            elif kind == b"E":
                self._tally["refused_sign_ins"] += sqlstate_of(body)[:2] in {"08", "28"}
                decided = True
            await client.write(message(kind, body))
            if accepted:
                self._cut_at("cut-after-ok")
        while data := await reader.read(_CHUNK):
            await client.write(data)


async def _readable(sock: socket.socket) -> None:
    ready = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock)
