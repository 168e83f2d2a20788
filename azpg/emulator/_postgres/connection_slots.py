"""Sessions that do nothing but take up a server's connection slots."""

import contextlib
from pathlib import Path

from azpg.emulator._errors import RefusedError
from azpg.emulator._protocol import Streams, message

from .admin_session import Login, sign_in

_TOO_MANY = "53300"


class Slots:
    """Hold the sessions; as many as the server had slots left for."""

    def __init__(self) -> None:
        self._sessions: list[Streams] = []

    async def fill(self, socket: Path, login: Login) -> None:
        """Open sessions until the server has no slot left for the user."""
        while True:
            try:
                session, _ = await sign_in(socket, login, "postgres")
            except RefusedError as refused:
                if refused.sqlstate == _TOO_MANY:
                    return
                raise
            self._sessions.append(session)

    async def free(self) -> None:
        """End the sessions; on return their slots are free."""
        sessions, self._sessions = self._sessions, []
        for _, writer in sessions:
            writer.write(message(b"X", b""))
        for reader, writer in sessions:
            with contextlib.suppress(OSError):
                await reader.read()
            writer.close()
