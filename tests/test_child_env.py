"""The environment of one command: what psql, pg_dump and pgbench are told, and what they do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import azpg
from azpg import _child_env
from azpg._libpq import libpq_info

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fix_command import Command
    from fix_conninfo import Reading
    from fix_leaks import Leaks, Tokens
    from fix_sources import Sources

    from azpg.emulator import Emulator

pytestmark = pytest.mark.once

HOST = "myserver.postgres.database.azure.com"


def variables(environ: dict[str, str]) -> dict[str, str]:
    """Return its PG* variables."""
    return {name: value for name, value in environ.items() if name.startswith("PG")}


def test_all_is_set_and_nothing_else_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one's own PG* variables only those stay that say neither where to, nor who, nor how."""
    for name in ("PGDATA", "PGLOCALEDIR", "PGREQUIRESSL", "PGSYSCONFDIR", "PGNEWER", "PGTZ"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("PGSSLMODE", "require")
    made = _child_env.environment(server="myserver", user="app", password="geheim")
    assert made["PATH"] == os.environ["PATH"]
    found = variables(made)
    assert found.pop("PGSSLROOTCERT").endswith(".pem")
    assert found == {
        "PGCONNECT_TIMEOUT": "15",
        "PGGSSENCMODE": "disable",
        "PGHOST": HOST,
        "PGPASSWORD": "geheim",
        "PGPORT": "5432",
        "PGSSLCERTMODE": "disable",
        "PGSSLMINPROTOCOLVERSION": "TLSv1.2",
        "PGSSLMODE": "verify-full",
        "PGTZ": "1",
        "PGUSER": "app",
    }


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"hostaddr": "192.0.2.1"}, {"PGHOSTADDR": "192.0.2.1", "PGHOST": HOST}),
        ({"host": "localhost", "port": 1}, {"PGHOST": f"{HOST}", "PGPORT": "1"}),
        ({"pgbouncer": True}, {"PGPORT": "6432"}),
        ({"sslrootcert": "/a/root.pem"}, {"PGSSLROOTCERT": "/a/root.pem"}),
        ({"channel_binding": "disable"}, {"PGCHANNELBINDING": "disable"}),
        ({"ssl_min_protocol_version": "TLSv1.3"}, {"PGSSLMINPROTOCOLVERSION": "TLSv1.3"}),
        ({"application_name": "nightly"}, {"PGAPPNAME": "nightly"}),
        ({"connect_timeout": 3}, {"PGCONNECT_TIMEOUT": "3"}),
        ({"target_session_attrs": "read-write"}, {"PGTARGETSESSIONATTRS": "read-write"}),
        ({"options": "-c search_path=a"}, {"PGOPTIONS": "-c search_path=a"}),
        ({"client_encoding": "utf8"}, {"PGCLIENTENCODING": "utf8"}),
        ({"dbname": "mydb"}, {"PGDATABASE": "mydb"}),
    ],
    ids=lambda value: next(iter(value)),
)
def test_what_is_said_has_its_variable(said: dict[str, Any], expected: dict[str, str]) -> None:
    """A keyword of connect() reaches the command as the variable that means the same."""
    made = _child_env.environment(server="myserver", user="app", password="geheim", **said)
    assert expected.items() <= made.items()
    if "host" in said:  # a tunnel's name is looked up, and the server's stays to be verified
        assert set(made["PGHOSTADDR"].split(",")) <= {"127.0.0.1", "::1"}


@settings(max_examples=80)
@given(data=st.data())
def test_libpq_reads_what_connect_hands_to_it(
    sources: st.SearchStrategy[Sources], reading: Reading, data: st.DataObject
) -> None:
    """Whatever is said, and wherever, the command's own libpq reads what azpg has judged."""
    said = data.draw(sources)
    with said.exported(), pytest.MonkeyPatch.context() as patch:
        try:
            handed = conninfo_to_dict(azpg.conninfo(said.conninfo, password="geheim"))
            made = _child_env.environment(said.conninfo, password="geheim")
        except azpg.ConfigError:
            return
        for name in variables(dict(os.environ)):
            patch.delenv(name)
        handed.pop("service", None)
        expected = reading(make_conninfo("", password="geheim", **handed).encode())
        for name, value in variables(made).items():
            patch.setenv(name, value)
        read = reading(b"")
    known = {keyword for keyword, variable in libpq_info().variables.items() if variable}
    assert {k: v for k, v in read.items() if k in known} == {
        k: v for k, v in expected.items() if k in known
    }
    assert read["password"] == "geheim"


@pytest.mark.parametrize("dbname", ["host=evil.example", "postgresql://evil.example/x"])
def test_a_dbname_that_leads_elsewhere_is_refused(dbname: str, leaks: Leaks) -> None:
    """It is refused: pgbench and vacuumdb would expand it and go to the host that it names."""
    with pytest.raises(azpg.ConfigError, match="dbname looks like a conninfo") as caught:
        _child_env.environment(server="myserver", dbname=dbname, user="u", password="geheim")
    leaks.none_held(caught.value, "geheim")


def test_a_failure_holds_no_secret(azure: Emulator, tokens: Tokens, leaks: Leaks) -> None:
    """A name that leads nowhere is an azpg error without the token that was ready."""
    with pytest.raises(azpg.UnreachableError) as caught:
        _child_env.environment(server="myserver", host="no.invalid", credential=tokens.credential)
    leaks.none_held(caught.value, tokens.given[0], tokens)


@pytest.fixture(scope="session")
def where_psql_goes(tools: Path) -> Callable[[list[str]], str]:
    """Return the words of the real psql that has no server to go to."""

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
    ["mydb", "app"],
    ["-d", "mydb"],
    ["-U", "team"],
    ["-c", "select a=b"],
    ["--command", "select '-h' where a=b"],
    ["--command=select a=b"],
    ["-v", "host=elsewhere.invalid"],
    ["--set", "port=1"],
    ["-Atc", "select a=b"],
    ["-Pnull=-"],
    ["-P", "null=-"],
    ["--pset=null=-"],
    ["-f", "host=a.sql"],
    ["-l"],
    ["-", "--no-psqlrc"],
]


@pytest.mark.parametrize("arguments", ELSEWHERE, ids=" ".join)
def test_psql_is_not_led_elsewhere(where_psql_goes: Where, arguments: list[str]) -> None:
    """What leads the real psql to another host is refused."""
    assert "elsewhere.invalid" in where_psql_goes(arguments)
    with pytest.raises(azpg.ConfigError, match="to azpg"):
        _child_env.check_psql(arguments)


@pytest.mark.parametrize("arguments", [["-p", "1"], ["-p1"], ["--port=1"], ["--po", "1"]], ids=str)
def test_psql_is_not_led_to_another_port(where_psql_goes: Where, arguments: list[str]) -> None:
    """What leads the real psql to another port is refused."""
    assert ".s.PGSQL.1" in where_psql_goes(arguments)
    with pytest.raises(azpg.ConfigError, match="to azpg"):
        _child_env.check_psql(arguments)


@pytest.mark.parametrize("arguments", HERE, ids=str)
def test_psqls_own_arguments_pass(where_psql_goes: Where, arguments: list[str]) -> None:
    """What leaves the real psql at its host passes, equals signs and all."""
    assert "/nowhere/.s.PGSQL.5432" in where_psql_goes(arguments)
    _child_env.check_psql(arguments)


def test_debians_wrapper_is_not_led_to_a_cluster() -> None:
    """--cluster is refused: Debian's psql takes it for another server."""
    for arguments in (["--cluster", "15/main"], ["--cluster=15/evil.example:5432"]):
        with pytest.raises(azpg.ConfigError, match="to azpg"):
            _child_env.check_psql(arguments)


def test_psql(azure15: Emulator, command: Command) -> None:
    """The real psql is signed in over verified TLS, on the server's own terms."""
    azure15.add_role("people of psql", kind="group", members=[azure15.principal])
    before = azure15.counts.sign_ins
    ran = command(
        "psql", "--server", "myserver", "-XAtc", "select current_user", "-c", r"\conninfo"
    )
    assert ran.status == 0, ran.err
    assert ran.out.startswith('myapp\nYou are connected to database "postgres" as user "myapp"')
    assert "SSL connection (protocol: TLS" in ran.out
    as_group = command(
        "psql", "--server=myserver", "--user", "people of psql", "-XAtc", "select current_user"
    )
    assert as_group.out == "people of psql\n"
    assert azure15.counts.sign_ins == before + 2


def test_psql_takes_a_conninfo_that_azpg_judges(azure15: Emulator, command: Command) -> None:
    """A conninfo comes first and is azpg's to judge; behind psql's own arguments it is refused."""
    asked = f"host={azure15.host} dbname=template1 sslmode=require"
    ran = command("psql", asked, "--", "-XAtc", "select current_database()")
    assert ran.out == "template1\n"
    evil = command("psql", "host=evil.example", "-c", "select 1")
    assert (evil.status, evil.out) == (2, "")
    assert "a token never goes to 'evil.example'" in evil.err
    assert command("psql", "-X", "host=evil.example").status == 2


def test_pg_dump(azure15: Emulator, command: Command) -> None:
    """The real pg_dump signs in, and finds the database that its own arguments name."""
    with azpg.connect(server="myserver", autocommit=True) as conn:
        conn.execute("create table if not exists kept (a int)")
    ran = command("exec", "--server", "myserver", "--", "pg_dump", "-t", "kept", "postgres")
    assert "CREATE TABLE public.kept" in ran.out, ran.err


@pytest.mark.parametrize("option", ["--no-pgbouncer", "--pgbouncer"])
def test_pgbench(azure15: Emulator, command: Command, tmp_path: Path, option: str) -> None:
    """The real pgbench signs in again and again, through PgBouncer too."""
    script = tmp_path / "script.sql"
    script.write_text("select 1;")
    before = azure15.counts.sign_ins
    asked = ("exec", "--server", "myserver", option, "--", "pgbench", "-n", "-C", "-t", "3", "-f")
    ran = command(*asked, str(script))
    assert "number of transactions actually processed: 3/3" in ran.out, ran.err
    assert azure15.counts.sign_ins >= before + 3


def test_verified_tls_is_what_the_command_asks_for(azure15: Emulator, command: Command) -> None:
    """A server with a wrong certificate gets no token from the real psql either."""
    before = azure15.counts.refused_sign_ins + azure15.counts.sign_ins
    with azure15.fault(certificate="other-name"):
        ran = command("psql", "--server", "myserver", "-c", "select 1")
    assert ran.status == 2
    assert "does not match host name" in ran.err
    assert azure15.counts.refused_sign_ins + azure15.counts.sign_ins == before


def test_the_command_takes_this_ones_place() -> None:
    """Signals and exit status are the command's own: it runs in the very process."""
    said = ("exec", "--server", "myserver", "--user", "app", "--")
    program = [sys.executable, "-m", "azpg", *said, "sh", "-c", "echo $$; kill -TERM $$"]
    with subprocess.Popen(
        program, env=os.environ | {"PGPASSWORD": "geheim"}, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) == process.pid
        assert process.wait(60) == -signal.SIGTERM


@pytest.mark.parametrize(
    ("program", "status"),
    [
        (["sh", "-c", "exit 7"], 7),
        # Python ignores SIGPIPE, and what is ignored stays so in a command
        (["sh", "-c", "kill -PIPE $$"], -signal.SIGPIPE),
        (["no-such-command"], 127),
        (["/etc/passwd"], 126),
    ],
    ids=lambda value: str(value[-1]) if isinstance(value, list) else "",
)
def test_exit_status(command: Command, program: list[str], status: int) -> None:
    """The exit status is the command's, and a shell's where it cannot be run."""
    ran = command("exec", "--server=myserver", "--user=app", "--", *program, PGPASSWORD="geheim")
    assert ran.status == status
    assert bool(ran.err) == (status in (126, 127))


def test_the_secret_is_in_no_argument_and_no_file(
    azure15: Emulator, command: Command, tmp_path: Path
) -> None:
    """The token is in the environment alone: not on the command line, not in the home folder."""
    shown = "tr '\\0' '\\n' </proc/$$/cmdline; printf %s $PGPASSWORD"
    ran = command("exec", "--server", "myserver", "--", "sh", "-c", shown)
    token = ran.out.splitlines()[-1]
    assert token.startswith("eyJ")
    assert len(token) > 1000
    assert token not in ran.out.removesuffix(token) + ran.err
    written = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert not [path for path in written if token.encode() in path.read_bytes()]
