"""The messages of PostgreSQL's protocol that the emulator itself reads and writes."""

import asyncio
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from ._errors import RejectionError

# Reads up to the given number of bytes; returns no bytes at the end of the stream.
ReadBytes = Callable[[int], Awaitable[bytes]]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

SSL_REQUEST = 80877103
GSSENC_REQUEST = 80877104
CANCEL_REQUEST = 80877102
PROTOCOL_3_0 = 3 << 16

AUTHENTICATION_CLEARTEXT_PASSWORD = struct.pack("!cii", b"R", 8, 3)

# PostgreSQL has the same limit for packets before authentication.
MAX_STARTUP_BYTES = 10_000
# PostgreSQL truncates longer names, so a longer name could become that of another role.
MAX_NAME_BYTES = 63
# Cancel keys have up to 256 bytes in protocol 3.2, and 4 bytes before it.
_CANCEL_KEY_BYTES = range(4, 257)
# PostgreSQL accepts passwords of up to 64 KB. Tokens are shorter.
MAX_PASSWORD_BYTES = 65_535


@dataclass(frozen=True, slots=True)
class StartupMessage:
    """The contents of a valid startup packet; `parameters` always has user and database."""

    version: int
    parameters: Mapping[str, str]

    @property
    def user(self) -> str:
        return self.parameters["user"]

    @property
    def database(self) -> str:
        return self.parameters["database"]

    @property
    def packet(self) -> bytes:
        """Return a packet with these contents and nothing else."""
        fields = "".join(f"{name}\0{value}\0" for name, value in self.parameters.items())
        body = struct.pack("!i", self.version) + fields.encode() + b"\0"
        return struct.pack("!i", len(body) + 4) + body


def request_code(packet: bytes) -> int:
    """Return the code of a startup packet: the code of a request, or a protocol version."""
    code: int = struct.unpack_from("!i", packet, 4)[0]
    return code


def parse_startup(packet: bytes) -> StartupMessage:
    """Parse a startup packet, and reject one that servers could read in different ways.

    PostgreSQL and PgBouncer read some malformed packets differently: one ignores what follows the
    terminator and the other reads it; one truncates a long name and the other rejects it.

    Raises:
        RejectionError: If the packet is malformed.
    """
    if len(packet) < 8 or struct.unpack_from("!i", packet)[0] != len(packet):
        raise _malformed_packet("its length is wrong")
    version = request_code(packet)
    if version >> 16 != 3:
        number = f"{version >> 16 & 0xFFFF}.{version & 0xFFFF}"
        raise RejectionError(f"unsupported frontend protocol {number}", "0A000")
    try:
        *fields, terminator, rest = packet[8:].decode().split("\0")
    except UnicodeDecodeError:
        raise _malformed_packet("it is not UTF-8") from None
    except ValueError:
        raise _malformed_packet("it has no terminator") from None
    if not _is_parameter_list(fields, terminator, rest):
        raise _malformed_packet("it is not a list of names and values that ends in one terminator")
    names = fields[::2]
    if len(set(names)) < len(names):
        raise _malformed_packet("it has a parameter twice")
    parameters = dict(zip(names, fields[1::2], strict=True))
    if not parameters.get("user"):
        raise RejectionError("no PostgreSQL user name specified in startup packet")
    parameters["database"] = parameters.get("database") or parameters["user"]
    for name in ("user", "database"):
        if len(parameters[name].encode()) > MAX_NAME_BYTES:
            raise RejectionError(
                f"the name of the {name} is longer than {MAX_NAME_BYTES} bytes", "42622"
            )
    return StartupMessage(version, parameters)


def _is_parameter_list(fields: list[str], terminator: str, rest: str) -> bool:
    """Return whether all names have values, and nothing follows the one terminator."""
    return not (terminator or rest or len(fields) % 2) and all(fields[::2])


def parse_cancel(packet: bytes) -> bytes:
    """Parse a cancel request and return one with the same contents and nothing else.

    Raises:
        EOFError: If its length is invalid.
    """
    key = packet[12:]
    if len(packet) < 12 or len(key) not in _CANCEL_KEY_BYTES:
        raise EOFError("invalid length of cancel request packet")
    process_id = struct.unpack_from("!i", packet, 8)[0]
    return struct.pack("!iii", 12 + len(key), CANCEL_REQUEST, process_id) + key


def parse_password(body: bytes) -> str:
    """Parse the body of a password message, which is one string with its terminator.

    Raises:
        RejectionError: If it is anything else.
    """
    if body.find(b"\0") != len(body) - 1:
        raise RejectionError("invalid password packet size", "08P01")
    return body[:-1].decode(errors="replace")


def encode_message(message_type: bytes, body: bytes) -> bytes:
    """Return a message: its type, its length and its body."""
    return message_type + struct.pack("!i", len(body) + 4) + body


def fatal_error(sqlstate: str, message: str) -> bytes:
    """Return an ErrorResponse of severity FATAL."""
    fields = (("S", "FATAL"), ("V", "FATAL"), ("C", sqlstate), ("M", message))
    body = b"".join(f"{code}{value}\0".encode() for code, value in fields)
    return encode_message(b"E", body + b"\0")


def error_fields(body: bytes) -> dict[str, str]:
    """Return the fields of an ErrorResponse by their one-letter codes."""
    fields = (part.decode(errors="replace") for part in body.split(b"\0") if part)
    return {field[0]: field[1:] for field in fields}


def sqlstate_from(body: bytes) -> str:
    """Return the SQLSTATE of an ErrorResponse, or an empty string if it has none."""
    return error_fields(body).get("C", "")


async def read_startup_packet(read: ReadBytes) -> bytes:
    """Read a packet before authentication, which has a length but no type."""
    head = await _read_exactly(read, 8)
    size = struct.unpack("!i", head[:4])[0]
    if not 8 <= size <= MAX_STARTUP_BYTES:
        raise EOFError("invalid length of startup packet")
    return head + await _read_exactly(read, size - 8)


async def read_message(read: ReadBytes, max_bytes: int) -> tuple[bytes, bytes]:
    """Read one message and return its type and its body.

    Args:
        read: The function that reads from the connection.
        max_bytes: The maximum size of the body.

    Raises:
        EOFError: If the body is larger, or the connection ends.
    """
    head = await _read_exactly(read, 5)
    size = struct.unpack("!i", head[1:])[0] - 4
    if not 0 <= size <= max_bytes:
        raise EOFError("invalid message length")
    return head[:1], await _read_exactly(read, size)


async def _read_exactly(read: ReadBytes, size: int) -> bytes:
    """Read the given number of bytes and no more: the next byte may start a TLS handshake."""
    data = b""
    while len(data) < size:
        part = await read(size - len(data))
        if not part:
            raise EOFError("the other side has closed")
        data += part
    return data


def _malformed_packet(reason: str) -> RejectionError:
    return RejectionError(f"invalid startup packet layout: {reason}", "08P01")
