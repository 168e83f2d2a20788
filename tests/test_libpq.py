"""The libpq in use: defaults, versions, validation, and that its environment is not used."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import pq
from psycopg.conninfo import make_conninfo

import azpg
from azpg import _libpq
from azpg._conninfo.options import ConnectOptions
from azpg._conninfo.resolve import OptionSummary, Platform, resolve
from azpg._conninfo.sources import Parameter, merge
from azpg._libpq import libpq_info

if TYPE_CHECKING:
    from pathlib import Path

    from fix_api import Api
    from fix_conninfo import Problems
    from fix_servers import Postgres

    from azpg.emulator import Emulator

pytestmark = pytest.mark.compat

HOST = "myserver.postgres.database.azure.com"
ALWAYS_GIVEN = {
    *("application_name", "connect_timeout", "fallback_application_name", "host", "port", "user"),
    *("keepalives_count", "keepalives_idle", "keepalives_interval"),
}


# Defaults


def test_every_keyword_has_a_default() -> None:
    """No keyword is left for the environment or a service file to set."""
    info = libpq_info()
    covered = info.defaults.keys() | ALWAYS_GIVEN | _libpq.WITHOUT_DEFAULT
    assert info.variables.keys() <= covered


@pytest.mark.parametrize("keyword", sorted(libpq_info().defaults))
def test_a_default_changes_nothing(
    postgres: Postgres, azure: Emulator, keyword: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session is the same with an explicit default and without, for each authentication."""
    default = {keyword: libpq_info().defaults[keyword]}
    scram = {"host": postgres.host, "hostaddr": postgres.hostaddr, "password": postgres.password}
    scram |= {"user": postgres.user, "dbname": "postgres", "port": str(postgres.port)}
    scram |= {"sslrootcert": postgres.root, "sslmode": "verify-full"}
    trust = {"host": postgres.socket, "user": "admin", "dbname": "postgres"}
    cleartext = {"host": HOST, "user": "myapp", "dbname": "postgres", "password": azure.token()}
    cleartext |= {"sslmode": "verify-full"}
    assert {key: azure.env[key] for key in ("PGHOSTADDR", "PGSSLROOTCERT")}
    for variable in ("PGHOSTADDR", "PGSSLROOTCERT"):
        monkeypatch.delenv(variable)
    cleartext |= {"hostaddr": azure.env["PGHOSTADDR"], "sslrootcert": azure.env["PGSSLROOTCERT"]}
    for params in (scram, trust, cleartext):
        assert session(default | params) == session(params)


def session(params: dict[str, str]) -> dict[str, Any]:
    """Return what the client and the server see of a session."""
    with psycopg.connect(make_conninfo("", **params), autocommit=True) as conn:
        shown = conn.execute(
            "select name, setting from pg_settings where source = 'client' order by 1"
        ).fetchall()
        return {
            "settings": shown,
            "database": conn.info.dbname,
            "user": conn.info.user,
            "protocol": pq.version() >= 180000 and conn.pgconn.full_protocol_version,
            "tls": conn.pgconn.ssl_in_use,
        }


@pytest.mark.parametrize("where", ["environment", "service file"])
def test_later_changes_of_the_environment_are_ignored(
    api: Api, azure: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str
) -> None:
    """A variable that is set while the password is fetched does not affect the connection."""
    keylog = tmp_path / "keys"
    junk = dict.fromkeys(libpq_info().variables, "junk") | {"sslkeylogfile": str(keylog)}
    if "oauth_issuer" in junk:
        junk["oauth_issuer"] = "https://evil.example"

    def change_everything() -> str:
        if where == "environment":
            for keyword, variable in libpq_info().variables.items():
                if variable and keyword != "service":
                    monkeypatch.setenv(variable, junk[keyword])
            monkeypatch.setenv("PGREQUIRESSL", "1")
        else:
            known = [k for k in junk if k not in {"service", "servicefile"}]
            lines = [f"{k}={junk[k]}\n" for k in known if not k.startswith("scram_")]
            (tmp_path / "services").write_text("[s]\n" + "".join(lines))
            monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
            monkeypatch.setenv("PGSERVICE", "s")
        return azure.token()

    options = {"user": "myapp", "dbname": "postgres"}
    with api.connect(password=api.callback(change_everything), **options) as conn:
        assert api.row(conn, "select current_user")[0] == "myapp"
        assert conn.pgconn.ssl_in_use
        assert conn.info.host == HOST
        assert api.row(conn, "show application_name")[0] == "azpg"
    assert not keylog.exists()


def test_the_fallback_application_name_is_the_callers(api: Api, azure: Emulator) -> None:
    """fallback_application_name= works as in libpq, although application_name is sent too."""
    with api.connect(fallback_application_name="shop") as conn:
        assert api.row(conn, "show application_name")[0] == "shop"
    with api.connect(fallback_application_name="shop", application_name="till") as conn:
        assert api.row(conn, "show application_name")[0] == "till"


# What libpq rejects


REJECTED = [
    {"target_session_attrs": "x"},
    {"load_balance_hosts": "x"},
    {"channel_binding": "x"},
    {"gssencmode": "x"},
    {"sslnegotiation": "x"},
    {"sslcertmode": "x"},
    {"require_auth": "x"},
    {"require_auth": "password,!md5"},
    {"ssl_min_protocol_version": "x"},
    {"ssl_max_protocol_version": "SSLv3"},
    {"ssl_min_protocol_version": "TLSv1.3", "ssl_max_protocol_version": "TLSv1.2"},
    {"min_protocol_version": "x"},
    {"max_protocol_version": "2.0"},
    {"min_protocol_version": "3.2", "max_protocol_version": "3.0"},
    {"keepalives": "x"},
    {"keepalives_idle": "soon"},
    {"keepalives_interval": "1.5"},
    {"keepalives_count": "99999999999"},
    {"tcp_user_timeout": "x"},
    {"hostaddr": "localhost"},
    {"hostaddr": "300.0.0.1"},
]
REJECTED = [each for each in REJECTED if each.keys() <= libpq_info().variables.keys()]


@pytest.mark.parametrize("options", REJECTED, ids=lambda each: " ".join(each.values()))
@pytest.mark.parametrize("source", ["keyword", "conninfo", "environment"])
def test_what_libpq_rejects_requests_no_token(
    problems: Problems, monkeypatch: pytest.MonkeyPatch, options: dict[str, str], source: str
) -> None:
    """The parameters are validated, with libpq's message, before a token is requested."""
    if source == "keyword":
        found = problems(server="myserver", **options)
    elif source == "conninfo":
        found = problems(make_conninfo("", **options), server="myserver")
    else:
        variables = {libpq_info().variables[name]: value for name, value in options.items()}
        if "" in variables:
            return  # keepalives have no variable
        for variable, value in variables.items():
            monkeypatch.setenv(variable, value)
        found = problems(server="myserver")
    assert len(found) == 1


def test_what_libpq_rejects_is_an_operational_error_too(api: Api) -> None:
    """Programs that catch psycopg's OperationalError for it keep working."""
    with pytest.raises(psycopg.OperationalError) as caught:
        api.open(server="myserver", target_session_attrs="x")
    assert isinstance(caught.value, azpg.ConfigError)


def test_the_validation_does_not_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    """While parameters are validated, the host in the environment is not connected to."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        monkeypatch.setenv("PGHOST", "127.0.0.1")
        monkeypatch.setenv("PGHOSTADDR", "127.0.0.1")
        monkeypatch.setenv("PGPORT", str(server.getsockname()[1]))
        params = {"host": HOST, "port": "5432", "sslmode": "verify-full", "keepalives_idle": "7"}
        assert _libpq.validation_error(params) is None
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize("value", ["require;password=hunter2", "a b", "x" * 60])
def test_a_rejected_value_that_may_be_secret_is_masked(value: str) -> None:
    """In libpq's message, which quotes the value, a misread string is masked."""
    params = {"host": HOST, "port": "5432", "target_session_attrs": value}
    message = _libpq.validation_error(params)
    assert message
    assert "target_session_attrs" in message
    assert value not in message


# Older versions


def test_a_keyword_of_a_newer_libpq_names_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is not "did you mean": it names the version, and what to install."""
    info = _libpq.LibpqInfo()
    info.version = 15
    del info.variables["require_auth"]
    monkeypatch.setattr(_libpq, "libpq_info", lambda: info)
    problem = _libpq.too_old_for("require_auth") or ""
    assert "libpq 16" in problem
    assert "libpq 15" in problem
    assert "psycopg[binary]" in problem
    assert _libpq.too_old_for("sslmode") is None
    assert _libpq.too_old_for("databse") is None


@pytest.mark.parametrize(
    "conninfo",
    [
        "host={host} {keyword}=x",
        "host={host} password=secret {keyword}=x",
        "postgresql://me:secret@{host}/mydb?{keyword}=x",
    ],
    ids=["pairs", "password", "uri"],
)
def test_a_keyword_of_a_newer_libpq_in_a_connection_string_names_its_version(
    conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not taken for a misspelled keyword, or for part of a password."""
    monkeypatch.setitem(_libpq.SINCE_VERSION, "ssl_mod", 99)
    with pytest.raises(azpg.ConfigError) as caught:
        azpg.connect(conninfo.format(host=HOST, keyword="ssl_mod"))
    (problem,) = caught.value.problems
    assert "ssl_mod needs libpq 99" in problem
    assert "sslmode" not in problem
    assert "secret" not in problem


def test_the_table_of_versions_names_keywords() -> None:
    """Every keyword of the table exists in the libpq in use, if that is new enough."""
    version = libpq_info().version
    known = {name for name, since in _libpq.SINCE_VERSION.items() if since <= version}
    assert known - {"tcp_user_timeout"} <= libpq_info().variables.keys()
    assert {_libpq.SINCE_VERSION[name] for name in _libpq.RESTRICTING_VARIABLES.values()} <= set(
        range(12, 19)
    )


@pytest.mark.parametrize(
    ("keyword", "mode"), [("require_auth", "verify-ca"), ("ssl_min_protocol_version", "require")]
)
def test_verify_ca_needs_a_libpq_with_require_auth(keyword: str, mode: str) -> None:
    """A keyword that protects a connection to Azure is never omitted because libpq lacks it."""
    params = {
        "host": Parameter(HOST, "keyword"),
        "sslmode": Parameter(mode, "keyword"),
    }
    info = libpq_info()
    platform = Platform(
        keywords=info.variables.keys() - {keyword},
        libpq_version=12,
        defaults=info.defaults,
        is_linux=True,
        has_user_root_crt=False,
    )
    _, problems = resolve(params, OptionSummary(password_kind="text"), platform)
    (problem,) = problems
    assert f"version {_libpq.SINCE_VERSION[keyword]}" in problem
    assert "libpq 12" in problem
    assert "psycopg[binary]" in problem


SYSTEM_LIBPQ = """
import azpg, json, os
from azpg._libpq import libpq_info
from psycopg import pq
assert pq.__impl__ == "python"
results = {"version": libpq_info().version}
for name, call in json.loads(os.environ["CALLS"]).items():
    try:
        azpg.connect(**call, user="app", password="secret", connect_timeout=2, retry_timeout=0)
    except azpg.ConfigError as error:
        results[name] = error.problems
    except azpg.ConnectError as error:
        results[name] = error.kind
with azpg.connect() as conn:
    results["user"] = conn.execute("select current_user").fetchone()[0]
print(json.dumps(results))
"""


def test_the_systems_libpq_protects_or_is_rejected(azure: Emulator) -> None:
    """With pure-Python psycopg on the system's libpq, an unsupported protection is an error."""
    calls = {
        "verify-ca": {"sslmode": "verify-ca"},
        "require_auth": {"require_auth": "scram-sha-256"},
        "sslkeylogfile": {"sslkeylogfile": "/tmp/x"},
        "rejected": {"target_session_attrs": "x"},
    }
    env = {**os.environ, "PSYCOPG_IMPL": "python", "CALLS": json.dumps(calls)}
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(SYSTEM_LIBPQ)]
    ran = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    results = json.loads(ran.stdout)
    version = results["version"]
    assert results["user"] == "myapp"
    assert results["rejected"] == ['invalid target_session_attrs value: "x"']
    for name in ("verify-ca", "require_auth"):
        if version < 16:
            (problem,) = results[name]
            assert " 16" in problem
            assert f"libpq {version}" in problem
        else:
            assert results[name] == "login"
    assert ("libpq 18" in str(results["sslkeylogfile"])) is (version < 18)


@pytest.mark.parametrize("variable", sorted(_libpq.RESTRICTING_VARIABLES))
def test_a_restricting_variable_needs_a_newer_libpq(
    monkeypatch: pytest.MonkeyPatch, variable: str, problems: Problems
) -> None:
    """A variable that restricts the connection is an error if this libpq would ignore it."""
    info = _libpq.LibpqInfo()
    info.version = 11
    for keyword in _libpq.SINCE_VERSION:
        info.variables.pop(keyword, None)
    monkeypatch.setattr(_libpq, "libpq_info", lambda: info)
    environ = {variable: "x"}
    _, found = merge(ConnectOptions(), environ)
    assert [problem for problem in found if problem.startswith(variable)]


# Windows


def test_a_path_that_is_not_ascii_becomes_its_short_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows libpq opens files in the ANSI code page: it gets the 8.3 path."""
    monkeypatch.setattr("os.name", "nt")
    short = {"C:/Users/José": "C:/Users/JOS~1", "C:/Users/José/root.pem": "C:/Users/JOS~1/root.pem"}
    monkeypatch.setattr(_libpq, "_short_name", lambda path: short.get(path, ""))
    params = {
        "host": "münchen.example",
        "sslrootcert": "C:/Users/José/root.pem",
        "sslkeylogfile": "C:/Users/José/keys.log",
        "passfile": "C:/pgpass.conf",
    }
    assert _libpq.with_native_paths(params) == {
        "host": "münchen.example",
        "sslrootcert": "C:/Users/JOS~1/root.pem",
        "sslkeylogfile": "C:/Users/JOS~1/keys.log",
        "passfile": "C:/pgpass.conf",
    }


def test_a_volume_without_short_paths_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file is named, and where to install instead."""
    monkeypatch.setattr("os.name", "nt")
    monkeypatch.setattr(_libpq, "_short_name", lambda _path: "")
    with pytest.raises(azpg.ConfigError) as caught:
        _libpq.with_native_paths({"sslrootcert": "C:/José/r.pem", "passfile": "C:/José/p"})
    assert len(caught.value.problems) == 2
    assert "ASCII path" in caught.value.problems[0]
