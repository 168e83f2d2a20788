"""What the comparison says of azure-postgresql-auth, on the servers that azpg is tested on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from azure_postgresql_auth.errors import EntraConnectionValueError
from azure_postgresql_auth.psycopg3 import EntraConnection
from psycopg.conninfo import conninfo_to_dict

import azpg

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_credentials import Credentials
    from fix_hostile import Hostile, Peer, Script

    from azpg.emulator import Emulator, Principal


@pytest.fixture
def way(azure: Emulator) -> dict[str, Any]:
    """Return what leads to the server, for a library that is told everything."""
    return conninfo_to_dict(azpg.conninfo(server="myserver", user=azure.principal.name))


def in_clear(peer: Peer) -> None:
    """Refuse TLS, and ask for the password as it is."""
    peer.read(8)
    peer.send(b"N")
    peer.packet()
    peer.ask(3)
    peer.message()


def test_a_token_goes_in_clear_to_any_host(
    azure: Emulator, credentials: Credentials, hostile: Callable[[Script], Hostile]
) -> None:
    """Where nothing is said of TLS, a host that refuses it hears the token; azpg asks for none."""
    server = hostile(in_clear)
    elsewhere: dict[str, Any] = {"host": "db.example.net", "hostaddr": server.host}
    elsewhere |= {"port": server.port, "dbname": "postgres"}
    token = azure.token()
    credential = credentials.with_get_token(lambda: token)
    with pytest.raises(psycopg.OperationalError):
        EntraConnection.connect(credential=credential, **elsewhere)
    assert token.encode() in server.clear
    asked = credential.calls
    with pytest.raises(azpg.ConfigError):
        azpg.connect(credential=credential, **elsewhere)
    assert (credential.calls, server.connections) == (asked, 1)


def test_a_token_is_asked_for_by_each_connection(
    azure: Emulator, credentials: Credentials, way: dict[str, Any]
) -> None:
    """Three connections ask the credential three times; azpg asks once for any number."""
    theirs, ours = credentials.of(azure), credentials.of(azure)
    for _ in range(3):
        EntraConnection.connect(credential=theirs, **way).close()
        azpg.connect(credential=ours, server="myserver").close()
    assert (theirs.calls, ours.calls) == (3, 1)


@pytest.mark.parametrize(
    ("name", "kind"), [("reporting", "service-principal"), ("web", "system-assigned")]
)
def test_identities_of_which_the_token_says_too_little(
    azure: Emulator, credentials: Credentials, way: dict[str, Any], name: str, kind: Any
) -> None:
    """Service principals and system-assigned identities are refused, also with a user."""
    principal: Principal = azure.add_role(f"{name}-compared", kind=kind)
    credential = credentials.with_get_token(lambda: azure.token(principal))
    told: dict[str, Any] = {"credential": credential, "user": principal.name}
    with pytest.raises(EntraConnectionValueError) as caught:
        EntraConnection.connect(**way | told)
    assert "Could not determine username" in str(caught.value.__cause__)
    with azpg.connect(server="myserver", **told) as conn:
        assert conn.info.user == principal.name


def test_a_user_and_a_password_in_the_dsn(
    azure: Emulator, credentials: Credentials, way: dict[str, Any]
) -> None:
    """A token is taken in their place; by azpg they are what was meant."""
    azure.add_role("native-compared", password="of its own")
    way |= {"user": "native-compared", "password": "of its own"}
    dsn = psycopg.conninfo.make_conninfo(**way)
    with EntraConnection.connect(dsn, credential=credentials.of(azure)) as conn:
        assert conn.info.user == azure.principal.name
    with azpg.connect(dsn) as conn:
        assert conn.info.user == "native-compared"


def test_the_token_after_a_failed_connect(
    azure: Emulator, credentials: Credentials, way: dict[str, Any]
) -> None:
    """It stands in the repr of the error's connection, where psycopg leaves it; with azpg not."""
    token = azure.token()
    credential = credentials.with_get_token(lambda: token)
    with pytest.raises(psycopg.OperationalError) as theirs:
        EntraConnection.connect(credential=credential, **way | {"dbname": "nowhere"})
    with pytest.raises(psycopg.OperationalError) as ours:
        azpg.connect(server="myserver", credential=credential, dbname="nowhere")
    assert token in repr(theirs.value.pgconn)
    assert token not in repr(ours.value.pgconn)
