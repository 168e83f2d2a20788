"""The emulator's own sessions with the real servers, and how SQL is quoted in them."""

import asyncio
import struct
from dataclasses import dataclass, field
from pathlib import Path

from azpg.emulator._errors import ServerError
from azpg.emulator._protocol import (
    AUTHENTICATION_CLEARTEXT_PASSWORD,
    PROTOCOL_3_0,
    StartupMessage,
    Streams,
    encode_message,
    error_fields,
    read_message,
)

_MAX_MESSAGE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Login:
    """A user name and a password; the password is empty if the server requests none."""

    user: str
    password: str = field(default="", repr=False)


async def open_session(socket_path: Path, login: Login, database: str) -> tuple[Streams, int]:
    """Open a session over a private Unix socket.

    Args:
        socket_path: The server's socket.
        login: The user to authenticate as.
        database: The database to connect to.

    Returns:
        The session's streams, and the ID of its server process.

    Raises:
        ServerError: If the server rejects the session.
    """
    reader, writer = await asyncio.open_unix_connection(socket_path)
    try:
        parameters = {"user": login.user, "database": database}
        writer.write(StartupMessage(PROTOCOL_3_0, parameters).packet)
        process_id = await _read_until_ready(reader, writer, login.password)
    except BaseException:
        writer.close()
        raise
    return (reader, writer), process_id


async def execute(socket_path: Path, login: Login, database: str, statement: str) -> None:
    """Run statements in a session of their own.

    They are sent by the simple query protocol, because PgBouncer's console has no other.

    Args:
        socket_path: The server's socket.
        login: The user to authenticate as.
        database: The database to connect to.
        statement: One or more SQL statements.

    Raises:
        ServerError: If the server returns an error.
    """
    (reader, writer), _ = await open_session(socket_path, login, database)
    try:
        writer.write(encode_message(b"Q", statement.encode() + b"\0"))
        await _read_until_ready(reader, writer)
        writer.write(encode_message(b"X", b""))
    finally:
        writer.close()


async def fetch(session: Streams, statement: str) -> list[list[str]]:
    """Run a query in an open session and return its rows; NULL is an empty string.

    Raises:
        ServerError: If the server returns an error.
    """
    reader, writer = session
    writer.write(encode_message(b"Q", statement.encode() + b"\0"))
    rows: list[list[str]] = []
    await _read_until_ready(reader, writer, rows=rows)
    return rows


def quote_identifier(name: str) -> str:
    """Quote a name for SQL, for pg_hba.conf or for a PgBouncer file."""
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """Quote a string for SQL."""
    return "'" + text.replace("'", "''") + "'"


async def _read_until_ready(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    password: str = "",
    rows: list[list[str]] | None = None,
) -> int:
    """Read until the server is ready for a query and return the ID of the server process.

    The password is sent as cleartext. Only the user of the servers can access the socket. Rows that
    the server returns are added to `rows`.
    """
    process_id = 0
    error: ServerError | None = None
    while True:
        message_type, body = await read_message(reader.read, _MAX_MESSAGE_BYTES)
        is_ready = message_type == b"Z"
        is_fatal = False
        if encode_message(message_type, body) == AUTHENTICATION_CLEARTEXT_PASSWORD:
            writer.write(encode_message(b"p", password.encode() + b"\0"))
        elif message_type == b"K":
            process_id = struct.unpack_from("!i", body)[0]
        elif message_type == b"D" and rows is not None:
            rows.append(_parse_row(body))
        elif message_type == b"E":
            fields = error_fields(body)
            error = ServerError(fields["M"], fields["C"])
            is_fatal = fields["S"] == "FATAL"
        if error is not None and (is_ready or is_fatal):
            raise error
        if is_ready:
            return process_id


def _parse_row(body: bytes) -> list[str]:
    """Return the values of a DataRow; NULL, whose length is -1, is an empty string."""
    values: list[str] = []
    position = 2
    while position < len(body):
        size = max(struct.unpack_from("!i", body, position)[0], 0)
        position += 4
        values.append(body[position : position + size].decode())
        position += size
    return values
