"""The network path to a server: targets, name resolution, kinds of addresses, TCP."""

from __future__ import annotations

import pytest

from azpg._doctor.network import Address, Target, address_kind, resolve, targets, tcp_connect


@pytest.mark.parametrize(
    ("params", "lookup_hosts", "expected"),
    [
        ({"host": "a.example", "port": "1"}, (), [Target("a.example", "a.example", 1)]),
        (
            {"host": "a.example", "hostaddr": "", "port": "1"},
            (),
            [Target("a.example", "a.example", 1)],
        ),
        ({"host": "a", "hostaddr": "192.0.2.1", "port": "1"}, (), [Target("a", "192.0.2.1", 1)]),
        ({"hostaddr": "192.0.2.1", "port": "1"}, (), [Target("", "192.0.2.1", 1)]),
        ({"host": "a,b", "port": "1"}, (), [Target("a", "a", 1), Target("b", "b", 1)]),
        ({"host": "a,b", "port": "1,2"}, (), [Target("a", "a", 1), Target("b", "b", 2)]),
        ({"host": "a,a", "port": "1"}, ("x", "y"), [Target("a", "x", 1), Target("a", "y", 1)]),
        ({"host": "/run/postgresql", "port": "1"}, (), []),
        ({"host": "/run,a", "port": "1,2"}, (), [Target("a", "a", 2)]),
    ],
    ids=str,
)
def test_targets(
    params: dict[str, str], lookup_hosts: tuple[str, ...], expected: list[Target]
) -> None:
    """Each host is looked up by its hostaddr, else by the host to connect to, else by its name."""
    assert list(targets(params, lookup_hosts)) == expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1", "this machine"),
        ("::1", "this machine"),
        ("10.1.2.3", "private"),
        ("172.20.0.1", "private"),
        ("100.64.0.1", "private"),
        ("fd00::1", "private"),
        ("fe80::1%eth0", "private"),
        ("20.1.2.3", "public"),
        ("2603:1030::1", "public"),
        ("/run", ""),
    ],
)
def test_kinds_of_addresses(address: str, expected: str) -> None:
    """An address is private, public or this machine's own."""
    assert address_kind(address) == expected


def test_an_ipv6_address_is_printed_in_brackets() -> None:
    """The port follows them."""
    assert str(Address("a", "192.0.2.1", 5432)) == "192.0.2.1:5432"
    assert str(Address("a", "2001:db8::1", 5432)) == "[2001:db8::1]:5432"


def test_localhost_is_resolved() -> None:
    """The resolver returns its canonical name and its addresses."""
    canonical_name, addresses = resolve("localhost")
    assert canonical_name.startswith(("localhost", "ip6-localhost"))
    assert set(addresses) <= {"127.0.0.1", "::1"}


def test_a_closed_port_is_an_error(free_port: int) -> None:
    """It is that of the operating system."""
    with pytest.raises(ConnectionRefusedError):
        tcp_connect(Address("", "127.0.0.1", free_port), 5)
