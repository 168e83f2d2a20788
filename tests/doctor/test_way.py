"""The way to a server: where its hosts are to be found, and what their addresses are."""

from __future__ import annotations

import pytest

from azpg._doctor.network import Goal, Place, goals, kind, knock, look_up


@pytest.mark.parametrize(
    ("params", "reach", "expected"),
    [
        ({"host": "a.example", "port": "1"}, (), [Goal("a.example", "a.example", 1)]),
        (
            {"host": "a.example", "hostaddr": "", "port": "1"},
            (),
            [Goal("a.example", "a.example", 1)],
        ),
        ({"host": "a", "hostaddr": "192.0.2.1", "port": "1"}, (), [Goal("a", "192.0.2.1", 1)]),
        ({"hostaddr": "192.0.2.1", "port": "1"}, (), [Goal("", "192.0.2.1", 1)]),
        ({"host": "a,b", "port": "1"}, (), [Goal("a", "a", 1), Goal("b", "b", 1)]),
        ({"host": "a,b", "port": "1,2"}, (), [Goal("a", "a", 1), Goal("b", "b", 2)]),
        ({"host": "a,a", "port": "1"}, ("x", "y"), [Goal("a", "x", 1), Goal("a", "y", 1)]),
        ({"host": "/run/postgresql", "port": "1"}, (), []),
        ({"host": "/run,a", "port": "1,2"}, (), [Goal("a", "a", 2)]),
    ],
    ids=str,
)
def test_goals(params: dict[str, str], reach: tuple[str, ...], expected: list[Goal]) -> None:
    """Each host of a list is looked for at its address, else its tunnel, else its name."""
    assert list(goals(params, reach)) == expected


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
def test_kind_of_address(address: str, expected: str) -> None:
    """An address is private, public or this machine's own."""
    assert kind(address) == expected


def test_places_read_as_addresses_do() -> None:
    """An IPv6 address stands in brackets before its port."""
    assert str(Place("a", "192.0.2.1", 5432)) == "192.0.2.1:5432"
    assert str(Place("a", "2001:db8::1", 5432)) == "[2001:db8::1]:5432"


def test_localhost_is_looked_up_and_knocked_at(free_port: int) -> None:
    """The resolver's own name and addresses come back; where nothing listens, that is told."""
    real, addresses = look_up("localhost")
    assert real.startswith(("localhost", "ip6-localhost"))
    assert set(addresses) <= {"127.0.0.1", "::1"}
    with pytest.raises(ConnectionRefusedError):
        knock(Place("", "127.0.0.1", free_port), 5)
