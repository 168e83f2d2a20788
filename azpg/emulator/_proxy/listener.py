"""A listener: one port that accepts or refuses connections, and the sessions that it accepted."""

import asyncio
import socket
from pathlib import Path

from azpg.emulator._faults import Faults, ListenerName, merge_faults

from . import loopback
from .proxy_session import ProxySession, SessionContext

_ACCEPT_RETRY_DELAY_SECONDS = 0.1


class Listener:
    """Accept connections on one port and forward them to one private Unix socket.

    Args:
        name: The listener's name, by which faults select it.
        sock: The listening socket.
        upstream_socket: The path of the real server's Unix socket.
        context: What all sessions share.
    """

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
        """Return the IP address and the port that clients connect to."""
        address: tuple[str, int] = self._socket.getsockname()
        return address

    async def set_requested_faults(self, requested_faults: list[Faults]) -> None:
        """Apply the faults that a test has requested."""
        self._requested_faults = requested_faults
        await self._apply_faults()

    async def set_server_state(self, server_state: Faults) -> None:
        """Apply what follows from the state of the real server, such as during a restart.

        It takes precedence over requested faults of the same kind.
        """
        self._server_state = server_state
        await self._apply_faults()

    async def cut(self, *, reset: bool) -> int:
        """End every connection abruptly and return how many there were.

        Args:
            reset: Whether the connections end by RST and not by FIN.
        """
        ending = dict(self._sessions)
        for session in ending.values():
            session.abort(reset=reset)
        await _cancel(*ending)
        return len(ending)

    async def stop(self) -> None:
        """Stop listening and end every connection with a close_notify."""
        if self._accept_task is not None:
            await _cancel(self._accept_task)
        await _cancel(*self._sessions)
        self._socket.close()

    async def _apply_faults(self) -> None:
        """Start or stop listening, depending on the faults that apply now."""
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
                # The process has no file descriptor left, so wait until a connection ends.
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
