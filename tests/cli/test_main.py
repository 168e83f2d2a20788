"""The command `azpg`: its help, invalid arguments, and the output of the subcommands."""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

import azpg
from azpg._cli.main import COMMANDS, main
from azpg._clouds import AZURE_ROOTS

if TYPE_CHECKING:
    from fix_command import Command, Terminal
    from fix_roots import Fingerprints

    from azpg.emulator import Emulator

DOCS = Path(__file__).parent.parent.parent / "docs"
HOST = "myserver.postgres.database.azure.com"
TOKEN = re.compile(r"eyJ[\w-]{20,}")


def help_of(*argv: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the output of --help."""
    with pytest.raises(SystemExit) as ended:
        main([*argv, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.compat
def test_help_fits_a_screen(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`azpg --help` is at most 24 lines of 80 columns, and names every subcommand."""
    monkeypatch.setenv("COLUMNS", "80")
    output = help_of(capsys=capsys)
    assert len(output.splitlines()) <= 24
    assert max(map(len, output.splitlines())) <= 80
    assert all(re.search(rf"^    {name} ", output, re.MULTILINE) for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_subcommand_has_an_example(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its help has one, within 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    output = help_of(name, capsys=capsys)
    assert re.search(rf"azpg {name}(?! \[)", output.partition("xample")[2])
    assert max(map(len, output.splitlines())) <= 80


@pytest.mark.compat
def test_without_arguments_it_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    """`azpg` alone is `azpg --help`, with exit status 0."""
    assert main([]) == 0
    assert capsys.readouterr().out == help_of(capsys=capsys)


@pytest.mark.compat
@pytest.mark.parametrize("columns", [40, 80, 120])
@pytest.mark.parametrize("argv", [[], *([name] for name in COMMANDS)], ids=str)
def test_help_wraps_at_words(
    argv: list[str],
    columns: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No line is longer than the terminal, unless it is one word or one option of the usage."""
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = help_of(*argv, capsys=capsys).splitlines()
    long = [line.strip().removesuffix(" \\") for line in lines if len(line) > columns]
    assert [line for line in long if " " in line and not re.fullmatch(r"\[--\S+ \S+\]", line)] == []


def test_help_imports_nothing_slow() -> None:
    """It imports neither azure.identity nor cryptography, certifi, the doctor or the emulator."""
    code = (
        "import sys\nfrom azpg._cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    slow = ("azure", "cryptography", "certifi", "azpg.emulator", "azpg._doctor")
    assert not [name for name in done.stderr.split() if name.startswith(slow)]


@pytest.mark.compat
def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--version prints the package's version."""
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"azpg {azpg.__version__}\n"


@pytest.mark.compat
@pytest.mark.parametrize(
    ("argv", "pattern"),
    [
        (["docter"], "invalid choice"),
        (["doctor", "myserver"], "--server myserver"),
        (["conninfo", "--sever", "x"], "unrecognized arguments"),
        (["conninfo", "--serv", "x"], "unrecognized arguments"),
        (
            ["exec", "--server", "myserver", "pg_dump"],
            "unrecognized arguments|no conninfo|no command",
        ),
        (["exec", "--server", "myserver"], "no command is given"),
        (["exec", "--server", "myserver", "--"], "no command is given"),
        (["psql", "--server"], "expected one argument"),
        (["demo", "--fast"], "unrecognized arguments"),
    ],
    ids=" ".join,
)
def test_a_usage_error(argv: list[str], pattern: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit status is 2, and the last line says what to type."""
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    assert re.search(pattern, capsys.readouterr().err)


@pytest.mark.compat
@pytest.mark.parametrize(
    ("argv", "problems"),
    [
        (["conninfo"], ["azpg: no host is given: write --server myserver"]),
        (["conninfo", "--host", "localhost"], ["--server myserver", "--host localhost"]),
        (
            ["conninfo", "--server=a b", "--cloud=mars"],
            ["azpg: server contains white space", "azpg: --cloud mars is not a cloud"],
        ),
        (
            ["exec", "--host", "evil.example", "--", "true"],
            ["a token never goes to 'evil.example'"],
        ),
        (["psql", "--server", "myserver", "-h", "evil.example"], ["-h leads psql"]),
        (["token"], ["--server myserver", "--cloud"]),
        (["token", "--cloud", "mars"], ["cloud", "mars"]),
        (["token", "--host", "evil.example"], ["a token never goes to 'evil.example'"]),
        (["token", f"host={HOST} password=secret"], ["leave out password"]),
    ],
    ids=" ".join,
)
def test_invalid_options(
    argv: list[str], problems: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit status is 2, and each problem names the options of the command."""
    assert main(argv) == 2
    printed = capsys.readouterr().err
    assert all(each in printed for each in problems), printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("argv", [["psql"], ["exec", "--", "pg_dump"]], ids=" ".join)
def test_a_program_that_is_not_installed(command: Command, argv: list[str]) -> None:
    """The status is a shell's, and the message says what to install."""
    name, *rest = argv
    connection = ["--server", "myserver", "--user", "app"]
    ran = command(name, *connection, *rest, PATH="/nonexistent", PGPASSWORD="secret")
    assert ran.status == 127
    assert "apt-get install postgresql-client" in ran.err


def test_exec_without_a_token(azure: Emulator, capsys: pytest.CaptureFixture[str]) -> None:
    """The command does not run; the exit status is 1, and the hint is printed."""
    with azure.fault(identity=400):
        assert main(["exec", "--server", "myserver", "--", "echo", "never"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("azpg: no token from DefaultAzureCredential")
    assert "--client-id" in printed.err


def test_conninfo(capsys: pytest.CaptureFixture[str]) -> None:
    """It prints what azpg.conninfo returns, without the password."""
    assert (
        main(["conninfo", f"host={HOST} password=hunter2", "--dbname", "mydb", "--pgbouncer"]) == 0
    )
    printed = capsys.readouterr().out
    expected = azpg.conninfo(f"host={HOST} password=hunter2", dbname="mydb", pgbouncer=True)
    assert printed == expected + "\n"
    assert "hunter2" not in printed


def test_roots(capsys: pytest.CaptureFixture[str]) -> None:
    """The list has each pinned root with its fingerprint, its expiry and its source."""
    assert main(["roots"]) == 0
    printed = capsys.readouterr().out
    assert set(re.findall(r"SHA-256  ([0-9a-f]{64})\n", printed)) == AZURE_ROOTS
    assert re.search(
        r"^DigiCert Global Root G2\n.*\n  expires  2038-01-15, in \d+ days\n", printed, re.MULTILINE
    )
    assert set(re.findall(r"from     (\w+)", printed)) == {"azpg", "certifi"}


def test_roots_as_pem(capsys: pytest.CaptureFixture[str], fingerprints: Fingerprints) -> None:
    """The file has exactly the pinned roots, and OpenSSL can read it."""
    assert main(["roots", "--pem"]) == 0
    printed = capsys.readouterr().out
    assert set(fingerprints(printed.encode())) == AZURE_ROOTS
    ssl.create_default_context(cadata=printed)


@pytest.mark.parametrize("options", [["--server", "myserver"], ["--cloud", "public"], []], ids=str)
def test_token(
    azure: Emulator,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
) -> None:
    """It prints a token and nothing else, also if PGPASSWORD has an earlier one."""
    monkeypatch.setenv("PGPASSWORD", "eyJ.of.yesterday")
    assert main(["token", *options]) == 0
    printed = capsys.readouterr()
    assert TOKEN.match(printed.out)
    assert printed.out.count("\n") == 1
    assert printed.err == ""


def test_the_printed_token_is_a_password(azure: Emulator, command: Command, tools: Path) -> None:
    """It authenticates as the role of its identity."""
    token = command("token", "--server", "myserver").out.strip()
    environ = os.environ | {"PGUSER": "myapp", "PGDATABASE": "postgres", "PGPASSWORD": token}
    ran = subprocess.run(
        [tools / "psql", "-XwAtc", "select 1"],
        env=environ | {"PGSSLMODE": "verify-full"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout == "1\n", ran.stderr


def test_the_demo(terminal: Terminal) -> None:
    """Every step succeeds, nothing is blamed, and lines are wrapped at words in any terminal."""
    ran = terminal(40, "demo")
    assert ran.status == 0, ran.out
    assert ran.out.count("✓") == (6 if "pgbouncer=True" in ran.out else 5)
    assert "unset" not in ran.out
    steps, _, program = ran.out.partition("    import azpg")
    long_lines = [line for line in steps.splitlines() if len(line) > 40]
    assert all(" " not in line.strip() for line in long_lines), long_lines
    assert "azpg doctor" in program


def test_the_command_for_pgadmin(azure: Emulator, tools: Path) -> None:
    """The documented command prints a password that works, and none for a host outside Azure."""
    page = (DOCS / "how-to" / "token.md").read_text()
    (pgadmins,) = re.findall(r"`/path/to/(azpg .*%HOSTNAME%.*?)`", page)
    printed = {}
    for host in (HOST, "db.corp.example"):
        # What pgAdmin does: it replaces the placeholder, and runs the command in a shell
        shell = pgadmins.replace("%HOSTNAME%", host).replace("azpg", f"{sys.executable} -m azpg", 1)
        ran = subprocess.run(shell, shell=True, capture_output=True, text=True, check=False)
        printed[host] = ran.stdout.strip()
    environ = {"PGUSER": "myapp", "PGDATABASE": "postgres", "PGPASSWORD": printed[HOST]}
    psql = [str(tools / "psql"), "-XwAtc", "select 1"]
    environ = os.environ | environ | {"PGSSLMODE": "verify-full"}
    assert subprocess.check_output(psql, env=environ, text=True) == "1\n"
    assert printed["db.corp.example"] == ""


def test_token_without_a_token(azure: Emulator, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit status is 1, the hint is on stderr, and nothing is on stdout."""
    with azure.fault(identity=400):
        assert main(["token", "--server", "myserver"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "--client-id" in printed.err


@pytest.mark.parametrize("argv", [["token"], ["exec", "--", "true"], ["psql"]], ids=" ".join)
def test_azure_identitys_message_is_printed_once(
    azure: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch, argv: list[str]
) -> None:
    """After one line, and what to type."""
    for name in ("IDENTITY_ENDPOINT", "IDENTITY_HEADER"):
        monkeypatch.delenv(name)
    name, *rest = argv
    ran = command(name, "--server", "myserver", *rest, AZURE_TOKEN_CREDENTIALS="dev")
    lines = ran.err.splitlines()
    assert ran.status == 1
    assert lines[0] == "azpg: no token from DefaultAzureCredential"
    assert lines[1].startswith("HINT: run `az login`")
    assert ran.err.count("AzureCliCredential: ") == 1


def test_a_token_in_a_terminal_has_a_warning(azure: Emulator, terminal: Terminal) -> None:
    """The token is a password, and visible there."""
    ran = terminal(80, "token", "--cloud", "public")
    assert ran.status == 0
    assert "is a password" in ran.out.partition("eyJ")[0]


def test_a_closed_pipe_is_no_error() -> None:
    """No traceback is printed if the reader has gone."""
    program = f"{sys.executable} -m azpg roots --pem | true"
    done = subprocess.run(["sh", "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr == ""


@pytest.mark.parametrize(
    "argv",
    [
        ["doctor", "--json"],
        ["doctor", "--pgbouncer", "--user", "nobody"],
        ["exec", "--", "no-such-command"],
    ],
    ids=" ".join,
)
def test_other_subcommands_print_no_token(
    azure: Emulator, command: Command, argv: list[str]
) -> None:
    """Not even with every logger at DEBUG."""
    name, *options = argv
    ran = command(name, "--server", "myserver", *options, debug=True)
    assert "DEBUG:" in ran.err
    assert not TOKEN.search(ran.out + ran.err)


@pytest.mark.parametrize("page", ["reference/command", "reference/doctor", "how-to/token"])
def test_documented_commands_run(
    azure15: Emulator, command: Command, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each example of the documentation ends with exit status 0."""
    with azpg.connect(server="myserver", autocommit=True) as conn:
        for _ in range(
            5
        ):  # each waits 5 s for the sessions it has ended; a loaded machine takes longer
            with suppress(psycopg.errors.ObjectInUse):
                conn.execute("drop database if exists mydb with (force)")
                break
        conn.execute("create database mydb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    Path("report.sh").write_text("#!/bin/sh\ntest ${#PGPASSWORD} -gt 500\n")
    Path("report.sh").chmod(0o755)
    blocks = re.findall(r"```sh\n(.*?)```", (DOCS / f"{page}.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (block, done.stderr)
