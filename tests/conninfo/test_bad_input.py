"""Bad input, named: each ends in an azpg error with its kind, the words kept and what to type."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from azure.identity import ManagedIdentityCredential

import azpg

if TYPE_CHECKING:
    from pathlib import Path

    from fix_api import Api
    from fix_credentials import Credentials
    from fix_servers import Postgres

    from azpg.emulator import Emulator


def refused(api: Api, **options: Any) -> azpg.ConnectError:
    """Return the error that a call to connect ends with, once it is a psycopg error too."""
    with pytest.raises(psycopg.OperationalError) as caught:
        api.open(**options)
    assert isinstance(caught.value, azpg.ConnectError)
    if caught.value.hint:
        assert str(caught.value).endswith(f"\nHINT: {caught.value.hint}")
    return caught.value


# The server


def test_a_host_that_does_not_resolve(api: Api, credentials: Credentials) -> None:
    """A name that nobody has is told as such, at once, before a token is of any use."""
    host = "no-such-host.invalid.postgres.database.azure.com"
    error = refused(api, host=host, user="me", credential=credentials.with_get_token())
    assert isinstance(error, azpg.UnreachableError)
    assert error.kind == "unknown-host"
    assert host in str(error)
    assert "virtual network" in error.hint


def test_a_tunnels_host_that_does_not_resolve(api: Api, credentials: Credentials) -> None:
    """The way there beside a server is looked up by azpg, and fails in the same words."""
    error = refused(
        api,
        server="myserver",
        host="no-such-host.invalid",
        user="me",
        credential=credentials.with_get_token(),
    )
    assert error.kind == "unknown-host"
    assert "'no-such-host.invalid'" in str(error)


def test_a_refused_port(api: Api, azure: Emulator, free_port: int) -> None:
    """A port that nothing listens on is named."""
    error = refused(api, hostaddr="127.0.0.1", port=free_port, retry_timeout=0)
    assert isinstance(error, azpg.UnreachableError)
    assert error.kind == "refused"
    assert str(free_port) in error.hint


def test_a_server_that_refuses_tls(api: Api, azure: Emulator) -> None:
    """A server without TLS is left, and nothing was sent."""
    before = azure.counts
    with azure.fault(tls="stripped"):
        error = refused(api)
    assert isinstance(error, azpg.TLSError)
    assert error.kind == "tls-refused"
    assert "server does not support SSL" in str(error)
    assert "nothing was sent" in error.hint
    assert (azure.counts - before).refused_sign_ins == 0


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        ("other-name", "certificate-name", 'server="myserver"'),
        ("other-root", "certificate", "unset PGSSLROOTCERT"),
        ("expired", "certificate", "expired"),
        ("self-signed", "certificate", "azpg doctor"),
    ],
)
def test_a_bad_certificate(api: Api, azure: Emulator, fault: Any, kind: str, said: str) -> None:
    """A certificate that does not verify ends before the handshake does."""
    before = azure.counts
    with azure.fault(certificate=fault):
        error = refused(api)
    assert isinstance(error, azpg.TLSError)
    assert error.kind == kind
    assert said in error.hint
    assert (azure.counts - before).tls_handshakes <= (1 if kind == "certificate-name" else 0)
    assert (azure.counts - before).refused_sign_ins == 0
    assert (azure.counts - before).connections == 1, "it is not tried again"


@pytest.mark.parametrize(
    "content", [None, b"", b"no PEM at all\n"], ids=["missing", "empty", "text"]
)
def test_a_bundle_that_is_none(
    api: Api, azure: Emulator, tmp_path: Path, content: bytes | None
) -> None:
    """sslrootcert= that is missing, empty or no PEM is told apart from a bad certificate."""
    path = tmp_path / "roots.pem"
    if content is not None:
        path.write_bytes(content)
    error = refused(api, sslrootcert=path)
    assert isinstance(error, azpg.TLSError)
    assert error.kind == "root-file"
    assert str(path) in str(error)
    assert "leave out sslrootcert" in error.hint


# The sign-in


@pytest.mark.parametrize(
    ("fault", "kind", "words", "hint"),
    [
        ("expired", "token-expired", "The access token has expired", "clock"),
        (
            "wrong-audience",
            "token-audience",
            "valid audience claim",
            "https://ossrdbms-aad.database.windows.net",
        ),
        ("malformed", "token-invalid", "has invalid format", "exactly as the credential"),
        ("no-oid", "token-invalid", "valid oid claim", "exactly"),
        ("wrong-signature", "token-invalid", "validating the access token", "exactly"),
    ],
)
def test_a_bad_token(
    api: Api,
    azure: Emulator,
    credentials: Credentials,
    fault: Any,
    kind: str,
    words: str,
    hint: str,
) -> None:
    """A token that Azure refuses is a LoginError in Azure's words, without the token."""
    tokens = []

    def fetch() -> str:
        tokens.append(azure.token())
        return tokens[-1]

    with azure.fault(token=fault):
        error = refused(api, user="myapp", credential=credentials.with_get_token(fetch))
    assert isinstance(error, azpg.LoginError)
    assert error.kind == kind
    assert words in str(error)
    assert hint in error.hint
    assert tokens[0] not in str(error)


def test_a_role_that_does_not_exist(api: Api, azure: Emulator) -> None:
    """The hint shows the SQL that creates the role, with its name quoted."""
    error = refused(api, user="o'brien@contoso.com")
    assert isinstance(error, azpg.LoginError)
    assert error.kind == "login"
    assert "pgaadauth_create_principal('o''brien@contoso.com', false, false)" in error.hint


def test_anothers_role(api: Api, azure: Emulator) -> None:
    """A token of somebody else than the role's owner says whose name to check."""
    name = f"somebody-{api.kind}@contoso.com"
    azure.add_role(name)
    error = refused(api, user=name)
    assert isinstance(error, azpg.LoginError)
    assert error.kind == "wrong-role"
    assert error.hint.startswith("the token is for 'myapp'")
    assert "leave out user=" in error.hint


def test_a_wrong_user_in_the_environment_is_named_by_its_variable(
    api: Api, azure: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A PGUSER that something else has set is what to unset."""
    monkeypatch.setenv("PGUSER", "root")
    error = refused(api)
    assert error.hint.startswith("the token is for 'myapp'")
    assert "leave out user= (here from PGUSER: unset PGUSER)" in error.hint


def test_an_expired_token_in_the_environment_is_named_by_its_variable(
    api: Api, azure: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hint names the variable, and says that azpg acquires tokens itself."""
    monkeypatch.setenv("PGPASSWORD", azure.token(lifetime=-60))
    error = refused(api)
    assert error.kind == "token-expired"
    assert "the password came from PGPASSWORD: unset PGPASSWORD, because azpg" in error.hint


@pytest.mark.parametrize("pgbouncer", [False, True], ids=["postgres", "pgbouncer"])
def test_a_database_that_does_not_exist(api: Api, azure: Emulator, pgbouncer: bool) -> None:
    """A wrong dbname is told, by PostgreSQL and by PgBouncer."""
    # PgBouncer lets a second client of a database that it could not open wait for 15 s.
    error = refused(api, dbname=f"shop-{api.kind}", pgbouncer=pgbouncer, retry_timeout=0)
    assert isinstance(error, azpg.LoginError)
    assert error.kind == "no-database"
    assert "dbname=" in error.hint


def test_pgbouncer_refuses_options(api: Api, azure: Emulator) -> None:
    """options= under PgBouncer is refused there, and the hint says what to do instead."""
    error = refused(api, pgbouncer=True, options="-c statement_timeout=1000")
    assert error.kind == "startup-parameter"
    assert "ALTER ROLE" in error.hint


@pytest.mark.parametrize(
    "option",
    [{"sslrootcert": "system", "sslmode": "require"}, {"keepalives_idle": "soon"}],
    ids=lambda option: next(iter(option)),
)
def test_what_libpq_cannot_take_is_a_config_error(
    api: Api, credentials: Credentials, option: dict[str, str]
) -> None:
    """What libpq refuses before it connects is the call's fault, and OperationalError as before."""
    with pytest.raises(azpg.ConfigError) as caught:
        api.open(host="db.example", hostaddr="127.0.0.1", user="me", password="x", port=1, **option)
    assert isinstance(caught.value, psycopg.OperationalError)


# The credential


@pytest.mark.parametrize("fault", [400, 401, 429, 500, "down", "garbage"])
def test_an_identity_endpoint_that_fails(
    api: Api, azure: Emulator, credentials: Credentials, fault: Any
) -> None:
    """Whatever the identity endpoint does wrong is a CredentialError in azure-identity's words."""
    before = azure.counts
    with azure.fault(identity=fault):
        error = refused(api, credential=credentials.managed_identity(), retry_timeout=0)
    assert isinstance(error, azpg.CredentialError)
    assert error.kind == "credential"
    assert "ManagedIdentityCredential" in str(error)
    assert "Error: " in str(error)
    assert (azure.counts - before).connections == 0, "the server is not asked without a token"


def test_the_default_credential_says_what_to_run(api: Api, azure: Emulator) -> None:
    """Where the default credential fails, the hint is for a developer's machine and for Azure."""
    with azure.fault(identity=400):
        error = refused(api, client_id=f"nobody-{api.kind}")
    assert isinstance(error, azpg.CredentialError)
    assert "az login" in error.hint
    assert "client_id" in error.hint


def test_an_identity_endpoint_that_hangs(
    api: Api, azure: Emulator, credentials: Credentials
) -> None:
    """A hanging identity endpoint ends the call within the token's own timeout."""
    password = azpg.EntraPassword(credentials.managed_identity(), timeout=0.3)
    started = time.monotonic()
    with azure.fault(identity="hang"):
        error = refused(api, password=password, retry_timeout=0)
    assert time.monotonic() - started < 20
    assert isinstance(error, azpg.CredentialError)
    assert error.kind == "credential-timeout"
    assert "AZURE_TOKEN_CREDENTIALS" in error.hint


def test_azure_identitys_own_retries_are_its_own(azure: Emulator) -> None:
    """azure-identity repeats what a busy endpoint refused, as it was told to; azpg does not."""
    before = azure.counts
    credential = ManagedIdentityCredential(retry_total=2, retry_backoff_factor=0)
    with (
        credential,
        azure.fault(identity=429),
        pytest.raises(azpg.CredentialError),
    ):
        azpg.connect(credential=credential)
    assert (azure.counts - before).token_requests == 3


def test_a_credential_that_raises(api: Api, azure: Emulator, credentials: Credentials) -> None:
    """The credential's own words are kept, control characters stripped, on one error."""

    def fail() -> str:
        raise LookupError("no tenant\x1b[2J\x07")

    error = refused(api, credential=credentials.with_get_token(fail))
    assert isinstance(error, azpg.CredentialError)
    assert "no token from WithGetToken: LookupError: no tenant" in str(error)
    assert all(c.isprintable() or c == "\n" for c in str(error))


def test_every_problem_of_a_call_is_told_at_once(api: Api, credentials: Credentials) -> None:
    """A ConfigError is a psycopg error and a ValueError, and lists all there is."""
    with pytest.raises(psycopg.ProgrammingError) as caught:
        api.open(
            "sslmode=ful",
            host="db.example",
            port="https",
            databse="shop",
            credential=credentials.with_get_token(),
            password="hunter2",
        )
    assert isinstance(caught.value, azpg.ConfigError)
    assert isinstance(caught.value, ValueError)
    problems = "\n".join(caught.value.problems)
    for word in ("sslmode='ful'", "port='https'", "databse", "credential and password"):
        assert word in problems
    assert "hunter2" not in problems
    assert str(caught.value) == problems


@pytest.mark.parametrize("password", ["password", "authentication", "failed"])
def test_a_password_that_is_a_word_of_the_message(
    api: Api, postgres: Postgres, password: str
) -> None:
    """A failure is told by the server's words even where one of them is the password itself."""
    with pytest.raises(azpg.LoginError) as caught:
        api.open(**postgres.conninfo(password=password))
    assert caught.value.kind == "login"


# Nearly right values, with what to write


@pytest.mark.parametrize(
    ("options", "write"),
    [
        ({"server": "shopdb.postgres.databse.azure.com"}, 'write server="shopdb"'),
        ({"server": "shopdb.database.azure.com"}, 'write server="shopdb"'),
        ({"host": "shopdb.postgres.databases.azure.com"}, 'server="shopdb"'),
        ({"host": "db.example.net"}, 'server="myserver"'),
    ],
)
def test_what_to_write_is_told(api: Api, options: dict[str, Any], write: str) -> None:
    """The server's own short name, where a suffix is misspelled."""
    with pytest.raises(azpg.ConfigError) as caught:
        api.open(user="me", **options)
    assert write in str(caught.value)


def test_the_address_of_a_bad_host_is_no_second_problem(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PGHOSTADDR belongs to the host that is wrong."""
    monkeypatch.setenv("PGHOSTADDR", "127.0.0.1")
    with pytest.raises(azpg.ConfigError) as caught:
        api.open(host="https://myserver.postgres.database.azure.com")
    (problem,) = caught.value.problems
    assert "contains the beginning of a URL" in problem


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PGPORT", '"5432"'),
        ("PGSSLMODE", "'require'"),
        ("PGHOST", '"myserver.postgres.database.azure.com"'),
        ("PGCONNECT_TIMEOUT", '"5"'),
    ],
)
def test_quotes_around_a_variable_are_named(
    api: Api, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """Docker's --env-file keeps them, a shell does not."""
    monkeypatch.setenv("PGHOST", "myserver.postgres.database.azure.com")
    monkeypatch.setenv(variable, value)
    with pytest.raises(azpg.ConfigError) as caught:
        api.open(user="me")
    assert f"{variable} has quotes around it" in caught.value.problems[0]
