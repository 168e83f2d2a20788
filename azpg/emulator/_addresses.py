"""Find a loopback address of the emulator's own, with the real ports free."""

import errno
import socket
from collections.abc import Sequence

# Linux answers on all of 127.0.0.0/8; elsewhere usually on 127.0.0.1 alone.
_OWN = tuple(f"127.0.0.{last}" for last in range(77, 255))
_SHARED = "127.0.0.1"


def listen(ports: Sequence[int]) -> list[socket.socket]:
    """Listen on all of the ports of one address, or on free ones where none has them free."""
    for address in (*_OWN, _SHARED):
        if sockets := _try(address, ports):
            return sockets
    for address in (*_OWN, _SHARED):
        if sockets := _try(address, [0] * len(ports)):
            return sockets
    raise OSError(errno.EADDRNOTAVAIL, "no loopback address to listen on")


def _try(address: str, ports: Sequence[int]) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        for port in ports:
            sock = socket.socket()
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setblocking(False)
            sock.bind((address, port))
            sock.listen(512)
    except OSError:
        for sock in sockets:
            sock.close()
        return []
    return sockets
