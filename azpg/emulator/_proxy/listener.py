"""The front door: one port that listens or refuses, and the connections that came through it."""

import asyncio
import socket
from pathlib import Path

from azpg.emulator._faults import Faults, Place, join

from . import loopback
from .proxy_session import House, Session

_ACCEPT_PAUSE = 0.1


class FrontDoor:
    """Stand on one port before one private Unix socket and accept connections until `stop`."""

    def __init__(self, place: Place, listener: socket.socket, backend: Path, house: House) -> None:
        self.place = place
        self.backend = backend
        self._socket = listener
        self._house = house
        self._faults = Faults()
        self._asked: list[Faults] = []
        self._condition = Faults()
        self._sessions: dict[asyncio.Task[None], Session] = {}
        self._accepting: asyncio.Task[None] | None = asyncio.create_task(self._accept())

    @property
    def address(self) -> tuple[str, int]:
        """Return the address and the port that clients are to connect to."""
        address: tuple[str, int] = self._socket.getsockname()
        return address

    async def set_faults(self, asked: list[Faults]) -> None:
        """Break what the owner asks for."""
        self._asked = asked
        await self._follow()

    async def set_condition(self, condition: Faults) -> None:
        """Break what follows from the state of the server behind, whatever the owner asks for."""
        self._condition = condition
        await self._follow()

    async def cut(self, *, reset: bool) -> int:
        """End every connection without a goodbye and return how many there were."""
        ending = dict(self._sessions)
        for session in ending.values():
            session.end_as_a_dead_machine(reset=reset)
        await _cancelled(*ending)
        return len(ending)

    async def stop(self) -> None:
        """End every connection in good order and listen no more."""
        if self._accepting is not None:
            await _cancelled(self._accepting)
        await _cancelled(*self._sessions)
        self._socket.close()

    async def _follow(self) -> None:
        """Listen or refuse as the faults in force say."""
        self._faults = join([*self._asked, self._condition], place=self.place)
        if self._faults.connect == "refuse":
            if self._accepting is not None:
                await _cancelled(self._accepting)
                self._accepting = None
                self._socket = loopback.refuse(self._socket)
        elif self._accepting is None:
            loopback.listen_again(self._socket)
            self._accepting = asyncio.create_task(self._accept())

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(self._socket)
            except OSError:
                # Out of descriptors: those who wait are served when others have left.
                await asyncio.sleep(_ACCEPT_PAUSE)
            else:
                session = Session(sock, self.place, self.backend, self._house, self._faults)
                task = asyncio.create_task(session.serve())
                self._sessions[task] = session
                task.add_done_callback(self._sessions.pop)


async def _cancelled(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
