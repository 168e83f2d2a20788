"""The front door: one port that listens or refuses, and the connections that came through it."""

import asyncio
import socket
from pathlib import Path

from azpg.emulator._faults import Faults, ListenerName, merge_faults

from . import loopback
from .proxy_session import ProxySession, SessionContext

_ACCEPT_RETRY_DELAY_SECONDS = 0.1


class Listener:
    """Stand on one port before one private Unix socket and accept connections until `stop`."""

    def __init__(
        self,
        name: ListenerName,
        sock: socket.socket,
        upstream_socket: Path,
        context: SessionContext,
    ) -> None:
        self.name = name
        self.upstream_socket = upstream_socket
        self._socket = sock
        self._context = context
        self._faults = Faults()
        self._requested_faults: list[Faults] = []
        self._server_state = Faults()
        self._sessions: dict[asyncio.Task[None], ProxySession] = {}
        self._accept_task: asyncio.Task[None] | None = asyncio.create_task(
            self._accept_connections()
        )

    @property
    def address(self) -> tuple[str, int]:
        """Return the address and the port that clients are to connect to."""
        address: tuple[str, int] = self._socket.getsockname()
        return address

    async def set_requested_faults(self, requested: list[Faults]) -> None:
        """Break what the owner asks for."""
        self._requested_faults = requested
        await self._apply_faults()

    async def set_server_state(self, server_state: Faults) -> None:
        """Break what follows from the state of the server behind, whatever the owner asks for."""
        self._server_state = server_state
        await self._apply_faults()

    async def cut(self, *, reset: bool) -> int:
        """End every connection without a goodbye and return how many there were."""
        ending = dict(self._sessions)
        for session in ending.values():
            session.abort(reset=reset)
        await _cancel(*ending)
        return len(ending)

    async def stop(self) -> None:
        """End every connection in good order and listen no more."""
        if self._accept_task is not None:
            await _cancel(self._accept_task)
        await _cancel(*self._sessions)
        self._socket.close()

    async def _apply_faults(self) -> None:
        """Listen or refuse as the faults in force say."""
        self._faults = merge_faults(
            [*self._requested_faults, self._server_state], listener=self.name
        )
        if self._faults.connect == "refuse":
            if self._accept_task is not None:
                await _cancel(self._accept_task)
                self._accept_task = None
                self._socket = loopback.stop_listening(self._socket)
        elif self._accept_task is None:
            loopback.listen_again(self._socket)
            self._accept_task = asyncio.create_task(self._accept_connections())

    async def _accept_connections(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(self._socket)
            except OSError:
                # Out of descriptors: those who wait are served when others have left.
                await asyncio.sleep(_ACCEPT_RETRY_DELAY_SECONDS)
            else:
                session = ProxySession(
                    sock, self.name, self.upstream_socket, self._context, self._faults
                )
                task = asyncio.create_task(session.serve())
                self._sessions[task] = session
                task.add_done_callback(self._sessions.pop)


async def _cancel(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
