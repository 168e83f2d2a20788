"""Listen on loopback addresses, if possible on Azure's ports."""

import errno
import socket
from collections.abc import Sequence

# Linux accepts connections on all of 127.0.0.0/8. Other systems usually have only 127.0.0.1.
_PREFERRED_ADDRESSES = tuple(f"127.0.0.{last}" for last in range(77, 255))
_COMMON_ADDRESS = "127.0.0.1"
_ADDRESSES = (*_PREFERRED_ADDRESSES, _COMMON_ADDRESS)
_LISTEN_BACKLOG = 512


def listen(ports: Sequence[int]) -> list[socket.socket]:
    """Listen on the first address that has all of the ports free.

    If no address has all of them free, listen on free ports of one address instead.

    Args:
        ports: The port numbers.

    Returns:
        One listening socket for each port, in the same order.

    Raises:
        OSError: If no loopback address can be listened on.
    """
    any_free_ports = [0] * len(ports)
    for wanted_ports in (ports, any_free_ports):
        for address in _ADDRESSES:
            if sockets := _try_listen(address, wanted_ports):
                return sockets
    raise OSError(errno.EADDRNOTAVAIL, "no loopback address to listen on")


def stop_listening(listening: socket.socket) -> socket.socket:
    """Close a listening socket and return a socket that reserves its port.

    While the port is reserved, connections to it are refused.
    """
    address = listening.getsockname()
    listening.close()
    reserved = socket.socket()
    # Connections through the port may still be open, so the port has to be shared with them.
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.setblocking(False)
    reserved.bind(address)
    # From here on it is not shared, because another emulator might look for a free port.
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    return reserved


def listen_again(reserved: socket.socket) -> None:
    """Listen on a port that `stop_listening` has reserved."""
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.listen(_LISTEN_BACKLOG)


def _try_listen(address: str, ports: Sequence[int]) -> list[socket.socket]:
    """Return a listening socket for each port, or an empty list if a port is not free."""
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
