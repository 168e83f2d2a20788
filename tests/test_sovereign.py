"""Sovereign clouds: scope, authority and verification follow the host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fix_entry_points import ASYNC, BOTH, SYNC

import azpg
from azpg._clouds import cloud_by_name
from azpg.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fix_api import Api
    from fix_authority import Authority
    from fix_credentials import Credentials
    from fix_entry_points import Integrations
    from fix_hostile import Certificates, Hostile, Peer, Script

TENANT = "11111111-2222-4333-8444-555555555555"
AUTHORITIES = {
    "db.postgres.database.usgovcloudapi.net": "login.microsoftonline.us",
    "db.postgres.database.chinacloudapi.cn": "login.chinacloudapi.cn",
    "c-db.123.postgres.cosmos.azure.com": "login.microsoftonline.com",
    "db.postgres.database.sovcloud-api.fr": "login.sovcloud-identity.fr",
    "db.1a2b.westus3.horizondb.azure.com": "login.microsoftonline.com",
}
PUBLIC_RESOURCE = "https://ossrdbms-aad.database.windows.net"


@pytest.fixture(scope="module", params=AUTHORITIES)
def abroad(request: pytest.FixtureRequest) -> Iterator[Emulator]:
    """Run a server of another cloud, which takes tokens for its own audience alone."""
    with Emulator(host=request.param, pgbouncer=False) as emulator:
        yield emulator


@pytest.fixture
def exported(abroad: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """Export what leads to it."""
    for name, value in abroad.env.items():
        monkeypatch.setenv(name, value)
    return abroad


def test_a_host_is_signed_in_with_its_clouds_token(api: Api, exported: Emulator) -> None:
    """The host's suffix alone decides which token is asked for, and the server takes it."""
    with api.connect() as conn:
        assert api.row(conn, "select current_user") == ("myapp",)


def test_a_token_for_another_cloud_is_rejected(
    api: Api, exported: Emulator, credentials: Credentials
) -> None:
    """The server checks the audience, and the error's hint names the cloud's resource."""
    other = "https://ossrdbms-aad.database.usgovcloudapi.net"
    if exported.host.endswith(".usgovcloudapi.net"):
        other = PUBLIC_RESOURCE
    credential = credentials.with_get_token(lambda: exported.token(resource=other))
    with pytest.raises(azpg.LoginError, match="audience") as caught:
        api.open(credential=credential)
    assert caught.value.kind == "token-audience"
    if exported.host.endswith(".horizondb.azure.com"):
        assert PUBLIC_RESOURCE in caught.value.hint
        assert "assumption" in caught.value.hint


def test_a_cloud_without_a_published_scope_takes_passwords(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cosmos DB in China: a password is enough, and a token is requested once a scope is given."""
    host = "c-db.123.postgres.cosmos.chinacloudapi.cn"
    with Emulator(host=host, pgbouncer=False) as emulator:
        for name, value in emulator.env.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(azpg.ConfigError, match="is not published") as caught:
            api.open()
        assert "scope=" in str(caught.value)
        emulator.add_role("native", kind="native", password="secret")
        options = {"user": "native", "password": "secret", "dbname": "postgres"}
        with api.connect(**options, sslmode="require") as conn:
            assert api.row(conn, "select ssl from pg_stat_ssl where pid = pg_backend_pid()")
            assert "sslmode=verify-full" in conn.info.dsn
        known = cloud_by_name("cosmos-china")
        assert known is not None
        scope = "https://token.postgres.cosmos.chinacloudapi.cn/.default"
        with api.connect(cloud=known.replace(scope=scope)) as conn:
            assert api.row(conn, "select current_user") == ("myapp",)


def test_the_authority_is_the_clouds(
    api: Api, authority: Authority, exported: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default credential of an application signs in at the cloud's own authority."""
    for name in ("AZURE_TOKEN_CREDENTIALS", "IDENTITY_ENDPOINT", "IDENTITY_HEADER"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AZURE_TENANT_ID", TENANT)
    monkeypatch.setenv("AZURE_CLIENT_ID", "the-app")
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "secret")
    authority.give = lambda form: exported.token(
        resource=form["scope"].partition(" ")[0].removesuffix("/.default")
    )
    with api.connect() as conn:
        assert api.row(conn, "select current_user") == ("myapp",)
    assert [host for host, _scope in authority.asked()] == [AUTHORITIES[exported.host]]


def test_an_old_cosmos_cluster_takes_its_own_token(
    api: Api, azure: Emulator, credentials: Credentials
) -> None:
    """c.<cluster>.postgres.database.azure.com with cloud="cosmos" gets Cosmos DB's scope."""
    credential = credentials.of(azure)
    host = "c.cluster.postgres.database.azure.com"
    assert f"host={host}" in azpg.conninfo(host=host, cloud="cosmos")
    with pytest.raises(azpg.ConnectError):  # the stand-in's certificate covers one label
        api.open(host=host, cloud="cosmos", credential=credential, user="x", retry_timeout=0)
    assert credential.scopes == {azpg.COSMOS_POSTGRES.scope}


# sslmode


@pytest.mark.parametrize(
    ("api", "entry"),
    [
        *((kind, name) for kind in ("sync", "async") for name in BOTH),
        *(("sync", name) for name in SYNC),
        *(("async", name) for name in ASYNC),
    ],
    indirect=["api"],
)
def test_no_host_of_azure_is_left_at_require(
    using: Integrations,
    hostile: Callable[[Script], Hostile],
    certificates: Certificates,
    entry: str,
) -> None:
    """At each entry point sslmode=require is raised, also for a cloud without pinned roots."""

    def read_password(peer: Peer) -> None:
        peer.start_tls(certificates.wrong["other-root"])
        peer.packet()

    server = hostile(read_password)
    options = server.address("a.postgres.database.sovcloud-api.fr")
    del options["retry_timeout"]
    options |= {"sslmode": "require", "user": "app", "dbname": "db", "password": "secret"}
    with pytest.raises(Exception, match="certificate verify failed"):
        (BOTH | SYNC | ASYNC)[entry](using, options)
    assert server.connections
    assert not server.decrypted


# A cloud of one's own

STACK = azpg.Cloud(
    "stack", (".postgres.example.net",), "https://db.example.net/.default", "login.example.net"
)


def test_a_cloud_of_ones_own_has_its_scope(
    api: Api, credentials: Credentials, free_port: int
) -> None:
    """A Cloud's host gets a token of its own scope, over verify-full."""
    credential = credentials.with_get_token()
    dsn = azpg.conninfo(server="db", cloud=STACK)
    assert "host=db.postgres.example.net" in dsn
    assert "sslmode=verify-full" in dsn
    with pytest.raises(azpg.UnreachableError):
        api.open(
            server="db",
            cloud=STACK,
            user="me",
            hostaddr="127.0.0.1",
            port=free_port,
            credential=credential,
            retry_timeout=0,
        )
    assert credential.scopes == {STACK.scope}


@pytest.mark.parametrize("member", ["EnvironmentCredential", "ManagedIdentityCredential"])
def test_a_cloud_of_ones_own_has_its_authority(
    api: Api, azure: Emulator, authority: Authority, monkeypatch: pytest.MonkeyPatch, member: str
) -> None:
    """Its default credential signs in at its authority, which Microsoft need not know."""
    if member == "EnvironmentCredential":
        monkeypatch.setenv("AZURE_TENANT_ID", TENANT)
        monkeypatch.setenv("AZURE_CLIENT_ID", "the-app")
        monkeypatch.setenv("AZURE_CLIENT_SECRET", "secret")
    else:
        for name, value in azure.env.items():
            monkeypatch.setenv(name, value)
    password = azpg.EntraPassword(cloud=STACK)
    assert api.run(password.call_async()) if api.kind == "async" else password()
    assert authority.asked() == (
        [(STACK.authority, STACK.scope)] if member == "EnvironmentCredential" else []
    )
