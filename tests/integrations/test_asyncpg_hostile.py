"""Verified servers that violate the protocol with asyncpg: azpg's errors, without the token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import azpg
import azpg.asyncpg

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_asyncpg import Run
    from fix_credentials import Credentials
    from fix_hostile import Certificates, Hostile, Peer, Script
    from fix_leaks import Leaks

pytestmark = pytest.mark.compat

SCRAM = b"SCRAM-SHA-256\0\0"


def request(method: int, rest: bytes = b"") -> bytes:
    """Return an authentication request."""
    return message(b"R", method.to_bytes(4) + rest)


def message(kind: bytes, body: bytes) -> bytes:
    """Return one message."""
    return kind + (len(body) + 4).to_bytes(4) + body


SIGNED_IN = request(0) + message(b"S", b"server_version\x0016.1\0") + message(b"K", bytes(8))
NONSENSE = {
    "unknown-method": request(99),
    "kerberos": request(8, b"x"),
    "no-salt": request(5),
    "unknown-sasl": request(10, b"UNKNOWN\0\0"),
    "no-sasl": request(10),
    "sasl-final-too-early": request(10, SCRAM) + request(12, b"v=x"),
    "no-method": message(b"R", b""),
    "negative-length": b"R\xff\xff\xff\xff" + bytes(50),
    "no-length": b"R\0\0\0\0" + bytes(50),
    "no-version": request(0) + message(b"Z", b"I"),
    "no-status": SIGNED_IN + message(b"Z", b""),
    "unknown-encoding": message(b"S", b"client_encoding\0nonsense\0")
    + SIGNED_IN
    + message(b"Z", b"I"),
    "no-utf-8": SIGNED_IN + message(b"S", b"\xff\0\xff\0") + message(b"Z", b"I"),
}


@pytest.mark.parametrize("what", NONSENSE)
# Without the server's version asyncpg leaves its connection object incomplete
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_protocol_error_is_a_connect_error(
    run: Run,
    hostile: Callable[[Script], Hostile],
    certificates: Certificates,
    credentials: Credentials,
    leaks: Leaks,
    what: str,
) -> None:
    """An internal error of asyncpg's client becomes a ConnectError with a hint."""

    def talk(peer: Peer) -> None:
        peer.start_tls(certificates.right)
        peer.packet()
        peer.send(NONSENSE[what])
        peer.finish()

    server = hostile(talk)
    credential = credentials.with_get_token()
    options: dict[str, Any] = {
        "user": "me",
        "credential": credential,
        "sslrootcert": certificates.root,
    }
    with pytest.raises(azpg.ConnectError) as caught:
        run(azpg.asyncpg.connect(**server.address(), **options))
    assert caught.value.kind == "protocol", caught.value
    assert f":{server.port}" in caught.value.hint
    leaks.none_held(caught.value, credentials.secret, credential, options)


def test_asyncpgs_configuration_error_is_a_config_error(
    run: Run, credentials: Credentials, free_port: int
) -> None:
    """A ClientConfigurationError of asyncpg becomes a ConfigError."""
    options: dict[str, Any] = {
        "credential": credentials.with_get_token(),
        "user": "me",
        "port": free_port,
    }
    with pytest.raises(azpg.ConfigError, match="target_session_attrs"):
        run(azpg.asyncpg.connect(server="myserver", target_session_attrs="any-one", **options))
