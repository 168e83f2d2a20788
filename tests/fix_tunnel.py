"""The near end of a tunnel: a port of loopback whose connections go on to another address."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

# Linux's packet filter (bpf, in the kernel's Documentation/networking/filter.rst): its one
# instruction returns the number of a packet's bytes that reach the socket, none.
_ATTACH, _DETACH = 26, 27
_NOTHING = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))
_DROP = struct.pack("HP", 1, ctypes.addressof(_NOTHING))


def can_drop_packets() -> bool:
    """Return whether this user may attach a packet filter, which some machines leave to root."""
    with socket.socket() as sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, _ATTACH, _DROP)
        except OSError:
            return False
    return True


class Tunnel:
    """Carry every connection on to `target`, as `ssh -L` does."""

    def __init__(
        self, target: tuple[str, int], address: tuple[str, int] = ("127.0.0.1", 0)
    ) -> None:
        self._target = target
        self._listener = socket.create_server(address)
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self.sent = bytearray()
        """what clients sent, as anyone on the network reads it"""
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def cut(self) -> None:
        """Cut what goes through it; new connections go on."""
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def swallow(self) -> None:
        """Drop every packet from here on, in silence: what is sent is never acknowledged."""
        for sock in (self._listener, *self._open):
            sock.setsockopt(socket.SOL_SOCKET, _ATTACH, _DROP)

    def mend(self) -> None:
        """Let packets through again; what is sent once more arrives."""
        for sock in (self._listener, *self._open):
            sock.setsockopt(socket.SOL_SOCKET, _DETACH, 0)

    def close(self) -> None:
        """Stop listening, and cut what goes through it."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join()
        for sock in self._open:
            sock.close()

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                self.connections += 1
                far = socket.create_connection(self._target)
            except OSError:
                return
            self._open += [near, far]
            self._start(self._carry, near, far, self.sent)
            self._start(self._carry, far, near, bytearray())

    def _carry(self, source: socket.socket, target: socket.socket, record: bytearray) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                record += data
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


Dig: TypeAlias = Callable[..., Tunnel]


@pytest.fixture
def dig() -> Iterator[Dig]:
    """Make tunnels, and close them at the end."""
    with contextlib.ExitStack() as tunnels:

        def make(target: tuple[str, int], address: tuple[str, int] = ("127.0.0.1", 0)) -> Tunnel:
            tunnel = Tunnel(target, address)
            tunnels.callback(tunnel.close)
            return tunnel

        yield make


@pytest.fixture
def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port
