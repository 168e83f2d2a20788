"""Service Connector's variables: every form of them, and who beats them."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import azpg
from azpg._conninfo import service_connector
from azpg._conninfo.options import ConnectOptions
from azpg._conninfo.sources import Parameter, merge
from azpg._doctor.checks import run_checks
from azpg._doctor.result import SourcedValue, Step
from azpg._libpq import libpq_info

if TYPE_CHECKING:
    from fix_api import Api
    from fix_authority import Authority
    from fix_leaks import Leaks

    from azpg.emulator import Emulator

HOST = "myserver.postgres.database.azure.com"
STRING = f"dbname=mydb host={HOST} port=5432 sslmode=require user=myapp"


def connector(**variables: str) -> dict[str, str]:
    """Return the variables of a connector, and Python's own among them."""
    return {f"AZURE_POSTGRESQL_{name}": value for name, value in variables.items()}


def said(environ: dict[str, str], conninfo: str = "", **keywords: object) -> dict[str, str]:
    """Return what was said by whom, without a problem."""
    merged, problems = merge(ConnectOptions(conninfo, keywords), environ)
    assert not problems
    return {name: f"{said.source}: {said.value}" for name, said in merged.items()}


PLAIN = {"host": HOST, "dbname": "mydb", "user": "myapp"}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        pytest.param(
            {"CONNECTIONSTRING": STRING},
            PLAIN | {"port": "5432", "sslmode": "require"},
            id="python",
        ),
        pytest.param(
            {"CONNECTIONSTRING": f"{STRING} password='a b'"},
            PLAIN | {"port": "5432", "sslmode": "require", "password": "a b"},
            id="python-secret",
        ),
        pytest.param({"HOST": HOST, "NAME": "mydb", "USER": "myapp"}, PLAIN, id="django"),
        pytest.param(
            {"HOST": HOST, "NAME": "mydb", "USER": "myapp", "PASSWORD": "secret"},
            PLAIN | {"password": "secret"},
            id="django-secret",
        ),
        pytest.param(
            {
                "HOST": HOST,
                "PORT": "5432",
                "DATABASE": "mydb",
                "USERNAME": "myapp",
                "PASSWORD": "secret",
                "SSL": "true",
            },
            PLAIN | {"port": "5432", "password": "secret"},
            id="plain-secret",
        ),
        pytest.param(
            {"CONNECTIONSTRING": STRING, "HOST": "elsewhere", "PASSWORD": "secret"},
            PLAIN | {"port": "5432", "sslmode": "require"},
            id="string-first",
        ),
        pytest.param({"HOST": HOST, "NAME": "", "PORT": ""}, {"host": HOST}, id="empty"),
        pytest.param({"USER": "myapp", "PASSWORD": "secret"}, {}, id="no-host"),
        pytest.param({"CONNECTIONSTRING": "dbname=mydb user=myapp"}, {}, id="string-no-host"),
        pytest.param({"CONNECTIONSTRING": f"host={HOST} service=x"}, {"host": HOST}, id="service"),
    ],
)
def test_every_form_is_read(variables: dict[str, str], expected: dict[str, str]) -> None:
    """Each form says what it says to Azure's own samples."""
    found = {name: f"Service Connector: {value}" for name, value in expected.items()}
    assert said(connector(**variables)) == found


@pytest.mark.parametrize("place", ["host", "hostaddr"])
@pytest.mark.parametrize("source", ["keyword", "conninfo", "service file", "environment"])
def test_it_counts_only_where_nothing_else_names_a_server(
    place: str, source: str, tmp_path: Any
) -> None:
    """A server that is named in any other way is not the one of the connector's user and secret."""
    environ = connector(CONNECTIONSTRING=f"{STRING} password=secret")
    file = tmp_path / "services"
    file.write_text(f"[mine]\n{place}=192.0.2.1\n")
    words: dict[str, Any] = {}
    if source == "keyword":
        words[place] = "192.0.2.1"
    elif source == "conninfo":
        words["conninfo"] = f"{place}=192.0.2.1"
    elif source == "environment":
        environ[f"PG{place.upper()}"] = "192.0.2.1"
    else:
        environ |= {"PGSERVICE": "mine", "PGSERVICEFILE": str(file)}
    assert said(environ, **words) == {place: f"{source}: 192.0.2.1"}
    assert not merge(ConnectOptions(server="other"), connector(CONNECTIONSTRING=STRING))[0]


@given(
    environ=st.dictionaries(
        st.sampled_from([*libpq_info().variables.values(), "PGREQUIRESSL"]),
        st.sampled_from(["", "1", "require", "x"]),
    )
)
def test_what_else_is_said_beats_it(environ: dict[str, str]) -> None:
    """Every other word of the environment stays as it was said, an empty server's name apart."""
    environ = {name: value for name, value in environ.items() if name and "SERVICE" not in name}
    alone, _ = merge(ConnectOptions(), environ)
    beside, _ = merge(ConnectOptions(), environ | connector(CONNECTIONSTRING=STRING))
    for name, word in alone.items():
        assert beside[name] == word or (name in {"host", "hostaddr"} and not word.value)
    if not (environ.get("PGHOST") or environ.get("PGHOSTADDR")):
        place = "AZURE_POSTGRESQL_CONNECTIONSTRING"
        assert beside["host"] == Parameter(HOST, "Service Connector", place)


@pytest.mark.parametrize(
    ("string", "told"),
    [
        (f"Server={HOST};Database=mydb;Port=5432;User Id=myapp;", "ADO.NET"),
        (f"jdbc:postgresql://{HOST}:5432/mydb?user=myapp", "JDBC URL"),
    ],
)
def test_a_string_for_another_language_is_told(
    monkeypatch: pytest.MonkeyPatch, string: str, told: str
) -> None:
    """A connector made for .NET or Java is refused, with libpq's form of its string."""
    monkeypatch.setenv("AZURE_POSTGRESQL_CONNECTIONSTRING", string)
    with pytest.raises(azpg.ConfigError) as caught:
        azpg.conninfo()
    (problem,) = caught.value.problems
    assert problem.startswith("AZURE_POSTGRESQL_CONNECTIONSTRING: the connection string is")
    assert told in problem
    assert f"host={HOST}" in problem


# Signing in


@pytest.fixture
def connected(azure: Emulator, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that exports a connector's variables, for a server found by its name."""
    getaddrinfo = socket.getaddrinfo

    def look_up(host: str | None, *args: Any, **options: Any) -> Any:
        return getaddrinfo(azure.hostaddr if host == azure.host else host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.delenv("PGHOST")
    monkeypatch.delenv("PGHOSTADDR")

    def export(**variables: str) -> None:
        for name, value in connector(**variables).items():
            monkeypatch.setenv(name, value)

    return export


QUERY = "select current_user, current_database()"


@pytest.mark.parametrize(
    "variables",
    [
        {"CONNECTIONSTRING": STRING.replace("mydb", "postgres")},
        {"HOST": HOST, "NAME": "postgres", "USER": "myapp"},
        {"HOST": HOST},
    ],
)
def test_a_system_assigned_identity_signs_in(
    api: Api, connected: Any, variables: dict[str, str]
) -> None:
    """Nothing is written in the program: server and database are the connector's."""
    connected(**variables)
    with api.connect() as conn:
        assert api.row(conn, QUERY) == ("myapp", "postgres")
        assert conn.info.get_parameters()["sslmode"] == "verify-full"


def test_a_user_assigned_identity_signs_in(api: Api, azure: Emulator, connected: Any) -> None:
    """_CLIENTID says which identity the default credential is to ask for."""
    other = azure.add_role(f"connected-{api.kind}", kind="user-assigned")
    connected(HOST=HOST, CLIENTID=other.client_id)
    with api.connect() as conn:
        assert api.row(conn, "select current_user") == (other.name,)


def test_a_secret_signs_in(api: Api, azure: Emulator, connected: Any) -> None:
    """_PASSWORD is a PostgreSQL role's."""
    role = azure.add_role(f"secret-{api.kind}", password="secret").name
    connected(HOST=HOST, USERNAME=role, PASSWORD="secret", DATABASE="postgres")
    with api.connect() as conn:
        assert api.row(conn, "select current_user") == (role,)


def test_a_call_beats_it(api: Api, azure: Emulator, connected: Any) -> None:
    """User, database, password and identity of the call are taken, the rest of it stays."""
    role = azure.add_role(f"call-{api.kind}", password="secret").name
    connected(HOST=HOST, NAME="nowhere", USER="nobody", CLIENTID="nothing", PASSWORD="wrong")
    with api.connect(user=role, password="secret", dbname="postgres") as conn:
        assert api.row(conn, QUERY) == (role, "postgres")
    client_id = azure.principal.client_id
    with api.connect(user="myapp", client_id=client_id, dbname="postgres") as conn:
        assert api.row(conn, QUERY) == ("myapp", "postgres")


# A service principal

PRINCIPAL = {
    "CLIENTID": "the-app",
    "CLIENTSECRET": "pr1ncipal-secret",
    "TENANTID": "11111111-2222-4333-8444-555555555555",
}


def test_a_service_principal_signs_in(api: Api, authority: Authority, connected: Any) -> None:
    """Its secret asks for a token, once for all connections; nothing is asked before that."""
    connected(CONNECTIONSTRING=STRING.replace("mydb", "postgres"), **PRINCIPAL)
    azpg.conninfo()
    assert not authority.forms
    for _ in range(2):
        with api.connect() as conn:
            assert api.row(conn, "select current_user") == ("myapp",)
    (form,) = authority.forms
    assert form["client_id"] == "the-app"
    assert form["client_secret"] == "pr1ncipal-secret"
    assert form["host"] == "login.microsoftonline.com"


def test_a_refused_service_principal_shows_no_secret(
    api: Api, authority: Authority, connected: Any, leaks: Leaks
) -> None:
    """Its failure names the credential and says what Microsoft Entra said, without the secret."""
    authority.give = lambda _form: authority_refuses(authority)
    connected(HOST=HOST, USER="myapp", **PRINCIPAL)
    with pytest.raises(azpg.CredentialError, match="ClientSecretCredential") as caught:
        api.open()
    leaks.none_shown(caught.value, "pr1ncipal-secret")
    shown = repr(service_connector.identity_from_environ(connector(**PRINCIPAL)))
    assert shown == "<ServiceIdentity 'the-app'>"


def authority_refuses(authority: Authority) -> str:
    """Refuse as Microsoft Entra does."""
    raise authority.refusal("invalid_client", "AADSTS7000222: The client secret keys are expired.")


def test_the_doctor_shows_where_each_value_came_from(authority: Authority, connected: Any) -> None:
    """Each value of the connector's is told as such, and a service principal by its name."""
    connected(CONNECTIONSTRING=STRING, **PRINCIPAL)
    results = run_checks({"dbname": "postgres"})
    steps = {step.name: step for step in results if isinstance(step, Step)}
    facts = steps["configuration"].result.details
    assert facts["user"] == SourcedValue("myapp", "Service Connector")
    assert facts["sslmode"] == SourcedValue("verify-full", "azpg; Service Connector said require")
    assert facts["dbname"] == SourcedValue("postgres", "--dbname")
    identity = steps["identity"].result.details
    assert identity["credential"] == "ClientSecretCredential"
    assert "AZURE_POSTGRESQL_CLIENTSECRET=…" in str(identity["environment"])
    assert steps["sign-in"].result.status == "ok"
    assert authority.forms


@pytest.mark.parametrize("missing", ["CLIENTID", "TENANTID"])
def test_half_a_service_principal_is_refused(
    api: Api, connected: Any, leaks: Leaks, missing: str
) -> None:
    """A secret without its client and tenant cannot be meant; with a password nobody asks."""
    connected(HOST=HOST, **{name: value for name, value in PRINCIPAL.items() if name != missing})
    with pytest.raises(
        azpg.ConfigError, match="CLIENTSECRET belongs to a service principal"
    ) as caught:
        api.open()
    leaks.none_shown(caught.value, "pr1ncipal-secret")
    assert "host=" in azpg.conninfo(password="secret")
