"""How long connect() waits: for a token, for each address, and in all."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import azpg
from azpg import _attempt, _deadline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fix_api import Api, AsyncApi, SyncApi
    from fix_credentials import Credentials
    from fix_hostile import Certificates, Hostile, Peer, Script

    from azpg.emulator import Emulator

pytestmark = pytest.mark.compat


@pytest.mark.parametrize(
    ("variables", "options", "source"),
    [
        ({}, {"connect_timeout": 1, "retry_timeout": 0}, "connect_timeout=1"),
        ({}, {"conninfo": "connect_timeout=1"}, "connect_timeout=1 (connection string)"),
        ({"PGCONNECT_TIMEOUT": "1"}, {"retry_timeout": 0}, "PGCONNECT_TIMEOUT=1"),
        ({}, {"retry_timeout": 1}, "retry_timeout=1"),
        ({}, {"connect_timeout": 5, "retry_timeout": 1}, "retry_timeout=1"),
    ],
    ids=str,
)
def test_the_callers_deadline_bounds_the_wait_for_a_token(
    api: Api,
    azure: Emulator,
    credentials: Credentials,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    options: dict[str, Any],
    source: str,
) -> None:
    """The error names the option that set it, as the caller wrote it."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    started = time.monotonic()
    with azure.fault(identity="hang"), pytest.raises(azpg.CredentialError) as caught:
        api.open(server="myserver", credential=credentials.managed_identity(), **options)
    assert caught.value.kind == "credential-timeout"
    assert f"({source})" in str(caught.value)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("options", [{}, {"connect_timeout": 0}], ids=str)
def test_a_default_is_no_deadline(api: Api, gated: Any, options: dict[str, Any]) -> None:
    """Neither azpg's connect_timeout nor libpq's 0 ends the wait; EntraPassword's timeout does."""
    gated.gate.clear()
    password = azpg.EntraPassword(gated, timeout=0.2)
    with pytest.raises(azpg.CredentialError) as caught:
        api.open(server="myserver", password=password, retry_timeout=0, **options)
    gated.gate.set()
    assert str(caught.value).startswith("no token from Gated within 0.2 s\n")


def test_the_wait_for_a_token_is_part_of_the_attempt(api: Api, azure: Emulator, gated: Any) -> None:
    """A connection that gets its token late has what is left of connect_timeout."""
    gated.gate.clear()
    threading.Timer(1.1, gated.gate.set).start()
    recording, attempts = api.recording_class()
    with azure.fault(connect="refuse"), pytest.raises(azpg.UnreachableError):
        api.run(
            recording.connect(
                server="myserver", credential=gated, connect_timeout=60, retry_timeout=0
            )
        )
    assert [int(each["connect_timeout"]) < 60 for each in attempts] == [True]


def test_an_endpoint_that_is_away_for_seconds_is_retried(api: Api, azure: Emulator) -> None:
    """Within retry_timeout, with a pause until the credential is asked again."""
    before = azure.counts
    fault = azure.fault(identity=503)
    fault.__enter__()
    threading.Timer(1.0, lambda: fault.__exit__(None, None, None)).start()
    with api.connect(server="myserver", retry_timeout=60) as conn:
        assert api.row(conn, "select 1") == (1,)
    assert (azure.counts - before).token_requests < 30


# Servers that stall

MARGIN = 1.5
"""seconds by which a busy machine may be late"""


def stall(peer: Peer) -> None:
    """Accept the TCP connection and send nothing."""
    peer.read_all()


def together(servers: list[Hostile]) -> dict[str, Any]:
    """Return the keywords that lead to several servers."""
    addresses = [server.address() for server in servers]
    return {
        name: ",".join(str(address[name]) for address in addresses)
        for name in ("host", "hostaddr", "port")
    }


@pytest.fixture(autouse=True)
def _no_silent_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_attempt._SILENT_ADDRESSES, "_until", {})


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        ({"retry_timeout": 0.5}, 0.5),
        ({"retry_timeout": 3}, 3),
        ({"retry_timeout": 3, "connect_timeout": 60}, 3),
        ({"retry_timeout": 0, "connect_timeout": 2}, 6),
        ({"retry_timeout": 3, "target_session_attrs": "prefer-standby"}, 3),
    ],
    ids=str,
)
def test_retry_timeout_is_the_total_of_all_hosts(
    api: Api, hostile: Callable[[Script], Hostile], options: dict[str, Any], seconds: float
) -> None:
    """Each of three hosts that stall has its share; without retries each has connect_timeout."""
    servers = [hostile(stall) for _ in range(3)]
    started = time.monotonic()
    with pytest.raises(azpg.ConnectTimeoutError):
        api.open(**together(servers), password="secret", **options)
    assert seconds - 0.2 <= time.monotonic() - started < seconds + MARGIN
    assert all(server.connections for server in servers)


def test_a_silent_host_comes_last(api: Api, hostile: Callable[[Script], Hostile]) -> None:
    """After a host kept silent for its time, the next connects try the others first."""

    def refuse(peer: Peer) -> None:
        peer.read(8)
        peer.send(b"N")

    silent, other = hostile(stall), hostile(refuse)
    options = together([silent, other]) | {"password": "secret", "retry_timeout": 2}
    for connections in (1, 2):
        with pytest.raises(azpg.ConnectError):
            api.open(**options)
        assert other.connections == connections
    assert silent.connections == 2
    names = {"host": "a,b", "port": "5432"}
    _attempt._SILENT_ADDRESSES.add({"host": "a", "hostaddr": "127.0.0.1", "port": "5432"})
    assert _attempt.silent_addresses_last(names) == {"host": "b,a", "port": "5432,5432"}
    spread = names | {"load_balance_hosts": "random"}
    assert _attempt.silent_addresses_last(spread) == spread


def test_a_silent_host_is_tried_in_its_place_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of hosts is an order of preference, which a silence changes for a while only."""
    params = {"host": "a,b", "port": "1,2"}
    _attempt._SILENT_ADDRESSES.add({"host": "a", "port": "1"})
    assert _attempt.silent_addresses_last(params) == {"host": "b,a", "port": "2,1"}
    later = time.monotonic() + _attempt.SILENT_SECONDS
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert _attempt.silent_addresses_last(params) == params


def say_nothing_in_tls(peer: Peer, certificates: Certificates) -> None:
    """Set up TLS and do not answer the login."""
    peer.start_tls(certificates.right)
    peer.read_all()


def accept_login(peer: Peer, certificates: Certificates) -> None:
    """Accept the login and start no session."""
    peer.start_tls(certificates.right)
    peer.packet()
    peer.ask(0)
    peer.read_all()


@pytest.mark.parametrize(
    ("script", "hint"),
    [
        (stall, "TLS was not answered"),
        (say_nothing_in_tls, "login was not answered"),
        (accept_login, "accepted the login"),
    ],
)
def test_the_hint_says_how_far_the_connection_came(
    api: Api,
    hostile: Callable[[Script], Hostile],
    certificates: Certificates,
    script: Callable[..., None],
    hint: str,
) -> None:
    """What worked is not blamed: no firewall where TCP answered, no route where TLS did."""
    server = hostile(script if script is stall else lambda peer: script(peer, certificates))
    options = {"user": "me", "password": "secret", "sslrootcert": certificates.root}
    with pytest.raises(azpg.ConnectTimeoutError) as caught:
        api.open(**server.address() | options | {"retry_timeout": 1})
    assert hint in (caught.value.hint or "")
    assert "portal" not in (caught.value.hint or "")


# Pools that close


@pytest.fixture
def stopping() -> Iterator[Callable[[], None]]:
    """Set a deadline as a pool does, and return what ends the wait."""
    stopped = threading.Event()
    deadline = _deadline.Deadline(time.monotonic() + 60, 60, "timeout=60", stopped.is_set)
    token = _deadline.CURRENT.set(deadline)
    yield stopped.set
    _deadline.CURRENT.reset(token)


@pytest.mark.parametrize("waits_for", ["server", "token", "retry"])
def test_a_connect_ends_when_its_pool_closes(
    api: SyncApi | AsyncApi,
    hostile: Callable[[Script], Hostile],
    gated: Any,
    free_port: int,
    stopping: Callable[[], None],
    waits_for: str,
) -> None:
    """Whatever it waits for, nothing is left behind."""
    options: dict[str, Any] = {"password": "secret", "retry_timeout": 60}
    if waits_for == "server":
        options |= hostile(stall).address()
    elif waits_for == "token":
        gated.gate.clear()
        options = {"server": "myserver", "credential": gated}
    else:
        options |= {"host": "localhost", "port": free_port, "sslmode": "disable"}
    threading.Timer(0.5, stopping).start()
    started = time.monotonic()
    with pytest.raises(_deadline.Stopped):
        api.open(**options)
    gated.gate.set()
    assert time.monotonic() - started < 0.5 + MARGIN
