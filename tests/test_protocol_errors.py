"""Servers that are verified and talk nonsense all the same: a clear error at each stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

import azpg

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_api import Api
    from fix_credentials import Credentials
    from fix_hostile import Certificates, Hostile, Peer, Script

pytestmark = pytest.mark.compat

STAGES = ("startup", "password", "signed-in")
NONSENSE = {
    "another-protocol": b"HTTP/1.1 400 Bad Request\r\n\r\n" * 100,
    "handshake": b"\x16\x03\x01\x02\x00" * 100,
    "zeroes": bytes(5000),
    "unknown-type": b"?\0\0\0\x04",
    "no-length": b"R\0\0\0\0" + bytes(50),
    "negative-length": b"E\xff\xff\xff\xff" + bytes(50),
}
CUT = {
    "nothing": b"",
    "half-a-length": b"R\0\0",
    "half-a-question": b"R\0\0\0\x08\0",
    "half-an-error": b"E\0\0\1\0SFATAL\0C28000\0Mpass",
}


@pytest.fixture
def options(certificates: Certificates, credentials: Credentials) -> dict[str, Any]:
    """Return what connects, but for the way."""
    credential = credentials.with_get_token()
    return {"user": "me", "sslrootcert": certificates.root, "credential": credential}


def let_in(peer: Peer, certificates: Certificates, stage: str = "query") -> None:
    """Play a server up to a stage."""
    peer.start_tls(certificates.right)
    peer.packet()
    if stage == "startup":
        return
    peer.ask(3)
    peer.message()
    if stage == "password":
        return
    peer.ask(0)
    if stage == "signed-in":
        return
    peer.say(b"Z", b"I")
    peer.message()


@pytest.mark.parametrize("what", [*NONSENSE, *CUT])
@pytest.mark.parametrize("stage", STAGES)
def test_nonsense_ends_a_connect(
    api: Api,
    hostile: Callable[[Script], Hostile],
    certificates: Certificates,
    credentials: Credentials,
    options: dict[str, Any],
    stage: str,
    what: str,
) -> None:
    """It is told as what it is; the token was said where it was asked for, and is in no message."""

    def talk(peer: Peer) -> None:
        let_in(peer, certificates, stage)
        peer.send((NONSENSE | CUT)[what])

    server = hostile(talk)
    with pytest.raises(azpg.ConnectError, match=f"port {server.port} failed: .") as caught:
        api.open(**server.address(), **options)
    text = str(caught.value)
    assert (caught.value.kind == "cut") is (what in CUT)
    assert all(c.isprintable() or c == "\n" for c in text)
    assert len(text) < 1000
    assert credentials.secret not in text
    assert (credentials.secret.encode() in server.decrypted) is (stage != "startup")


@pytest.mark.parametrize("what", [*NONSENSE, *CUT])
def test_nonsense_ends_a_query(
    api: Api,
    hostile: Callable[[Script], Hostile],
    certificates: Certificates,
    options: dict[str, Any],
    what: str,
) -> None:
    """It is psycopg's own error at once, and the connection is known to be broken."""

    def talk(peer: Peer) -> None:
        let_in(peer, certificates)
        peer.send((NONSENSE | CUT)[what])

    with api.connect(**hostile(talk).address(), **options, autocommit=True) as conn:
        with pytest.raises(psycopg.OperationalError if what in CUT else psycopg.DatabaseError):
            api.row(conn, "select 1")
        assert conn.broken


def test_a_server_that_answers_byte_by_byte_is_understood(
    api: Api,
    hostile: Callable[[Script], Hostile],
    certificates: Certificates,
    options: dict[str, Any],
) -> None:
    """Each byte of its answers in a packet of its own: slow is not wrong."""

    def drip(peer: Peer) -> None:
        peer.start_tls(certificates.right)
        peer.packet()
        send = peer.send

        def each(data: bytes) -> None:
            for byte in data:
                send(bytes([byte]))

        peer.send = each  # type: ignore[method-assign]  # all that it says goes through it
        peer.ask(3)
        peer.message()
        peer.ask(0)
        peer.say(b"S", b"server_version\x0015.18\0")
        peer.say(b"K", bytes(8))
        peer.say(b"Z", b"I")
        peer.read_all()

    with api.connect(**hostile(drip).address(), **options) as conn:
        assert conn.info.server_version == 150018


@pytest.mark.parametrize("what", [*NONSENSE, *CUT])
def test_direct_tls_says_nothing_in_clear(
    api: Api,
    hostile: Callable[[Script], Hostile],
    options: dict[str, Any],
    what: str,
) -> None:
    """With sslnegotiation=direct a server that does no TLS hears the start of a handshake."""

    def talk(peer: Peer) -> None:
        peer.read(5)
        peer.send((NONSENSE | CUT)[what])

    server = hostile(talk)
    with pytest.raises(azpg.ConnectError):
        api.open(**server.address(), **options, sslnegotiation="direct")
    assert server.clear.startswith(b"\x16\x03")
    assert not server.decrypted
