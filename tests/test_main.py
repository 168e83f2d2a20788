"""The command `azpg`: its help, what it refuses, and what its small subcommands print."""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import azpg
from azpg._cli.main import COMMANDS, main
from azpg._clouds import AZURE_ROOTS

if TYPE_CHECKING:
    from fix_command import Command, Terminal
    from fix_roots import Fingerprints

    from azpg.emulator import Emulator

pytestmark = pytest.mark.once

REFERENCE = Path(__file__).parent.parent / "docs" / "reference"
HOST = "myserver.postgres.database.azure.com"
TOKEN = re.compile(r"eyJ[\w-]{20,}")


def helped(*words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what --help prints."""
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_help_fits_a_screen(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`azpg --help` is at most 24 lines of 80 columns, and names every subcommand."""
    monkeypatch.setenv("COLUMNS", "80")
    said = helped(capsys=capsys)
    assert len(said.splitlines()) <= 24
    assert max(map(len, said.splitlines())) <= 80
    assert all(re.search(rf"^    {name} ", said, re.MULTILINE) for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_subcommand_has_an_example(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The help of each has an example of itself, within 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    said = helped(name, capsys=capsys)
    assert re.search(rf"azpg {name}(?! \[)", said.partition("xample")[2])
    assert max(map(len, said.splitlines())) <= 80


def test_help_is_quick() -> None:
    """`azpg --help` imports neither azure.identity nor cryptography, certifi or the emulator."""
    code = (
        "import sys\nfrom azpg._cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    slow = ("azure", "cryptography", "certifi", "azpg.emulator", "azpg._doctor")
    assert not [name for name in done.stderr.split() if name.startswith(slow)]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--version tells the package's own."""
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"azpg {azpg.__version__}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "required"),
        (["docter"], "invalid choice"),
        (["doctor", "myserver"], "a server's name is --server myserver"),
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
def test_what_cannot_be_read(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command that cannot be read ends with status 2 and a line that says what to type."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert re.search(said, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["conninfo"], ["azpg: no host is given: write --server myserver"]),
        (["conninfo", "--host", "localhost"], ["--server myserver", "--host localhost"]),
        (
            ["conninfo", "--server=a b", "--cloud=mars"],
            ["azpg: server holds white space", "azpg: --cloud mars is"],
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
def test_what_cannot_be_meant(
    words: list[str], said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A call that cannot be meant ends with status 2 and each problem as it is typed here."""
    assert main(words) == 2
    printed = capsys.readouterr().err
    assert all(each in printed for each in said), printed
    assert "Traceback" not in printed


def test_no_token_to_be_had(azure: Emulator, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a token a command is not run; the status is 1, and the hint is told."""
    with azure.fault(identity=400):
        assert main(["exec", "--server", "myserver", "--", "echo", "never"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("azpg: no token from DefaultAzureCredential")
    assert "--client-id" in printed.err


def test_conninfo(capsys: pytest.CaptureFixture[str]) -> None:
    """`azpg conninfo` prints what azpg.conninfo returns, the password left out."""
    assert (
        main(["conninfo", f"host={HOST} password=geheim", "--dbname", "mydb", "--pgbouncer"]) == 0
    )
    printed = capsys.readouterr().out
    expected = azpg.conninfo(f"host={HOST} password=geheim", dbname="mydb", pgbouncer=True)
    assert printed == expected + "\n"
    assert "geheim" not in printed


def test_roots(capsys: pytest.CaptureFixture[str]) -> None:
    """`azpg roots` lists every pinned root with its fingerprint, its end and its source."""
    assert main(["roots"]) == 0
    printed = capsys.readouterr().out
    assert set(re.findall(r"SHA-256  ([0-9a-f]{64})\n", printed)) == AZURE_ROOTS
    assert re.search(
        r"^DigiCert Global Root G2\n.*\n  ends     2038-01-15, in \d+ days\n", printed, re.MULTILINE
    )
    assert set(re.findall(r"from     (\w+)", printed)) == {"azpg", "certifi"}


def test_roots_as_pem(capsys: pytest.CaptureFixture[str], fingerprints: Fingerprints) -> None:
    """`azpg roots --pem` writes exactly the pinned roots, for any other tool."""
    assert main(["roots", "--pem"]) == 0
    printed = capsys.readouterr().out
    assert set(fingerprints(printed.encode())) == AZURE_ROOTS
    ssl.create_default_context(cadata=printed)


@pytest.mark.parametrize("words", [["--server", "myserver"], ["--cloud", "public"], []], ids=str)
def test_token(
    azure: Emulator,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
) -> None:
    """`azpg token` prints a fresh token and nothing else, whatever an earlier run has left."""
    monkeypatch.setenv("PGPASSWORD", "eyJ.of.yesterday")
    assert main(["token", *words]) == 0
    printed = capsys.readouterr()
    assert TOKEN.match(printed.out)
    assert printed.out.count("\n") == 1
    assert printed.err == ""


def test_a_token_signs_in(azure: Emulator, command: Command, tools: Path) -> None:
    """What `azpg token` prints is the password of its identity's role."""
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


def test_no_token(azure: Emulator, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a token the status is 1, the hint is on stderr, and nothing is on stdout."""
    with azure.fault(identity=400):
        assert main(["token", "--server", "myserver"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "--client-id" in printed.err


def test_a_token_on_a_terminal(azure: Emulator, terminal: Terminal) -> None:
    """Whoever may look on sees a password, so there is a warning."""
    ran = terminal(80, "token", "--cloud", "public")
    assert ran.status == 0
    assert "is a password" in ran.out.partition("eyJ")[0]


def test_a_reader_that_has_gone() -> None:
    """A pipe that is closed early gets no traceback."""
    program = f"{sys.executable} -m azpg roots --pem | true"
    done = subprocess.run(["sh", "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr == ""


@pytest.mark.parametrize(
    "words",
    [
        ["doctor", "--json"],
        ["doctor", "--pgbouncer", "--user", "nobody"],
        ["exec", "--", "no-such-command"],
    ],
    ids=" ".join,
)
def test_a_token_is_never_printed(azure: Emulator, command: Command, words: list[str]) -> None:
    """No subcommand prints a token, not with every logger at DEBUG."""
    name, rest = words[0], words[1:]
    ran = command(name, "--server", "myserver", *rest, debug=True)
    assert "DEBUG:" in ran.err
    assert not TOKEN.search(ran.out + ran.err)


@pytest.mark.parametrize("page", ["command", "doctor"])
def test_documented_commands_run(
    azure15: Emulator, command: Command, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command of the documentation does what it is shown for."""
    with azpg.connect(server="myserver", autocommit=True) as conn:
        conn.execute("drop database if exists mydb")
        conn.execute("create database mydb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    blocks = re.findall(r"```sh\n(.*?)```", (REFERENCE / f"{page}.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (block, done.stderr)
