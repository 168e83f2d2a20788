"""The doctor's record: what it tells about a server, and that no name or secret is in it."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import azpg
from azpg._doctor.facts import FACTS
from azpg._doctor.record import Aliases

if TYPE_CHECKING:
    from fix_command import Command, Ran

    from azpg.emulator import Emulator

SUPPORT_PAGE = Path(__file__).parents[2] / "docs" / "reference" / "support.md"


@pytest.fixture(scope="module")
def database(emulator: Emulator) -> str:
    """Return a database with a name of its own, on a server with a second Entra role."""
    emulator.add_role("quarterly@contoso.com")
    with azpg.connect(
        server="myserver",
        hostaddr=emulator.hostaddr,
        sslrootcert=emulator.root_certificate,
        user="myapp",
        password=emulator.token(),
        autocommit=True,
    ) as connection:
        connection.execute("create database ledger")
    return "ledger"


def names_and_secrets(azure: Emulator, *tokens: str) -> list[str]:
    """Return everything that identifies this server, its tenant, its roles and this machine."""
    payload = azure.token().split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    principal = azure.principal
    return [
        *("myserver", "myapp", "ledger", "quarterly", "contoso", azure.hostaddr),
        *(claims[name] for name in ("tid", "oid", "appid", "xms_mirid", "uti")),
        *(principal.object_id, str(principal.client_id), str(principal.resource_id)),
        *(azure.env["IDENTITY_HEADER"], azure.root_certificate, str(Path.home()), "eyJ"),
        *tokens,
    ]


def record(command: Command, file: Path, *args: str) -> tuple[Ran, dict[str, Any]]:
    """Run the command and return its result and the record."""
    ran = command("doctor", "--server", "myserver", *args, "--record", str(file))
    written = json.loads(file.read_text("utf-8"))
    assert json.loads(ran.out) == written
    return ran, written


def test_no_name_or_secret_is_in_a_record(
    azure: Emulator, command: Command, database: str, tmp_path: Path
) -> None:
    """Neither the file nor the output has a token, a password, a name or an ID."""
    expired = azure.token(lifetime=-60)
    (tmp_path / "expired").write_text(f"{expired}\n")
    file = tmp_path / "record.json"
    options = (
        "--dbname",
        database,
        "--probe-refusals",
        "--expired-token",
        str(tmp_path / "expired"),
    )
    ran, written = record(command, file, *options)
    assert ran.status == 0
    assert set(written["refusals"]) >= {"wrong_entra_role", "other_audience", "expired"}
    everything = (ran.out + ran.err + file.read_text("utf-8")).replace(str(file), "")
    for private in names_and_secrets(azure, expired):
        assert private.lower() not in everything.lower()


def test_a_password_is_not_in_a_record(
    azure: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A role that signs in with a password has a record too, without refusals."""
    azure.add_role("treasury", password="correct horse")
    monkeypatch.setenv("PGPASSWORD", "correct horse")
    options = ("--user", "treasury", "--dbname", "postgres")
    ran, written = record(command, tmp_path / "record", *options)
    assert ran.status == 0
    assert (written["authentication"], written["refusals"]) == ("password", {})
    for private in ("treasury", "horse"):
        assert private not in ran.out + ran.err


def test_the_record_of_the_emulator(
    azure: Emulator, command: Command, database: str, tmp_path: Path
) -> None:
    """It has the server's messages, and which facts it confirms and contradicts."""
    assert database
    _, written = record(command, tmp_path / "record", "--probe-refusals")
    assert written["emulator"]
    assert written["tls"]["certificate_names"] == [
        "SERVER-1.postgres.database.azure.com",
        "HEX.database.azure.com",
    ]
    assert written["pgbouncer"]["pool_mode"] == "transaction"
    assert {each["status"] for each in written["steps"]} <= {"ok", "warning"}
    refusals = written["refusals"]
    assert "azpg-record-nobody" in refusals["wrong_role_postgres"]["messages"][0]
    assert "role[ROLE-" in refusals["wrong_entra_role"]["messages"][0]
    assert refusals["other_audience"]["kind"] == "token-audience"
    verdicts = {each["id"]: each["verdict"] for each in written["facts"]}
    assert set(verdicts) == set(FACTS)
    for name in ("certificate-names", "internal-name", "wrong-role", "other-audience"):
        assert verdicts[name] == "confirmed"
    assert verdicts["pinned-root"] == "contradicted"
    assert verdicts["expired"] == "not seen"


def test_a_token_of_another_audience_is_sent_only_on_request(
    azure: Emulator, command: Command, tmp_path: Path
) -> None:
    """Without --probe-refusals no other token is acquired."""
    before = azure.counts
    _, written = record(command, tmp_path / "record")
    assert "other_audience" not in written["refusals"]
    assert (azure.counts - before).tokens_issued == 1


def test_names_in_a_failed_sign_in_are_replaced(
    azure: Emulator, command: Command, tmp_path: Path
) -> None:
    """A message that the server returns keeps its words and loses its names."""
    identifier = "0f6b2a52-9d0e-4d0c-8b7a-5f1f5e6f7a8b"
    message = (
        f'role "myapp" of {identifier} (again {identifier.upper()}) at 10.1.2.3 and fd00::12, '
        "alice@contoso.com on myserver.postgres.database.azure.com via gw.contoso.net"
    )
    with azure.fault(say=("28000", message)):
        ran, written = record(command, tmp_path / "record", "--user", "myapp")
    assert ran.status == 1
    assert written["sign_in_messages"] == [
        (
            'role "ROLE-1" of ID-1 (again ID-1) at ADDRESS-1 and ADDRESS-2, '
            "ROLE-2 on SERVER-1.postgres.database.azure.com via SERVER-2"
        )
    ]
    assert written["server"] == written["pgbouncer"] == written["refusals"] == {}


def test_an_alias_is_consistent() -> None:
    """A name has one alias in all texts, in any case, and only as a whole word."""
    aliases = Aliases(["top-secret"])
    for kind, name in (("ROLE", "app"), ("SERVER", "app.postgres.database.azure.com")):
        aliases.add(kind, name)
    text = "APP, app and application on app.postgres.database.azure.com: top-secret, version 1.25.1"
    replaced = aliases.replace(text)
    assert "application" in replaced
    assert "version 1.25.1" in replaced
    assert not re.search(r"\bapp\b|secret", replaced, re.IGNORECASE)
    assert aliases.replace(text) == replaced


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("--probe-refusals",), "--record"),
        (("--expired-token", "x"), "--record"),
        (("--record", "/nowhere/record.json"), "/nowhere"),
        (("--record", "record.json", "--expired-token", "/nowhere/token"), "/nowhere"),
    ],
)
def test_wrong_options_are_named(
    azure: Emulator,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    args: tuple[str, ...],
    named: str,
) -> None:
    """A wrong combination or file is an error before anything is sent."""
    monkeypatch.chdir(tmp_path)
    before = azure.counts
    ran = command("doctor", "--server", "myserver", *args)
    assert ran.status == 2
    assert named in ran.err
    assert (azure.counts - before).connections == 0


def test_the_support_page_lists_the_facts() -> None:
    """The page has each fact that a record is about."""
    listed = re.findall(r"^\| `([a-z0-9-]+)` \|", SUPPORT_PAGE.read_text("utf-8"), re.MULTILINE)
    assert listed == list(FACTS)
