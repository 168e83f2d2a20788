"""The few messages of PostgreSQL's protocol that the emulator reads and writes itself."""

import asyncio
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from ._errors import RefusedError

# Read up to so many bytes; none at the end.
Read = Callable[[int], Awaitable[bytes]]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

SSL_REQUEST = 80877103
GSSENC_REQUEST = 80877104
CANCEL_REQUEST = 80877102

ASK_CLEARTEXT_PASSWORD = struct.pack("!cii", b"R", 8, 3)

# PostgreSQL's own limit for what comes before the sign-in.
MAX_STARTUP = 10_000
# PostgreSQL takes passwords of up to 64 KB; no token comes near.
MAX_PASSWORD = 65_535
_MAX_MESSAGE = 1 << 20


@dataclass(frozen=True, slots=True)
class Startup:
    """Hold a startup packet: whole, and the two names that the front door judges by."""

    packet: bytes
    user: str
    database: str


def code_of(packet: bytes) -> int:
    """Return the number that tells what a first packet is: a request or a protocol version."""
    code: int = struct.unpack_from("!i", packet, 4)[0]
    return code


def parse_startup(packet: bytes) -> Startup:
    """Read user and database out of a startup packet; a missing database is the user's name."""
    fields = packet[8:].split(b"\0")
    parameters = dict(zip(fields[::2], fields[1::2], strict=False))
    user = parameters.get(b"user", b"").decode(errors="replace")
    database = parameters.get(b"database", b"").decode(errors="replace")
    return Startup(packet, user, database or user)


def startup(user: str, database: str) -> bytes:
    body = struct.pack("!i", 3 << 16)
    body += f"user\0{user}\0database\0{database}\0\0".encode()
    return struct.pack("!i", len(body) + 4) + body


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def fatal(sqlstate: str, text: str) -> bytes:
    fields = (("S", "FATAL"), ("V", "FATAL"), ("C", sqlstate), ("M", text))
    body = b"".join(f"{code}{value}\0".encode() for code, value in fields)
    return message(b"E", body + b"\0")


def error_fields(body: bytes) -> dict[str, str]:
    """Return the fields of an ErrorResponse by their one-letter codes."""
    fields = (part.decode(errors="replace") for part in body.split(b"\0") if part)
    return {field[0]: field[1:] for field in fields}


def sqlstate_of(body: bytes) -> str:
    return error_fields(body).get("C", "")


async def read_packet(read: Read) -> bytes:
    """Read a first packet, which has a length but no kind."""
    head = await _exactly(read, 8)
    size = struct.unpack("!i", head[:4])[0]
    if not 8 <= size <= MAX_STARTUP:
        raise EOFError("invalid length of startup packet")
    return head + await _exactly(read, size - 8)


async def read_message(read: Read, limit: int) -> tuple[bytes, bytes]:
    """Read one message: its kind and its body of at most `limit` bytes."""
    head = await _exactly(read, 5)
    size = struct.unpack("!i", head[1:])[0] - 4
    if not 0 <= size <= limit:
        raise EOFError("invalid message length")
    return head[:1], await _exactly(read, size)


async def _exactly(read: Read, size: int) -> bytes:
    """Read so many bytes and not one more, which could belong to a TLS handshake."""
    data = b""
    while len(data) < size:
        part = await read(size - len(data))
        if not part:
            raise EOFError("the other side has closed")
        data += part
    return data


async def sign_in(socket: Path, user: str, database: str) -> tuple[Streams, int]:
    """Open a session over a private socket that trusts `user`; return it and its process's id."""
    reader, writer = await asyncio.open_unix_connection(socket)
    try:
        writer.write(startup(user, database))
        return (reader, writer), await _until_ready(reader)
    except BaseException:
        writer.close()
        raise


async def execute(socket: Path, user: str, database: str, statement: str) -> None:
    """Run statements over a private socket that trusts `user`, or raise the server's words.

    The simple protocol is all that the set-up needs, and PgBouncer's console speaks nothing else.
    """
    (reader, writer), _ = await sign_in(socket, user, database)
    try:
        writer.write(message(b"Q", statement.encode() + b"\0"))
        await _until_ready(reader)
        writer.write(message(b"X", b""))
    finally:
        writer.close()


async def _until_ready(reader: asyncio.StreamReader) -> int:
    """Read until the server awaits a statement; return its process's id where it was told."""
    process, problem = 0, None
    while True:
        kind, body = await read_message(reader.read, _MAX_MESSAGE)
        if kind == b"K":
            process = struct.unpack_from("!i", body)[0]
        elif kind == b"E":
            fields = error_fields(body)
            problem = RefusedError(fields["M"], fields["C"])
        if problem is not None and (kind == b"Z" or fields["S"] == "FATAL"):
            raise problem
        if kind == b"Z":
            return process


def identifier(name: str) -> str:
    """Quote a name for SQL; pg_hba.conf and PgBouncer's files quote in the same way."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
