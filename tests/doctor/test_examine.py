"""The doctor: what each step finds where all is well, and what where something is broken."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

import azpg
from azpg._cli.main import main
from azpg._clouds import AZURE_ROOTS
from azpg._doctor.checks import examine
from azpg._doctor.result import Setting, Step
from azpg._doctor.session import pool_mode, session, takes_prepared

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_command import Command
    from fix_hostile import Certificates, Hostile, Peer, Script
    from fix_servers import Postgres
    from fix_tunnel import Dig

    from azpg.emulator import Emulator

HOST = "myserver.postgres.database.azure.com"
NAMES = ["configuration", "name", "TCP", "TLS", "identity", "sign-in", "PgBouncer", "speed"]

Steps: TypeAlias = "dict[str, Step]"


def walk(**options: Any) -> Steps:
    """Return the steps by their names."""
    walked = [each for each in examine(options) if isinstance(each, Step)]
    assert [step.name for step in walked] == NAMES
    return {step.name: step for step in walked}


def facts(steps: Steps, name: str) -> dict[str, Any]:
    """Return what a step that did not fail has found."""
    found = steps[name].found
    assert found.status in ("ok", "warning"), found
    return found.facts


def statuses(steps: Steps) -> dict[str, str]:
    """Return how each step ended, those that were well left out."""
    return {n: step.found.status for n, step in steps.items() if step.found.status != "ok"}


def test_all_is_well(azure: Emulator) -> None:
    """Every step is walked, and each finds what it is there for."""
    steps = walk(server="myserver")
    assert statuses(steps) == {"configuration": "warning"}  # the emulator's own variables
    assert facts(steps, "name")["addresses"] == [f"{azure.hostaddr} (this machine)"]
    assert facts(steps, "TCP")["address"] == f"{azure.hostaddr}:5432"
    tls = facts(steps, "TLS")
    assert tls["version"] == "TLSv1.3"
    assert HOST in tls["names"]
    assert tls["chain"][1:] == ["azpg emulator issuing CA", "azpg emulator, do not trust"]
    assert (tls["root"], tls["root_pinned"]) == ("azpg emulator, do not trust", False)
    assert tls["days_left"] == 0
    identity = facts(steps, "identity")
    assert identity["credential"] == "DefaultAzureCredential (ManagedIdentityCredential)"
    assert identity["user"] == "myapp"
    assert identity["audience"] == "https://ossrdbms-aad.database.windows.net"
    assert identity["object_id"] == azure.principal.object_id
    assert 50 <= identity["minutes_left"] <= 60
    signed_in = facts(steps, "sign-in")
    assert (signed_in["user"], signed_in["database"]) == ("myapp", "postgres")
    assert "azure_pg_admin" in signed_in["member_of"]
    assert azure.postgres_version.startswith(signed_in["server_version"])
    assert signed_in["tls"] is True
    assert signed_in["tls_at_the_server"] == "none: TLS ends before it"
    assert abs(signed_in["clock_ahead_seconds"]) < 30
    pooled = facts(steps, "PgBouncer")
    assert pooled == {"port": 6432, "pool_mode": "transaction", "prepared_statements": False}
    speed = facts(steps, "speed")
    assert 0 < speed["round_trip_ms"] < speed["connect_ms"]


def test_one_token_serves_the_whole_walk(azure: Emulator) -> None:
    """The token that is looked at is the one that signs in: none is asked for twice."""
    before = azure.counts
    walk(server="myserver")
    assert (azure.counts - before).tokens_issued == 1


def test_through_pgbouncer(azure: Emulator) -> None:
    """A connection that goes through PgBouncer is looked at there."""
    steps = walk(server="myserver", pgbouncer=True)
    assert facts(steps, "TCP")["address"] == f"{azure.hostaddr}:6432"
    assert facts(steps, "PgBouncer")["pool_mode"] == "transaction"


def test_through_a_tunnel(azure: Emulator, dig: Dig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way there is looked up and shown, and the server's own name verified."""
    monkeypatch.delenv("PGHOSTADDR")
    tunnel = dig((azure.hostaddr, azure.port))
    steps = walk(server="myserver", host="localhost", port=str(tunnel.port))
    assert facts(steps, "name")["name"] == ["localhost"]
    assert f"127.0.0.1:{tunnel.port}" in facts(steps, "TCP")["address"]
    assert HOST in facts(steps, "TLS")["names"]
    assert facts(steps, "sign-in")["user"] == "myapp"
    assert steps["PgBouncer"].found.problem.startswith(f"port {tunnel.port} does not tell")


def test_direct_tls(azure: Emulator) -> None:
    """A connection that begins with TLS is looked at in that way."""
    steps = walk(server="myserver", conninfo="sslnegotiation=direct")
    assert HOST in facts(steps, "TLS")["names"]
    assert facts(steps, "sign-in")["user"] == "myapp"


def test_a_person(azure: Emulator) -> None:
    """A role that is an address, such as a person's, is signed in and looked up like any other."""
    alice = azure.add_role("alice.doctor@contoso.com")
    azure.add_role("Doctors", kind="group", members=[alice])
    azure.sign_in_as(alice)
    try:
        signed_in = facts(walk(server="myserver"), "sign-in")
    finally:
        azure.sign_in_as(azure.principal)
    assert signed_in["user"] == "alice.doctor@contoso.com"
    assert isinstance(signed_in["member_of"], list)


def test_libpqs_own_root_file(postgres: Postgres, command: Command, tmp_path: Path) -> None:
    """Where libpq verifies by ~/.postgresql/root.crt, so does the look at the certificate."""
    own = tmp_path / "home" / ".postgresql" / "root.crt"
    own.parent.mkdir()
    own.write_bytes(Path(postgres.root).read_bytes())
    place = f"host=localhost hostaddr={postgres.hostaddr} port={postgres.port} dbname=postgres"
    ran = command("doctor", place, "--user", postgres.user, "--json", PGPASSWORD=postgres.password)
    tls = next(step for step in json.loads(ran.out)["steps"] if step["name"] == "TLS")
    assert (tls["status"], tls["problem"]) == ("ok", "")
    assert "trustme" in tls["facts"]["root"]


def test_one_host_of_two(azure: Emulator) -> None:
    """Where the first address does not answer, the second is gone to, and it is told."""
    here = f"127.0.0.1,{azure.hostaddr}"
    steps = walk(server="myserver", hostaddr=here, port=f"1,{azure.port}")
    assert steps["TCP"].found.status == "warning"
    assert "127.0.0.1:1: Connection refused" in steps["TCP"].found.problem
    assert facts(steps, "TCP")["address"] == f"{azure.hostaddr}:5432"
    assert facts(steps, "sign-in")["user"] == "myapp"


def test_a_server_of_its_own_tls(postgres: Postgres) -> None:
    """PostgreSQL's own view of TLS is told, and a password asks for no token."""
    steps = walk(**postgres.conninfo())
    assert facts(steps, "sign-in")["tls_at_the_server"].startswith("TLSv1.3 TLS_")
    assert steps["identity"].found.status == "skipped"
    assert steps["PgBouncer"].found.status == "skipped"
    assert "not on port 6432" in steps["PgBouncer"].found.problem
    assert "pgbouncer.enabled" in steps["PgBouncer"].found.hint


def test_a_unix_socket(postgres: Postgres) -> None:
    """A socket has no way there to look at, and is signed in to all the same."""
    steps = walk(host=postgres.socket, user="admin", password="none", dbname="postgres")
    assert facts(steps, "sign-in")["user"] == "admin"
    skipped = {"name", "TCP", "TLS", "identity", "PgBouncer"}
    assert {name for name, status in statuses(steps).items() if status == "skipped"} == skipped


@pytest.mark.parametrize(
    ("sslmode", "status"), [("require", "warning"), ("disable", "skipped")], ids=str
)
def test_weak_tls_is_told(postgres: Postgres, dig: Dig, sslmode: str, status: str) -> None:
    """A mode that verifies nothing, which another host's password may use, gets a word."""
    tunnel = dig((postgres.hostaddr, postgres.port))
    near = postgres.conninfo(host="localhost", hostaddr="127.0.0.1", port=str(tunnel.port))
    steps = walk(**near | {"sslmode": sslmode, "sslrootcert": None})
    assert steps["TLS"].found.status == status
    assert f"sslmode={sslmode}" in steps["TLS"].found.problem
    assert facts(steps, "sign-in")["tls"] is (sslmode == "require")


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
    "nothing there": ({}, {"port": "1"}, {"TCP": "Connection refused"}),
    "no such root file": (
        {},
        {"sslrootcert": "/nowhere/root.pem"},
        {"TLS": "root certificate file", "sign-in": "root certificate file"},
    ),
    "another domain": ({}, {"server": None, "host": "evil.example"}, {"configuration": "never"}),
}


@pytest.mark.parametrize(("fault", "options", "failures"), BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_found(
    azure: Emulator, fault: dict[str, Any], options: dict[str, Any], failures: dict[str, str]
) -> None:
    """Exactly the steps that are broken fail, with the reason; the others go as far as they can."""
    with azure.fault(**fault) if fault else contextlib.nullcontext():
        steps = walk(**{"server": "myserver", **options})
    failed = {name: step for name, step in steps.items() if step.found.status == "failed"}
    assert list(failed) == list(failures)
    for name, words in failures.items():
        assert re.search(words, failed[name].found.problem), failed[name].found.problem
    first = next(iter(failed.values())).found
    assert first.hint or first.problem  # the configuration's problems say themselves what to type
    assert steps["identity"].found.status != "skipped"
    assert {steps[name].found.status for name in ("PgBouncer", "speed")} == {"skipped"}


def test_a_name_that_leads_nowhere(azure: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name fails, with what to look for; TCP, TLS and sign-in are not tried."""
    monkeypatch.delenv("PGHOSTADDR")
    steps = walk(server="myserver", host="no.invalid")
    assert "no.invalid" in steps["name"].found.problem
    assert steps["name"].found.hint
    skipped = [n for n, step in steps.items() if step.found.problem == "no address to go to"]
    assert skipped == ["TCP", "TLS", "sign-in"]


def test_hints_are_as_they_are_typed_here(azure: Emulator) -> None:
    """A hint names the command's options, not Python's keywords."""
    with azure.fault(certificate="other-name"):
        steps = walk(server="myserver")
    assert "--server" in steps["TLS"].found.hint
    assert "server=" not in steps["TLS"].found.hint
    assert "--server myserver" in walk(host="localhost")["configuration"].found.problem


def test_the_look_at_a_refused_server_carries_nothing(
    certificates: Certificates, hostile: Callable[[Script], Hostile]
) -> None:
    """Over the handshake that looks at a wrong certificate not one byte is sent."""

    def script(peer: Peer) -> None:
        peer.start_tls(certificates.wrong["other-root"])
        peer.read_all()

    server = hostile(script)
    steps = walk(**{k: str(v) for k, v in server.address().items() if k != "retry_timeout"})
    assert steps["TLS"].found.status == "failed"
    assert steps["TLS"].found.facts["chain"]
    assert not server.decrypted


def test_server_text_is_not_trusted(
    hostile: Callable[[Script], Hostile], capsys: pytest.CaptureFixture[str]
) -> None:
    """Control characters in what a server says reach no terminal."""

    def script(peer: Peer) -> None:
        peer.packet()
        peer.refuse("\x1b]0;title\x07\x1b[2J\x9b31m no such database")

    server = hostile(script)
    place = f"host=localhost hostaddr={server.host} port={server.port} sslmode=disable user=u"
    assert main(["doctor", f"{place} password=geheim"]) == 1
    said = capsys.readouterr().out
    assert "no such database" in said
    assert not [c for c in said if not c.isprintable() and c != "\n"]


def test_what_came_from_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each value of the configuration has its source, and what azpg changed what it was."""
    services = tmp_path / "services"
    services.write_text("[mine]\ndbname=mydb\n")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    monkeypatch.setenv("PGSSLMODE", "require")
    monkeypatch.setenv("PGPASSWORD", "geheim")
    monkeypatch.setenv("PGAPPNAME", "a\x1b[2Jb")
    steps = walk(
        server="myserver", conninfo="service=mine user=app", hostaddr="127.0.0.1", port="1"
    )
    found = facts(steps, "configuration")
    assert found["host"] == Setting(HOST, "--server")
    assert found["hostaddr"] == Setting("127.0.0.1", "--hostaddr")
    assert found["user"] == Setting("app", "conninfo")
    assert found["dbname"] == Setting("mydb", "service file")
    assert found["sslmode"] == Setting("verify-full", "azpg; PGSSLMODE said require")
    assert found["application_name"] == Setting("a [2Jb", "PGAPPNAME")
    assert found["password"] == Setting("…", "PGPASSWORD")
    assert found["connect_timeout"] == Setting("15", "azpg")
    assert found["sign_in"] == "password"


def test_secrets_are_masked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No password, client secret or proxy's password is printed, as text or as data."""
    for name in ("AZURE_CLIENT_SECRET", "AZURE_PASSWORD", "IDENTITY_HEADER", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://u:geheim@proxy.invalid")
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
    for arguments in (["--json"], []):
        for conninfo in (
            "host=127.0.0.1 port=1 user=u password=geheim",
            f"host={HOST} hostaddr=127.0.0.1 port=1",
        ):
            assert main(["doctor", conninfo, *arguments]) == 1
    said = "".join(capsys.readouterr())
    assert "AZURE_CLIENT_SECRET=…" in said
    assert "geheim" not in said


def test_json_is_data(azure: Emulator, capsys: pytest.CaptureFixture[str]) -> None:
    """--json prints one document with every step, its seconds and its facts, and no token."""
    assert main(["doctor", "--server", "myserver", "--json"]) == 0
    said = capsys.readouterr().out
    data = json.loads(said)
    assert data["ok"] is True
    assert [step["name"] for step in data["steps"]] == NAMES
    assert all(step["seconds"] > 0 for step in data["steps"])
    assert data["steps"][0]["facts"]["host"] == {"value": HOST, "source": "--server"}
    assert data["versions"]["azpg"] == azpg.__version__
    assert "eyJ" not in said
    assert main(["doctor", "--server", "myserver", "--port", "1", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_certifis_lack_is_told(
    azure: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Pinned roots that certifi has dropped are named."""
    import certifi

    empty = tmp_path / "empty.pem"
    empty.write_text("")
    monkeypatch.setattr(certifi, "where", lambda: str(empty))
    lacking = facts(walk(server="myserver"), "TLS")["certifi_lacks"]
    assert len(lacking) == len(AZURE_ROOTS)
    assert "DigiCert Global Root G2" in lacking


def test_prepared_statements_are_looked_for_without_a_trace(azure: Emulator) -> None:
    """The look at PgBouncer's prepared statements leaves none behind."""
    with azpg.connect(server="myserver", autocommit=True) as conn:
        assert not takes_prepared(conn)
        assert not conn.execute("select * from pg_prepared_statements").fetchall()


def test_two_sessions_are_no_transaction_pool(azure: Emulator) -> None:
    """Connections that keep their own server's process each are not pooled by transaction."""
    with (
        azpg.connect(server="myserver", autocommit=True) as one,
        azpg.connect(server="myserver", autocommit=True) as other,
    ):
        assert pool_mode(one, other).startswith("session")


def test_a_read_only_server_and_a_set_role_are_told(azure: Emulator) -> None:
    """A session that may only read, and one that acts as another role, say so."""
    with azpg.connect(
        server="myserver", options="-c default_transaction_read_only=on -c role=azure_pg_admin"
    ) as conn:
        found = session(conn)
    assert found["read_only"] is True
    assert found["user"] == "azure_pg_admin, signed in as myapp"
