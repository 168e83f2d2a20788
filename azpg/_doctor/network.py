"""The way to a server: what its names lead to, and which of its addresses answer."""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING, NamedTuple

from azpg._clouds import is_socket

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


class Goal(NamedTuple):
    """One host of a connection: the name it is verified by, and where it is to be found."""

    name: str
    found_at: str
    port: int


class Place(NamedTuple):
    """One address of a server, and the name it is verified by."""

    name: str
    address: str
    port: int

    def __str__(self) -> str:
        return (
            f"[{self.address}]:{self.port}" if ":" in self.address else ":".join(map(str, self[1:]))
        )


def goals(params: Mapping[str, str], reach: Sequence[str]) -> Iterator[Goal]:
    """Yield the hosts that a plan's parameters lead to over TCP; `reach` is the plan's own."""
    names, addresses, ports = (params.get(each, "").split(",") for each in _LISTS)
    for i in range(max(len(names), len(addresses))):
        name = names[i] if i < len(names) else ""
        address = addresses[i] if i < len(addresses) else ""
        if address or not is_socket(name):
            place = address or (reach[i] if reach else name)
            yield Goal(name, place, int(ports[i] if len(ports) > 1 else ports[0]))


_LISTS = ("host", "hostaddr", "port")


def look_up(host: str) -> tuple[str, list[str]]:
    """Return what a host is really called, as far as the resolver says, and its addresses.

    Raise `OSError` where it has none.
    """
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_CANONNAME)
    return found[0][3] or host, [str(address[0]) for *_, address in found]


def kind(address: str) -> str:
    """Return whether an address is private, public or this machine's own."""
    try:
        known = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if known.is_loopback:
        return "this machine"
    return "public" if known.is_global else "private"


def knock(place: Place, timeout: float) -> str:
    """Return the address that this machine has towards a place that answers.

    `timeout` is in seconds. Raise `OSError` where nothing answers.
    """
    with socket.create_connection((place.address, place.port), timeout) as sock:
        return str(sock.getsockname()[0])
