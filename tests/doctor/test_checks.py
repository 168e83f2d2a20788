"""The checks of `azpg doctor` as a whole: if everything works, and if one thing is broken."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any

import pytest
from fix_doctor import details, run_steps, statuses

from azpg._cli.main import main
from azpg._doctor.result import SourcedValue

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fix_hostile import Hostile, Peer, Script
    from fix_servers import Postgres
    from fix_tunnel import Dig

    from azpg.emulator import Emulator

pytestmark = pytest.mark.compat

HOST = "myserver.postgres.database.azure.com"


# If everything works


def test_every_check_runs(azure: Emulator) -> None:
    """Each one reports its details."""
    steps = run_steps(server="myserver")
    assert statuses(steps) == {}
    assert details(steps, "name")["addresses"] == [f"{azure.hostaddr} (this machine)"]
    assert details(steps, "TCP")["address"] == f"{azure.hostaddr}:5432"
    tls = details(steps, "TLS")
    assert tls["version"] == "TLSv1.3"
    assert HOST in tls["names"]
    assert tls["chain"][1:] == ["azpg emulator issuing CA", "azpg emulator, do not trust"]
    assert (tls["root"], tls["root_pinned"]) == ("azpg emulator, do not trust", False)
    assert tls["days_left"] == 0
    identity = details(steps, "identity")
    assert identity["credential"] == "DefaultAzureCredential (ManagedIdentityCredential)"
    assert identity["user"] == "myapp"
    assert identity["audience"] == "https://ossrdbms-aad.database.windows.net"
    assert identity["object_id"] == azure.principal.object_id
    assert 50 <= identity["minutes_left"] <= 60
    sign_in = details(steps, "sign-in")
    assert (sign_in["user"], sign_in["database"]) == ("myapp", "postgres")
    assert "azure_pg_admin" in sign_in["member_of"]
    assert sign_in["server_version"].startswith(azure.postgres_version)
    assert sign_in["tls"] is True
    assert sign_in["tls_at_the_server"] == "none: TLS is terminated before the server"
    assert abs(sign_in["clock_ahead_seconds"]) < 30
    pgbouncer = details(steps, "PgBouncer")
    pgbouncer.pop("version", None)  # announced from 1.26 on
    assert pgbouncer == {"port": 6432, "pool_mode": "transaction", "prepared_statements": False}
    speed = details(steps, "speed")
    assert 0 < speed["round_trip_ms"] < speed["connect_ms"]


def test_the_checks_request_one_token(azure: Emulator) -> None:
    """The identity check and the connection use the same one."""
    before = azure.counts
    run_steps(server="myserver")
    assert (azure.counts - before).tokens_issued == 1


def test_a_connection_through_pgbouncer(azure: Emulator) -> None:
    """Its port is checked, and PgBouncer on the connection itself."""
    steps = run_steps(server="myserver", pgbouncer=True)
    assert details(steps, "TCP")["address"] == f"{azure.hostaddr}:6432"
    assert details(steps, "PgBouncer")["pool_mode"] == "transaction"


def test_a_connection_through_a_tunnel(
    azure: Emulator, dig: Dig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`host` is resolved, and the certificate verified against `server`."""
    monkeypatch.delenv("PGHOSTADDR")
    tunnel = dig((azure.hostaddr, azure.port))
    steps = run_steps(server="myserver", host="localhost", port=str(tunnel.port))
    assert details(steps, "name")["name"] == ["localhost"]
    assert f"127.0.0.1:{tunnel.port}" in details(steps, "TCP")["address"]
    assert HOST in details(steps, "TLS")["names"]
    assert details(steps, "sign-in")["user"] == "myapp"
    assert steps["PgBouncer"].result.problem.startswith(
        f"its port is unknown for port {tunnel.port}"
    )


@pytest.mark.parametrize(
    ("user", "environ", "fix"),
    [
        ("MyApp", {}, "role names are case-sensitive: leave out --user."),
        ("root", {"PGUSER": "root"}, "leave out --user (here from PGUSER: unset PGUSER)."),
        ("team", {}, "It is right if 'team' is a group"),
    ],
)
def test_the_tokens_name_is_compared_with_the_user(
    azure: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    user: str,
    environ: dict[str, str],
    fix: str,
) -> None:
    """Another user is a warning, with both names and where the user comes from."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    options = {"server": "myserver"} | ({} if environ else {"user": user})
    found = run_steps(**options)["identity"].result
    assert found.status == "warning"
    assert repr(user) in found.problem
    assert "'myapp'" in found.problem
    assert fix in found.hint


def test_a_user_whose_name_is_an_address(azure: Emulator) -> None:
    """Such as a person's; its groups are reported."""
    alice = azure.add_role("alice.doctor@contoso.com")
    azure.add_role("Doctors", kind="group", members=[alice])
    azure.sign_in_as(alice)
    try:
        sign_in = details(run_steps(server="myserver"), "sign-in")
    finally:
        azure.sign_in_as(azure.principal)
    assert sign_in["user"] == "alice.doctor@contoso.com"
    assert isinstance(sign_in["member_of"], list)


def test_the_second_of_two_addresses_is_used(azure: Emulator) -> None:
    """A warning names the first one, which does not answer."""
    addresses = f"127.0.0.1,{azure.hostaddr}"
    steps = run_steps(server="myserver", hostaddr=addresses, port=f"1,{azure.port}")
    assert steps["TCP"].result.status == "warning"
    assert "127.0.0.1:1: Connection refused" in steps["TCP"].result.problem
    assert details(steps, "TCP")["address"] == f"{azure.hostaddr}:5432"
    assert details(steps, "sign-in")["user"] == "myapp"


def test_a_connection_with_a_password(postgres: Postgres) -> None:
    """No token is requested, and the server itself reports its TLS."""
    steps = run_steps(**postgres.conninfo())
    assert details(steps, "sign-in")["tls_at_the_server"].startswith("TLSv1.3 TLS_")
    assert steps["identity"].result.status == "skipped"
    assert steps["PgBouncer"].result.status == "skipped"
    assert "not on port 6432" in steps["PgBouncer"].result.problem
    assert "pgbouncer.enabled" in steps["PgBouncer"].result.hint


def test_a_connection_over_a_unix_socket(postgres: Postgres) -> None:
    """The checks of network and TLS are skipped."""
    steps = run_steps(host=postgres.socket, user="admin", password="none", dbname="postgres")
    assert details(steps, "sign-in")["user"] == "admin"
    skipped = {"name", "TCP", "TLS", "identity", "PgBouncer"}
    assert {name for name, status in statuses(steps).items() if status == "skipped"} == skipped


# If something is broken

BROKEN: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, str]]] = {
    "expired certificate": (
        {"certificate": "expired"},
        {},
        {"TLS": "certificate has expired", "sign-in": "certificate"},
    ),
    "self-signed certificate": (
        {"certificate": "self-signed"},
        {},
        {"TLS": "self.signed certificate", "sign-in": "certificate"},
    ),
    "another root": (
        {"certificate": "other-root"},
        {},
        {"TLS": "unable to get local issuer", "sign-in": "certificate"},
    ),
    "another name": (
        {"certificate": "other-name"},
        {},
        {"TLS": f'does not match host name "{HOST}"', "sign-in": "does not match"},
    ),
    "no TLS": (
        {"tls": "stripped"},
        {},
        {"TLS": "server does not support SSL", "sign-in": "server does not support SSL"},
    ),
    "no token": ({"identity": 400}, {}, {"identity": "no token from DefaultAzureCredential"}),
    "token for another": (
        {"token": "wrong-audience"},
        {},
        {"identity": "the token is for https://", "sign-in": "audience"},
    ),
    "expired token": ({"token": "expired"}, {}, {"sign-in": "has expired"}),
    "no role": ({}, {"user": "nobody"}, {"sign-in": "nobody"}),
    "no database": ({}, {"dbname": "nothing"}, {"sign-in": 'database "nothing" does not exist'}),
    "closed port": ({}, {"port": "1"}, {"TCP": "Connection refused"}),
    "no such root file": (
        {},
        {"sslrootcert": "/nowhere/root.pem"},
        {"TLS": "root certificate file", "sign-in": "root certificate file"},
    ),
    "another domain": ({}, {"server": None, "host": "evil.example"}, {"configuration": "never"}),
}


@pytest.mark.parametrize(("fault", "options", "failures"), BROKEN.values(), ids=BROKEN)
def test_only_the_checks_of_what_is_broken_fail(
    azure: Emulator, fault: dict[str, Any], options: dict[str, Any], failures: dict[str, str]
) -> None:
    """Each one reports the problem; the other checks run as far as they can."""
    with azure.fault(**fault) if fault else contextlib.nullcontext():
        steps = run_steps(**{"server": "myserver", **options})
    failed = {name: step for name, step in steps.items() if step.result.status == "failed"}
    assert list(failed) == list(failures)
    for name, pattern in failures.items():
        assert re.search(pattern, failed[name].result.problem), failed[name].result.problem
    first = next(iter(failed.values())).result
    assert first.hint or first.problem  # a problem of the configuration is its own hint
    assert steps["identity"].result.status != "skipped"
    assert {steps[name].result.status for name in ("PgBouncer", "speed")} == {"skipped"}


def test_a_check_does_not_blame_what_an_earlier_one_ruled_out(azure: Emulator) -> None:
    """If TCP connects, no firewall is to blame for a TLS handshake without an answer."""
    with azure.fault(connect="stall"):
        steps = run_steps(server="myserver", connect_timeout=2)
    assert steps["TCP"].result.status == "ok"
    assert steps["TLS"].result.hint == steps["sign-in"].result.hint
    assert "no firewall blocks it" in steps["TLS"].result.hint


def test_a_connection_that_is_cut_in_the_handshake(azure: Emulator) -> None:
    """The TLS check has libpq's message, and the hint for it."""
    with azure.fault(connect="cut-in-tls"):
        steps = run_steps(server="myserver")
    assert steps["TLS"].result.problem == "SSL error: unexpected eof while reading"
    assert steps["TLS"].result.hint == steps["sign-in"].result.hint != ""


def test_a_host_that_does_not_exist(azure: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name's check fails, with a hint; TCP, TLS and sign-in are skipped."""
    monkeypatch.delenv("PGHOSTADDR")
    steps = run_steps(server="myserver", host="no.invalid")
    assert "no.invalid" in steps["name"].result.problem
    assert steps["name"].result.hint
    skipped = [n for n, step in steps.items() if step.result.problem == "no address"]
    assert skipped == ["TCP", "TLS", "sign-in"]


def test_hints_name_the_commands_options(azure: Emulator) -> None:
    """They have `--server`, not Python's `server=`."""
    with azure.fault(certificate="other-name"):
        steps = run_steps(server="myserver")
    assert "--server" in steps["TLS"].result.hint
    assert "server=" not in steps["TLS"].result.hint
    assert "--server myserver" in run_steps(host="localhost")["configuration"].result.problem


# Configuration


def test_each_value_has_its_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A value that azpg has changed has the original one too."""
    services = tmp_path / "services"
    services.write_text("[mine]\ndbname=mydb\n")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    monkeypatch.setenv("PGSSLMODE", "require")
    monkeypatch.setenv("PGPASSWORD", "secret")
    monkeypatch.setenv("PGAPPNAME", "a\x1b[2Jb")
    steps = run_steps(
        server="myserver", conninfo="service=mine user=app", hostaddr="127.0.0.1", port="1"
    )
    found = details(steps, "configuration")
    assert found["host"] == SourcedValue(HOST, "--server")
    assert found["hostaddr"] == SourcedValue("127.0.0.1", "--hostaddr")
    assert found["user"] == SourcedValue("app", "conninfo")
    assert found["dbname"] == SourcedValue("mydb", "service file")
    assert found["sslmode"] == SourcedValue("verify-full", "azpg; PGSSLMODE said require")
    assert found["application_name"] == SourcedValue("a [2Jb", "PGAPPNAME")
    assert found["password"] == SourcedValue("…", "PGPASSWORD")
    assert found["connect_timeout"] == SourcedValue("15", "azpg")
    assert found["sign_in"] == "password"


# What is never printed


def test_secrets_are_masked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No password, client secret or proxy's password is printed, as text or as JSON."""
    for name in ("AZURE_CLIENT_SECRET", "AZURE_PASSWORD", "IDENTITY_HEADER", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://u:hunter2@proxy.invalid")
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
    for arguments in (["--json"], []):
        for conninfo in (
            "host=127.0.0.1 port=1 user=u password=hunter2",
            f"host={HOST} hostaddr=127.0.0.1 port=1",
        ):
            assert main(["doctor", conninfo, *arguments]) == 1
    printed = "".join(capsys.readouterr())
    assert "AZURE_CLIENT_SECRET=…" in printed
    assert "hunter2" not in printed


def test_control_characters_of_a_server_are_not_printed(
    hostile: Callable[[Script], Hostile], capsys: pytest.CaptureFixture[str]
) -> None:
    """A terminal would obey them."""

    def script(peer: Peer) -> None:
        peer.packet()
        peer.refuse("\x1b]0;title\x07\x1b[2J\x9b31m no such database")

    server = hostile(script)
    conninfo = f"host=localhost hostaddr={server.host} port={server.port} sslmode=disable user=u"
    assert main(["doctor", f"{conninfo} password=secret"]) == 1
    printed = capsys.readouterr().out
    assert "no such database" in printed
    assert not [c for c in printed if not c.isprintable() and c != "\n"]
