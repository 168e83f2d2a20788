"""Find a loopback address of the emulator's own, with the real ports free."""

import errno
import socket
from collections.abc import Sequence

# Linux answers on all of 127.0.0.0/8; elsewhere usually on 127.0.0.1 alone.
_OTHER_ADDRESSES = tuple(f"127.0.0.{last}" for last in range(77, 255))
_DEFAULT_ADDRESS = "127.0.0.1"
_LISTEN_BACKLOG = 512


def listen(ports: Sequence[int]) -> list[socket.socket]:
    """Listen on all of the ports of one address, or on free ones where none has them free."""
    for address in (*_OTHER_ADDRESSES, _DEFAULT_ADDRESS):
        if sockets := _try_listen(address, ports):
            return sockets
    for address in (*_OTHER_ADDRESSES, _DEFAULT_ADDRESS):
        if sockets := _try_listen(address, [0] * len(ports)):
            return sockets
    raise OSError(errno.EADDRNOTAVAIL, "no loopback address to listen on")


def stop_listening(listener: socket.socket) -> socket.socket:
    """Close a listener and return a socket that keeps its port: clients find it refused."""
    address = listener.getsockname()
    listener.close()
    reserved = socket.socket()
    # Connections through the port may still be open, so it has to be shared with them ...
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.setblocking(False)
    reserved.bind(address)
    # ... but not with another emulator, which looks for a port where nobody listens.
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    return reserved


def listen_again(reserved: socket.socket) -> None:
    """Listen on a port that was kept by `refuse`."""
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.listen(_LISTEN_BACKLOG)


def _try_listen(address: str, ports: Sequence[int]) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        for port in ports:
            sock = socket.socket()
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setblocking(False)
            sock.bind((address, port))
            sock.listen(_LISTEN_BACKLOG)
    except OSError:
        for sock in sockets:
            sock.close()
        return []
    return sockets
