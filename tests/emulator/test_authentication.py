"""Authentication with tokens and passwords, and the error messages of rejected clients."""

import asyncio
import shutil
import ssl
import subprocess
import uuid
from collections.abc import Callable
from typing import Any

import asyncpg
import psycopg
import pytest
from azure.identity import DefaultAzureCredential

from azpg.emulator import Emulator, EmulatorError, Principal

Connect = Callable[..., psycopg.Connection[Any]]
GetConnectError = Callable[..., str]

RESOURCE = "https://ossrdbms-aad.database.windows.net"
NO_AUDIENCE = "The access token does not have a valid audience claim."
SCOPE = f"{RESOURCE}/.default"


def unique(name: str) -> str:
    """Return a role name that no other test uses."""
    return f"{name}-{uuid.uuid4().hex[:8]}"


def test_the_environment_is_enough_to_connect(
    emulator: Emulator, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With libpq and azure-identity the environment variables are enough for a verified session."""
    for name, value in emulator.env.items():
        monkeypatch.setenv(name, value)
    with DefaultAzureCredential() as credential:
        token = credential.get_token(SCOPE).token
    with psycopg.connect(
        user="myapp", password=token, dbname="postgres", port=port, sslmode="verify-full"
    ) as connection:
        assert connection.execute("SELECT current_user").fetchone() == ("myapp",)
        assert connection.pgconn.ssl_in_use


def test_entra_roles_can_create_tables_and_databases(connect: Connect, port: int) -> None:
    """An Entra role can create tables and databases, as Azure's administrators can."""
    table, database = unique("t"), unique("d")
    with connect(port=port, autocommit=True) as connection:
        connection.execute(f'CREATE TABLE "{table}" (x int)')
        connection.execute(f'CREATE DATABASE "{database}"')
    with connect(port=port, dbname=database) as connection:
        connection.execute("CREATE TABLE t (x int)")


@pytest.mark.parametrize(
    ("kind", "name", "claim", "value"),
    [
        ("user", "alice.smith-{}@contoso.com", "upn", "{name}"),
        ("guest", "bob-{}_fabrikam.com#EXT#@contoso.com", "upn", "{name}"),
        ("user-assigned", "identity-{}", "xms_mirid", "userAssignedIdentities/{name}"),
        ("system-assigned", "site-{}", "xms_mirid", "Microsoft.Web/sites/{name}"),
        ("slot", "site-{}/slots/staging", "xms_mirid", "Microsoft.Web/sites/{name}"),
        ("service-principal", "daemon-{}", "appid", "{client_id}"),
    ],
)
def test_each_kind_of_principal_authenticates(
    emulator: Emulator, connect: Connect, port: int, kind: Any, name: str, claim: str, value: str
) -> None:
    """Each kind of principal authenticates as its role, with the claims of a token of its kind."""
    import jwt

    role = emulator.add_role(name.format(uuid.uuid4().hex[:8]), kind=kind)
    token = emulator.token(role)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims[claim].endswith(value.format(name=role.name, client_id=role.client_id))
    assert claims["oid"] == role.object_id
    assert claims["idtyp"] == ("user" if kind in {"user", "guest"} else "app")
    assert 1300 <= len(token) <= 1700
    with connect(role.name, token, port=port) as connection:
        assert connection.execute("SELECT session_user").fetchone() == (role.name,)


def test_a_service_principals_token_has_no_name(emulator: Emulator) -> None:
    """A service principal's token contains only IDs."""
    import jwt

    claims = jwt.decode(
        emulator.token(emulator.add_role(unique("daemon"), kind="service-principal")),
        options={"verify_signature": False},
    )
    assert not {"upn", "unique_name", "preferred_username", "name", "xms_mirid"} & claims.keys()


def test_a_long_token_authenticates(emulator: Emulator, connect: Connect, port: int) -> None:
    """A user's long token authenticates."""
    role = emulator.add_role(f"{unique('alice')}@contoso.com", token_size=6900)
    token = emulator.token(role)
    assert 6850 <= len(token) <= 6950
    with connect(role.name, token, port=port):
        pass


def test_a_system_assigned_identity_of_a_virtual_machine(emulator: Emulator) -> None:
    """The token of a virtual machine's identity contains the virtual machine's resource ID."""
    import jwt

    role = emulator.add_role(
        unique("vm"), kind="system-assigned", resource_type="Microsoft.Compute/virtualMachines"
    )
    claims = jwt.decode(emulator.token(role), options={"verify_signature": False})
    assert claims["xms_mirid"].endswith(f"/providers/Microsoft.Compute/virtualMachines/{role.name}")


def test_a_group_role_accepts_only_its_members_tokens(
    emulator: Emulator, connect: Connect, get_connect_error: GetConnectError, port: int
) -> None:
    """A group's role accepts the tokens of its members and rejects those of others."""
    alice = emulator.add_role(f"{unique('alice')}@contoso.com")
    mallory = emulator.add_role(f"{unique('mallory')}@contoso.com")
    team = emulator.add_role(unique("team"), kind="group", members=[alice, emulator.principal])
    for member in (alice, emulator.principal):
        with connect(team.name, emulator.token(member), port=port) as connection:
            assert connection.execute("SELECT current_user").fetchone() == (team.name,)
    assert f"role[{team.name}]" in get_connect_error(team.name, emulator.token(mallory))


def test_the_object_id_decides_not_the_name(emulator: Emulator, connect: Connect) -> None:
    """A token authenticates as any role that has its object ID."""
    first = emulator.add_role(unique("first"), kind="user-assigned")
    second = emulator.add_role(unique("second"), kind="user-assigned", object_id=first.object_id)
    with connect(second.name, emulator.token(first)):
        pass


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("expired", "The access token has expired. Please acquire a new token and retry."),
        ("malformed", "The access token has invalid format. Please ensure the token is passed"),
        (
            "wrong-audience",
            f"{NO_AUDIENCE} Please acquire a new token for the resource {RESOURCE}",
        ),
        ("no-oid", "The access token doesn't have a valid oid claim."),
        ("wrong-signature", "An error occurred while validating the access token."),
    ],
)
def test_a_rejected_token_gets_azures_message(
    emulator: Emulator,
    connect: Connect,
    get_connect_error: GetConnectError,
    port: int,
    fault: Any,
    message: str,
) -> None:
    """A rejected token gets Azure's error message, which does not contain the token."""
    with emulator.fault(token=fault):
        token = emulator.token()
    error = get_connect_error(password=token, port=port)
    assert f"FATAL:  {message}" in error
    assert token not in error
    with connect(port=port):
        pass  # the fault has ended


@pytest.mark.parametrize(
    "change",
    [
        lambda _: "hunter2",
        lambda _: "a.b.c",
        lambda _: "é.é.é",
        lambda _: "x" * 60_000,
        lambda token: token + "x",
        lambda token: token[:-40],
        lambda token: token.rpartition(".")[0] + ".",
        lambda token: "eyJhbGciOiJub25lIn0." + token.split(".")[1] + ".",
    ],
)
def test_only_issued_tokens_are_accepted(
    emulator: Emulator, get_connect_error: GetConnectError, change: Callable[[str], str]
) -> None:
    """Anything but an issued token is rejected, including unsigned tokens."""
    error = get_connect_error(password=change(emulator.token()))
    assert "has invalid format" in error or "error occurred while validating" in error


def test_a_token_for_another_role_is_rejected(
    emulator: Emulator, get_connect_error: GetConnectError, port: int
) -> None:
    """A token for another role is rejected, with different messages for users and applications."""
    user = emulator.add_role(f"{unique('alice')}@contoso.com")
    assert (
        "FATAL:  Azure AD user token for role[myapp] is neither an "
        "AAD_AUTH_TOKENTYPE_APP_USER or an AAD_AUTH_TOKENTYPE_APP_OBO token."
    ) in get_connect_error("myapp", emulator.token(user), port=port)
    assert (
        "FATAL:  Service Principals cannot generate AAD_AUTH_TOKENTYPE_APP_USER tokens "
        f"for role[{user.name}]"
    ) in get_connect_error(user.name, emulator.token(), port=port)


def test_an_unknown_role_is_rejected(get_connect_error: GetConnectError) -> None:
    """An unknown role is rejected like a wrong password."""
    assert 'password authentication failed for user "nobody-here"' in get_connect_error(
        "nobody-here"
    )


def test_the_pgbouncer_console_returns_pgbouncers_error(
    emulator: Emulator, get_connect_error: GetConnectError
) -> None:
    """PgBouncer's console is not open to any role."""
    assert "not allowed" in get_connect_error(dbname="pgbouncer", port=emulator.pgbouncer_port)


def test_a_native_role_authenticates_with_scram(
    emulator: Emulator, connect: Connect, get_connect_error: GetConnectError, port: int
) -> None:
    """A native role authenticates with SCRAM, which the proxy forwards."""
    name = unique("native")
    role = emulator.add_role(name, password="correct horse")
    assert (role.kind, role.object_id) == ("native", "")
    with connect(name, "correct horse", port=port, require_auth="scram-sha-256") as connection:
        assert connection.execute("SELECT current_user").fetchone() == (name,)
    assert "authentication failed" in get_connect_error(name, "wrong", port=port)
    assert "authentication failed" in get_connect_error(name, emulator.token(), port=port)


def test_a_role_created_with_sql_authenticates(connect: Connect, port: int) -> None:
    """A role that a client creates with SQL can authenticate at once, on both ports."""
    name = unique("created")
    with connect(autocommit=True) as connection:
        connection.execute(f"CREATE ROLE \"{name}\" LOGIN PASSWORD 'secret'")
    with connect(name, "secret", port=port) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("name", ['with "quotes"', "with 'single'", "Ünïcode", "all", "+x", "@x"])
def test_special_characters_in_role_names(
    emulator: Emulator, connect: Connect, port: int, name: str
) -> None:
    """A role name may contain characters with a meaning in SQL or pg_hba.conf."""
    role = emulator.add_role(f"{name}{port}", kind="user-assigned")
    with connect(role.name, emulator.token(role), port=port) as connection:
        assert connection.execute("SELECT current_user").fetchone() == (role.name,)


def test_asyncpg_connects(emulator: Emulator, port: int) -> None:
    """asyncpg, which does not use libpq, can connect."""

    async def main() -> Any:
        context = ssl.create_default_context(cafile=emulator.root_certificate)
        context.check_hostname = False  # asyncpg has no hostaddr
        connection = await asyncpg.connect(
            host=emulator.hostaddr,
            port=port,
            user="myapp",
            password=emulator.token(),
            database="postgres",
            ssl=context,
            statement_cache_size=0,
        )
        try:
            return await connection.fetchval("SELECT current_user")
        finally:
            await connection.close()

    assert asyncio.run(main()) == "myapp"


def test_psql_connects(emulator: Emulator, port: int) -> None:
    """The system's psql, with an older libpq, can connect."""
    psql = shutil.which("psql")
    assert psql is not None
    env = emulator.env | {"PGPASSWORD": emulator.token(), "PGSSLMODE": "verify-full"}
    done = subprocess.run(
        [psql, "-p", str(port), "-U", "myapp", "-Atc", "SELECT current_user", "postgres"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("myapp\n", "")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"name": "x" * 64}, "63 bytes"),
        ({"name": ""}, "not a valid role name"),
        ({"name": "myapp"}, "already exists"),
        ({"name": "site", "kind": "slot"}, "/slots/"),
        ({"name": "x", "kind": "robot"}, "none of user, guest"),
        ({"name": "x", "kind": "group", "password": "y"}, "password= makes a native role"),
        ({"name": "x", "kind": "native"}, "needs a password"),
        ({"name": "x", "members": [Principal("y", "user", "1")]}, "kind='group'"),
    ],
)
def test_invalid_roles_raise_an_error(
    emulator: Emulator, options: dict[str, Any], problem: str
) -> None:
    """Invalid arguments raise an error that names the problem."""
    with pytest.raises(EmulatorError, match=problem):
        emulator.add_role(**options)
