"""The emulator's own sessions with the real servers, and how their SQL is quoted."""

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
    """Name a user of a private socket, with the password unless the server there asks for none."""

    user: str
    password: str = field(default="", repr=False)


async def open_session(socket: Path, login: Login, database: str) -> tuple[Streams, int]:
    """Open a session over a private socket; return it and its process's id."""
    reader, writer = await asyncio.open_unix_connection(socket)
    try:
        parameters = {"user": login.user, "database": database}
        writer.write(StartupMessage(PROTOCOL_3_0, parameters).packet)
        return (reader, writer), await _read_until_ready(reader, writer, login.password)
    except BaseException:
        writer.close()
        raise


async def execute(socket: Path, login: Login, database: str, statement: str) -> None:
    """Run statements over a private socket, or raise the server's words.

    The simple protocol is all that the set-up needs, and PgBouncer's console speaks nothing else.
    """
    (reader, writer), _ = await open_session(socket, login, database)
    try:
        writer.write(encode_message(b"Q", statement.encode() + b"\0"))
        await _read_until_ready(reader, writer)
        writer.write(encode_message(b"X", b""))
    finally:
        writer.close()


async def _read_until_ready(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, password: str = ""
) -> int:
    """Read until the server awaits a statement; return its process's id where it was told.

    The password goes in clear over a socket that only the servers' own user can reach.
    """
    process_id, error = 0, None
    while True:
        message_type, body = await read_message(reader.read, _MAX_MESSAGE_BYTES)
        if encode_message(message_type, body) == AUTHENTICATION_CLEARTEXT_PASSWORD:
            writer.write(encode_message(b"p", password.encode() + b"\0"))
        elif message_type == b"K":
            process_id = struct.unpack_from("!i", body)[0]
        elif message_type == b"E":
            fields = error_fields(body)
            error = ServerError(fields["M"], fields["C"])
        if error is not None and (message_type == b"Z" or fields["S"] == "FATAL"):
            raise error
        if message_type == b"Z":
            return process_id


def quote_identifier(name: str) -> str:
    """Quote a name for SQL; pg_hba.conf and PgBouncer's files quote in the same way."""
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
