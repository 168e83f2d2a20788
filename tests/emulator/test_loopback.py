"""The choice of a loopback address and ports."""

import socket
from contextlib import ExitStack, closing

from azpg.emulator._proxy.loopback import listen


def free_port() -> int:
    """Return a port that is free on every address."""
    with socket.socket() as sock:
        sock.bind(("0.0.0.0", 0))
        return int(sock.getsockname()[1])


def test_each_call_gets_its_own_address() -> None:
    """Each taker gets an address of its own with the same ports."""
    ports = [free_port(), free_port()]
    with ExitStack() as stack:
        places = []
        for _ in range(2):
            sockets = [stack.enter_context(closing(sock)) for sock in listen(ports)]
            addresses = {sock.getsockname()[0] for sock in sockets}
            assert len(addresses) == 1
            assert [sock.getsockname()[1] for sock in sockets] == ports
            places.append(addresses.pop())
        assert places[0] != places[1]
        assert all(place.startswith("127.") for place in places)


def test_free_ports_if_a_port_is_taken_on_every_address() -> None:
    """A listener on 0.0.0.0 takes a port everywhere: then both are free ones, of one address."""
    with socket.socket() as taker:
        taker.bind(("0.0.0.0", 0))
        taker.listen()
        taken = taker.getsockname()[1]
        first, second = listen([taken, free_port()])
        with first, second:
            assert first.getsockname()[0] == second.getsockname()[0]
            assert taken not in {first.getsockname()[1], second.getsockname()[1]}
            with socket.create_connection(first.getsockname()):
                pass
