"""Hostile servers: no token or password reaches one, and each ends in bounded time."""

from __future__ import annotations

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
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

SSL_REQUEST = bytes.fromhex("0000000804d2162f")


def refuse_tls(peer: Peer) -> None:
    """Say that there is no TLS, and ask for the password all the same."""
    peer.read(8)
    peer.send(b"N")
    peer.ask(3)
    peer.read_all()


def error(peer: Peer) -> None:
    """Answer the request for TLS with an error, as anyone on the way can."""
    peer.read(8)
    peer.refuse("sign in at http://evil.example")
    peer.read_all()


def garbage(peer: Peer) -> None:
    """Speak another protocol."""
    peer.read(8)
    peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 100)
    peer.read_all()


def close(peer: Peer) -> None:
    """Close at once."""


def close_after_request(peer: Peer) -> None:
    """Close when TLS is asked for."""
    peer.read(8)


def close_in_handshake(peer: Peer) -> None:
    """Agree to TLS and close."""
    peer.read(8)
    peer.send(b"S")


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (refuse_tls, "tls-refused"),
        (error, None),
        (garbage, None),
        (close, "cut"),
        (close_after_request, "cut"),
        (close_in_handshake, None),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("secret", ["token", "password"])
def test_nothing_but_the_request_for_tls_is_said_in_clear(
    api: Api,
    hostile: Callable[[Script], Hostile],
    certificates: Certificates,
    credentials: Credentials,
    script: Script,
    kind: str | None,
    secret: str,
) -> None:
    """A server that does not do TLS hears the request for it, and at most a handshake's start."""
    server = hostile(script)
    sign_in: dict[str, Any] = {"password": credentials.secret}
    if secret == "token":
        sign_in = {"credential": credentials.with_get_token()}
    with pytest.raises(azpg.ConnectError) as caught:
        api.open(**server.address(), user="me", sslrootcert=certificates.root, **sign_in)
    assert kind in (None, caught.value.kind), caught.value
    heard = bytes(server.clear)
    assert credentials.secret.encode() not in heard
    assert SSL_REQUEST.startswith(heard[:8])
    assert heard[8:9] in (b"", b"\x16"), "a TLS handshake or nothing"
    assert not server.decrypted


@pytest.mark.parametrize("wrong", ["other-name", "other-root", "expired"])
@pytest.mark.parametrize("secret", ["token", "password"])
def test_a_bad_certificate_ends_before_anything_is_said(
    api: Api,
    hostile: Callable[[Script], Hostile],
    certificates: Certificates,
    credentials: Credentials,
    wrong: str,
    secret: str,
) -> None:
    """A server whose certificate is not verified hears nothing inside TLS."""

    def ask(peer: Peer) -> None:
        peer.start_tls(certificates.wrong[wrong])
        peer.packet()
        peer.ask(3)
        peer.read_all()

    server = hostile(ask)
    sign_in: dict[str, Any] = {"password": credentials.secret}
    if secret == "token":
        sign_in = {"credential": credentials.with_get_token()}
    with pytest.raises(azpg.TLSError) as caught:
        api.open(**server.address(), user="me", sslrootcert=certificates.root, **sign_in)
    expected = "certificate-name" if wrong == "other-name" else "certificate"
    assert caught.value.kind == expected
    assert caught.value.hint
    assert not server.decrypted
    assert credentials.secret.encode() not in server.clear


def test_what_is_put_before_the_handshake_is_not_taken_for_the_servers(
    api: Api,
    hostile: Callable[[Script], Hostile],
    certificates: Certificates,
    credentials: Credentials,
) -> None:
    """A question that someone on the way put in before the verified TLS gets no answer."""

    def inject(peer: Peer) -> None:
        peer.start_tls(certificates.right, after=b"R\0\0\0\x08\0\0\0\x03")
        peer.packet()
        peer.read_all()

    server = hostile(inject)
    with pytest.raises(azpg.ConnectError, match="unencrypted data"):
        api.open(
            **server.address(),
            user="me",
            sslrootcert=certificates.root,
            credential=credentials.with_get_token(),
        )
    assert not server.decrypted


@pytest.mark.parametrize("method", [3, 5, 10], ids=["cleartext", "md5", "scram"])
@pytest.mark.parametrize("sslmode", ["verify-full", "require", "disable", None])
def test_no_token_goes_to_a_foreign_host_however_it_asks(
    api: Api,
    hostile: Callable[[Script], Hostile],
    credentials: Credentials,
    method: int,
    sslmode: str | None,
) -> None:
    """A host outside Azure is not even reached, and no token is asked for."""

    def ask(peer: Peer) -> None:
        peer.packet()
        peer.ask(method)
        peer.read_all()

    server = hostile(ask)
    credential = credentials.with_get_token()
    address = server.address("db.evil.example") | {"sslmode": sslmode}
    with pytest.raises(azpg.ConfigError, match=r"a token never goes to 'db\.evil\.example'"):
        api.open(**address, user="me", credential=credential)
    assert server.connections == 0
    assert credential.calls == 0


@pytest.mark.parametrize(
    ("method", "rest", "kind"),
    [
        (5, b"salt", None),
        (10, b"SCRAM-SHA-256\0\0", None),
        (10, b"UNKNOWN\0\0", None),
        (7, b"", None),
        (99, b"", None),
    ],
    ids=["md5", "scram", "unknown-sasl", "gss", "unknown"],
)
def test_a_token_is_not_said_to_a_verified_server_in_another_way(
    api: Api,
    hostile: Callable[[Script], Hostile],
    certificates: Certificates,
    credentials: Credentials,
    method: int,
    rest: bytes,
    kind: str | None,
) -> None:
    """Other ways of authentication than cleartext inside TLS end in an error, without the token."""

    def ask(peer: Peer) -> None:
        peer.start_tls(certificates.right)
        peer.packet()
        peer.ask(method, rest)
        peer.message()
        peer.refuse('password authentication failed for user "me"')

    server = hostile(ask)
    with pytest.raises(azpg.ConnectError):
        api.open(
            **server.address(),
            user="me",
            sslrootcert=certificates.root,
            credential=credentials.with_get_token(),
        )
    assert credentials.secret.encode() not in server.decrypted


@pytest.mark.parametrize("stage", ["handshake", "startup", "password"])
def test_a_server_that_closes_inside_tls_is_an_unreachable_one(
    api: Api,
    hostile: Callable[[Script], Hostile],
    certificates: Certificates,
    credentials: Credentials,
    stage: str,
) -> None:
    """A connection that is cut after TLS stands says so, and is worth another try."""

    def cut(peer: Peer) -> None:
        peer.start_tls(certificates.right)
        if stage != "handshake":
            peer.packet()
        if stage == "password":
            peer.ask(3)
            peer.message()

    server = hostile(cut)
    with pytest.raises(azpg.UnreachableError) as caught:
        api.open(
            **server.address(),
            user="me",
            sslrootcert=certificates.root,
            credential=credentials.with_get_token(),
        )
    assert caught.value.kind == "cut"


def test_a_servers_text_reaches_no_terminal_as_it_is(
    api: Api,
    hostile: Callable[[Script], Hostile],
    certificates: Certificates,
    credentials: Credentials,
) -> None:
    """Control characters in a server's error are gone, and its words stay."""

    def refuse(peer: Peer) -> None:
        peer.start_tls(certificates.right)
        peer.packet()
        peer.refuse("\x1b[2J\x1b]0;owned\x07 password authentication failed \r\b\x9b31m")

    with pytest.raises(azpg.LoginError, match="password authentication failed") as caught:
        api.open(
            **hostile(refuse).address(),
            user="me",
            sslrootcert=certificates.root,
            credential=credentials.with_get_token(),
        )
    assert all(c.isprintable() or c == "\n" for c in str(caught.value))


def stall(peer: Peer) -> None:
    """Say nothing at all."""
    peer.read_all()


def stall_in_handshake(peer: Peer) -> None:
    """Agree to TLS, then say nothing."""
    peer.read(8)
    peer.send(b"S")
    peer.read_all()


def garbage_for_tls(peer: Peer) -> None:
    """Agree to TLS and speak another protocol."""
    peer.read(8)
    peer.send(b"S" + b"HTTP/1.1 400 Bad Request\r\n\r\n")
    peer.read_all()


def drip(peer: Peer) -> None:
    """Answer byte by byte, with a TLS record that never ends."""
    peer.read(8)
    peer.send(b"S")
    record = itertools.chain(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc", itertools.repeat(0))
    for byte in record:
        peer.send(bytes([byte]))
        time.sleep(0.1)


def test_a_server_that_never_ends_is_left_in_time(
    api: Api,
    hostile: Callable[[Script], Hostile],
    certificates: Certificates,
    credentials: Credentials,
) -> None:
    """Silence, drops and floods at every stage end within connect_timeout."""

    def after_tls(peer: Peer) -> None:
        peer.start_tls(certificates.right)
        peer.read_all()

    def after_startup(peer: Peer) -> None:
        peer.start_tls(certificates.right)
        peer.packet()
        peer.read_all()

    def notices_without_end(peer: Peer) -> None:
        peer.start_tls(certificates.right)
        peer.packet()
        while True:
            peer.say(b"N", b"SNOTICE\0C00000\0M" + b"x" * 1000 + b"\0\0")

    def drip_an_error(peer: Peer) -> None:
        peer.start_tls(certificates.right)
        peer.packet()
        for byte in itertools.chain(b"E\0\0\x40\0SFATAL\0M", itertools.repeat(ord("x"))):
            peer.send(bytes([byte]))
            time.sleep(0.05)

    def questions_without_end(peer: Peer) -> None:
        peer.start_tls(certificates.right)
        peer.packet()
        while True:
            peer.ask(3)
            peer.message()

    def flood(peer: Peer) -> None:
        peer.start_tls(certificates.right)
        peer.packet()
        peer.send(b"E" + (0x7FFFFFFF).to_bytes(4))
        while True:
            peer.send(b"x" * 65536)

    def settings_without_end(peer: Peer) -> None:
        peer.start_tls(certificates.right)
        peer.packet()
        peer.ask(3)
        peer.message()
        peer.ask(0)
        for number in itertools.count():
            peer.say(b"S", b"setting%d\0value\0" % (number % 10))

    scripts = [
        stall,
        stall_in_handshake,
        garbage_for_tls,
        drip,
        after_tls,
        after_startup,
        notices_without_end,
        drip_an_error,
        questions_without_end,
        flood,
        settings_without_end,
    ]

    def visit(script: Script) -> tuple[str, Exception, float]:
        server = hostile(script)
        started = time.monotonic()
        with pytest.raises(azpg.ConnectError) as caught:
            api.open(
                **server.address(),
                user="me",
                sslrootcert=certificates.root,
                credential=credentials.with_get_token(),
                connect_timeout=2,
            )
        return script.__name__, caught.value, time.monotonic() - started

    with ThreadPoolExecutor(len(scripts)) as pool:
        for name, found, took in pool.map(visit, scripts):
            assert took < 30, name
            if name in {"stall", "stall_in_handshake", "after_tls", "after_startup"}:
                assert isinstance(found, azpg.ConnectTimeoutError), name
                assert isinstance(found, psycopg.errors.ConnectionTimeout), name
