"""The environment of one command: its variables, how the command runs, and its cleanup."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import azpg
from azpg import _child_env, _libpq, _passfile
from azpg._libpq import libpq_info

if TYPE_CHECKING:
    from fix_command import Command
    from fix_conninfo import Reading
    from fix_leaks import Leaks, Tokens
    from fix_sources import Sources

    from azpg.emulator import Emulator

HOST = "myserver.postgres.database.azure.com"


def variables(environ: dict[str, str]) -> dict[str, str]:
    """Return the PG* variables of an environment."""
    return {name: value for name, value in environ.items() if name.startswith("PG")}


def test_the_pg_variables_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only those PG* variables of the user remain that do not affect the connection."""
    for name in ("PGDATA", "PGLOCALEDIR", "PGREQUIRESSL", "PGSYSCONFDIR", "PGNEWER", "PGTZ"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("PGSSLMODE", "require")
    made = _child_env.child_environment(server="myserver", user="app", password="secret")
    assert made.variables["PATH"] == os.environ["PATH"]
    found = variables(made.variables)
    assert found.pop("PGSSLROOTCERT").endswith(".pem")
    assert found == {
        "PGCONNECT_TIMEOUT": "15",
        "PGGSSENCMODE": "disable",
        "PGHOST": HOST,
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
        ({"host": "127.0.0.1", "port": 1}, {"PGHOST": HOST, "PGPORT": "1"}),
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
def test_each_keyword_has_its_variable(said: dict[str, Any], expected: dict[str, str]) -> None:
    """A keyword of connect() reaches the command as the variable with the same meaning."""
    made = _child_env.child_environment(server="myserver", user="app", password="secret", **said)
    assert expected.items() <= made.variables.items()
    if "host" in said:  # host= is resolved, and the server's name is still verified
        assert set(made.variables["PGHOSTADDR"].split(",")) <= {"127.0.0.1", "::1"}


@settings(max_examples=80)
@given(data=st.data())
def test_libpq_reads_the_parameters_of_connect(
    sources: st.SearchStrategy[Sources], reading: Reading, data: st.DataObject
) -> None:
    """Whatever the sources are, the command's libpq reads the parameters that azpg resolves."""
    said = data.draw(sources)
    with said.exported(), pytest.MonkeyPatch.context() as patch:
        try:
            handed = conninfo_to_dict(azpg.conninfo(said.conninfo, password="secret"))
            made = _child_env.child_environment(said.conninfo, password="secret")
            with made.exported() as exported:
                passwords = _passfile.parse_passfile(Path(exported["PGPASSFILE"]).read_bytes())
        except azpg.ConfigError:
            return
        for name in variables(dict(os.environ)):
            patch.delenv(name)
        handed.pop("service", None)
        expected = reading(make_conninfo("", password="secret", **handed).encode())
        for name, value in variables(made.variables).items():
            patch.setenv(name, value)
        read = reading(b"")
    known = {keyword for keyword, variable in libpq_info().variables.items() if variable}
    known -= {"password", "passfile"}
    expected["user"] = (
        expected["user"] or read["user"]
    )  # libpq uses its default instead of an empty user
    assert {k: v for k, v in read.items() if k in known} == {
        k: v for k, v in expected.items() if k in known
    }
    assert "password" not in read
    assert passwords == dict.fromkeys(_passfile.password_keys(read), "secret")


@pytest.mark.parametrize("dbname", ["host=evil.example", "postgresql://evil.example/x"])
def test_a_dbname_that_is_a_conninfo_is_rejected(dbname: str, leaks: Leaks) -> None:
    """Programs such as pgbench would expand it and connect to the host that it names."""
    with pytest.raises(azpg.ConfigError, match="dbname looks like a conninfo") as caught:
        _child_env.child_environment(server="myserver", dbname=dbname, user="u", password="secret")
    leaks.none_held(caught.value, "secret")


OTHER_ROOTS = """
import subprocess, azpg
from azpg import _child_env
from azpg._cli.exec import exec_command

cloud = azpg.AZURE_PUBLIC.replace(roots=frozenset(sorted(azpg.AZURE_PUBLIC.roots)[:2]))
child = _child_env.child_environment(server="myserver", user="app", password="secret", cloud=cloud)
command = ["sh", "-c", 'cat "$PGSSLROOTCERT"; true']
"""
IN_PLACE = "exec_command(command, child)"
AWAITED = """
with child.exported() as environ:
    subprocess.run(command, env=environ, check=True)
"""


@pytest.mark.parametrize("run", [IN_PLACE, AWAITED], ids=["in place", "awaited"])
def test_a_command_finds_the_roots_of_another_cloud(run: str) -> None:
    """Root certificates in memory have a path that the command and its children can open."""
    program = [sys.executable, "-c", OTHER_ROOTS + run]
    done = subprocess.run(program, check=True, capture_output=True, text=True)
    assert done.stdout.count("BEGIN CERTIFICATE") == 2, done.stderr


def test_on_windows_a_command_gets_short_paths(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On Windows libpq opens only ASCII paths: the command gets the 8.3 path."""
    folder = tmp_path / "José"
    folder.mkdir()
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setattr(_libpq, "os", SimpleNamespace(**vars(os) | {"name": "nt"}))
    monkeypatch.setattr(_libpq, "_short_name", lambda path: path.replace("José", "JOS~1"))
    root = str(folder / "root.pem")
    made = _child_env.child_environment(
        server="myserver", user="app", password="secret", sslrootcert=root
    )
    with made.exported() as environ:
        named = environ["PGSSLROOTCERT"], environ["PGPASSFILE"], environ["AZPG_PASSFILE"]
    assert [("JOS~1" in each, each.isascii()) for each in named] == [(True, True)] * 3


def test_a_failure_shows_no_secret(azure: Emulator, tokens: Tokens, leaks: Leaks) -> None:
    """If a host name is unknown, the error does not contain the token."""
    with pytest.raises(azpg.UnreachableError) as caught:
        _child_env.child_environment(
            server="myserver", host="no.invalid", credential=tokens.credential
        )
    leaks.none_held(caught.value, tokens.given[0], tokens)


def test_pg_dump(azure15: Emulator, command: Command) -> None:
    """pg_dump authenticates, and dumps the database that its own arguments name."""
    with azpg.connect(server="myserver", autocommit=True) as conn:
        conn.execute("create table if not exists kept (a int)")
    ran = command("exec", "--server", "myserver", "--", "pg_dump", "-t", "kept", "postgres")
    assert "CREATE TABLE public.kept" in ran.out, ran.err


@pytest.mark.parametrize("option", ["--no-pgbouncer", "--pgbouncer"])
def test_pgbench(azure15: Emulator, command: Command, tmp_path: Path, option: str) -> None:
    """The real pgbench authenticates repeatedly, through PgBouncer too."""
    script = tmp_path / "script.sql"
    script.write_text("select 1;")
    before = azure15.counts.sign_ins
    asked = ("exec", "--server", "myserver", option, "--", "pgbench", "-n", "-C", "-t", "3", "-f")
    ran = command(*asked, str(script))
    assert "number of transactions actually processed: 3/3" in ran.out, ran.err
    assert azure15.counts.sign_ins >= before + 3


def test_the_command_replaces_the_process() -> None:
    """The command runs in the same process: it gets signals and sets the exit status."""
    said = ("exec", "--server", "myserver", "--user", "app", "--")
    program = [sys.executable, "-m", "azpg", *said, "sh", "-c", "echo $$; kill -TERM $$"]
    with subprocess.Popen(
        program, env=os.environ | {"PGPASSWORD": "secret"}, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) == process.pid
        assert process.wait(60) == -signal.SIGTERM


@pytest.mark.parametrize(
    ("program", "status"),
    [
        (["sh", "-c", "exit 7"], 7),
        # Python ignores SIGPIPE, and a command would inherit that
        (["sh", "-c", "kill -PIPE $$"], -signal.SIGPIPE),
        (["no-such-command"], 127),
        (["/etc/passwd"], 126),
    ],
    ids=lambda value: str(value[-1]) if isinstance(value, list) else "",
)
def test_exit_status(command: Command, program: list[str], status: int) -> None:
    """The exit status is the command's, or a shell's if it cannot be run."""
    ran = command("exec", "--server=myserver", "--user=app", "--", *program, PGPASSWORD="secret")
    assert ran.status == status
    assert bool(ran.err) == (status in (126, 127))


# Cleanup

REAPER = """
import ctypes, os, signal, subprocess, sys

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup ignores, for all that it starts
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # orphaned processes of the command become our children
status = subprocess.run(sys.argv[1:]).returncode
while True:
    try:
        os.wait()
    except ChildProcessError:
        sys.exit(abs(status))
"""
ON_DISK = "import os, sys; del os.memfd_create; from azpg._cli.main import main; sys.exit(main())"


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("true", 0),
        ("exit 7", 7),
        ("kill -TERM $$", signal.SIGTERM),
        ("kill -KILL $$", signal.SIGKILL),
        ("kill -HUP $$", signal.SIGHUP),
    ],
)
@pytest.mark.parametrize("home", [None, "/proc"])
@pytest.mark.parametrize("start", [["-m", "azpg"], ["-c", ON_DISK]], ids=["in memory", "on disk"])
def test_no_file_is_left(
    tmp_path: Path, start: list[str], home: str | None, script: str, status: int
) -> None:
    """However a command ends, no file is left, also without a writable home folder."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environ = os.environ | {"PGPASSWORD": "secret", "TMPDIR": str(temporary)}
    del environ["HOME"]
    environ |= {} if home is None else {"HOME": home}
    exec_ = ["exec", "--server", "myserver", "--user", "app", "--"]
    read = 'grep -c secret "$PGPASSFILE"; echo "$PGPASSFILE";'
    done = subprocess.run(
        [sys.executable, "-c", REAPER, sys.executable, *start, *exec_, "sh", "-c", read + script],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    count, path = done.stdout.split()
    assert (count, path.startswith(str(temporary))) == ("1", start[0] == "-c")
    assert done.returncode == status
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("start", [["-m", "azpg"], ["-c", ON_DISK]], ids=["in memory", "on disk"])
def test_a_command_that_is_not_found_leaves_no_file(tmp_path: Path, start: list[str]) -> None:
    """The password file is deleted if the command cannot be started."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    words = [*start, "exec", "--server", "myserver", "--user", "app", "--", "no-such-command"]
    done = subprocess.run(
        [sys.executable, "-c", REAPER, sys.executable, *words],
        env=os.environ | {"PGPASSWORD": "secret", "TMPDIR": str(temporary)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 127
    assert list(temporary.iterdir()) == []


def test_the_output_ends_when_the_command_closes_it() -> None:
    """The process that deletes the file does not keep the command's pipes open."""
    words = ["exec", "--server", "myserver", "--user", "app", "--"]
    script = "echo here; exec >&-; read line"
    with subprocess.Popen(
        [sys.executable, "-c", ON_DISK, *words, "sh", "-c", script],
        env=os.environ | {"PGPASSWORD": "secret"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.read(5) == b"here\n"
        ended, _, _ = select.select([process.stdout], [], [], 30)
        process.stdin.close()
    assert ended
