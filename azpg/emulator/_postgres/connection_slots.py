"""Idle sessions that take up a server's connection slots."""

import contextlib
from pathlib import Path

from azpg.emulator._errors import ServerError
from azpg.emulator._protocol import Streams, encode_message

from .admin_session import Login, open_session

_TOO_MANY_CONNECTIONS = "53300"


class ConnectionSlots:
    """Take connection slots and free them again."""

    def __init__(self) -> None:
        self._sessions: list[Streams] = []

    async def fill(self, socket_path: Path, login: Login) -> None:
        """Open sessions until the server has no connection slot left for the user."""
        while True:
            try:
                session, _ = await open_session(socket_path, login, "postgres")
            except ServerError as error:
                if error.sqlstate == _TOO_MANY_CONNECTIONS:
                    return
                raise
            self._sessions.append(session)

    async def free(self) -> None:
        """End the sessions and wait until the server has closed them."""
        sessions, self._sessions = self._sessions, []
        for _, writer in sessions:
            writer.write(encode_message(b"X", b""))
        for reader, writer in sessions:
            with contextlib.suppress(OSError):
                await reader.read()
            writer.close()
