"""The choice of a loopback address and its ports."""

import socket
from contextlib import ExitStack, closing

from azpg.emulator._proxy.loopback import listen


def free_port() -> int:
    """Return a port that is free on every address."""
    with socket.socket() as sock:
        sock.bind(("0.0.0.0", 0))
        return int(sock.getsockname()[1])


def test_each_call_gets_its_own_address() -> None:
    """Each call gets another address with the same ports."""
    ports = [free_port(), free_port()]
    with ExitStack() as stack:
        found_addresses = []
        for _ in range(2):
            sockets = [stack.enter_context(closing(sock)) for sock in listen(ports)]
            addresses = {sock.getsockname()[0] for sock in sockets}
            assert len(addresses) == 1
            assert [sock.getsockname()[1] for sock in sockets] == ports
            found_addresses.append(addresses.pop())
        assert found_addresses[0] != found_addresses[1]
        assert all(address.startswith("127.") for address in found_addresses)


def test_free_ports_if_a_port_is_taken_on_every_address() -> None:
    """If one port is taken on every address, both are free ports of one address."""
    with socket.socket() as other_listener:
        other_listener.bind(("0.0.0.0", 0))
        other_listener.listen()
        taken_port = other_listener.getsockname()[1]
        first, second = listen([taken_port, free_port()])
        with first, second:
            assert first.getsockname()[0] == second.getsockname()[0]
            assert taken_port not in {first.getsockname()[1], second.getsockname()[1]}
            with socket.create_connection(first.getsockname()):
                pass
