"""The network path to a server: resolve its hosts, and find out which addresses answer."""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING, NamedTuple

from azpg._clouds import is_socket

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


class Target(NamedTuple):
    """One host of a connection."""

    server_name: str
    """the name that the certificate is verified against"""
    lookup: str
    """the host name or IP address to connect to"""
    port: int


class Address(NamedTuple):
    """One IP address of a server."""

    server_name: str
    """the name that the certificate is verified against"""
    ip: str
    port: int

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"


def targets(params: Mapping[str, str], lookup_hosts: Sequence[str]) -> Iterator[Target]:
    """Yield the hosts that a connection uses over TCP.

    Args:
        params: libpq's parameters, of which `host`, `hostaddr` and `port` are lists.
        lookup_hosts: the hosts to connect to, if they differ from the servers' names.
    """
    names = params.get("host", "").split(",")
    addresses = params.get("hostaddr", "").split(",")
    ports = params.get("port", "").split(",")
    for i in range(max(len(names), len(addresses))):
        name = names[i] if i < len(names) else ""
        address = addresses[i] if i < len(addresses) else ""
        if address or not is_socket(name):
            lookup = address or (lookup_hosts[i] if lookup_hosts else name)
            yield Target(name, lookup, int(ports[i] if len(ports) > 1 else ports[0]))


def resolve(host: str) -> tuple[str, list[str]]:
    """Return the canonical name of a host, if the resolver returns it, and its IP addresses.

    Raises:
        OSError: the host has no address.
    """
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_CANONNAME)
    return found[0][3] or host, [str(address[0]) for *_, address in found]


def address_kind(address: str) -> str:
    """Return "private", "public" or "this machine"; empty for what is not an IP address."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if ip.is_loopback:
        return "this machine"
    return "public" if ip.is_global else "private"


def tcp_connect(address: Address, timeout: float) -> str:
    """Connect to an address, and return this machine's own address of that connection.

    Raises:
        OSError: nothing answers within `timeout` seconds.
    """
    with socket.create_connection((address.ip, address.port), timeout) as sock:
        return str(sock.getsockname()[0])
