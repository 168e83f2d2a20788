"""The Django project in examples/django: its commands, and its views on both kinds of server."""

from __future__ import annotations

import os
import re
from subprocess import CalledProcessError
from typing import TYPE_CHECKING

import pytest
from fix_django import PROJECT
from fix_hostile import Hostile, ask_in_clear

import azpg

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_django import Databases, Manage
    from fix_leaks import Tokens
    from fix_subprocess import Program

    from azpg.emulator import Emulator


@pytest.mark.parametrize("port", ["5432", "6432"])
def test_its_own_tests_pass(azure: Emulator, manage: Manage, port: str) -> None:
    """`manage.py test` creates a test database for each of its processes, and drops them all."""
    printed = manage("test", "--parallel", "2", PGPORT=port)
    assert "Ran 3 tests" in printed
    assert printed.count("Cloning test database") == 2
    with azpg.connect() as conn:
        left = conn.execute("select from pg_database where datname like 'test%'").fetchall()
    assert not left


def serve(project: str) -> None:
    """Visit both views of the project, as a WSGI and an ASGI server call them."""
    import asyncio
    import importlib
    import io
    import sys
    from typing import Any

    sys.path.insert(0, project)
    wsgi: Any = importlib.import_module("project.wsgi")
    asgi: Any = importlib.import_module("project.asgi")
    connections: Any = importlib.import_module("django.db").connections
    responses: list[Any] = []

    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "wsgi.input": io.BytesIO()}
    environ |= {"SERVER_NAME": "localhost", "SERVER_PORT": "80"}
    response = wsgi.application(environ, lambda status, _headers: responses.append(status))
    responses.append(b"".join(response))
    response.close()

    async def visit() -> None:
        async def send(message: dict[str, Any]) -> None:
            responses.append(message.get("status") or message["body"])

        requests: asyncio.Queue[Any] = asyncio.Queue()
        requests.put_nowait({"type": "http.request", "body": b""})
        scope = {"type": "http", "method": "GET", "path": "/async/", "query_string": b""}
        scope["headers"] = [(b"host", b"localhost")]
        await asgi.application(scope, requests.get, send)

    asyncio.run(visit())
    connections["default"].close_pool()
    print(responses)  # noqa: T201


def test_its_views(manage: Manage, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is migrated, and serves its views by WSGI and ASGI, with one pool and PgBouncer."""
    monkeypatch.setenv("PGPORT", "6432")
    assert "Applying visits.0001_initial... OK" in manage("migrate")
    assert "No changes detected" in manage("makemigrations", "--check", "--dry-run")
    (responses,) = program(serve, project=str(PROJECT))
    assert responses == "['200 OK', b'visit 1', 200, b'visit 2']"


def test_dbshell_authenticates(manage: Manage) -> None:
    """`manage.py dbshell` runs psql with a fresh token, over verified TLS, with its arguments."""
    query = "select current_user, current_database()"
    printed = manage("dbshell", "--", "-At", "-c", query, "-c", r"\conninfo")
    assert "myapp|mydb\n" in printed
    # psql 18 prints a table, earlier ones a sentence
    assert re.search(r"SSL connection \(protocol: TLS|SSL Protocol\|TLS", printed)


def test_dbshell_takes_database_and_user(manage: Manage) -> None:
    """Arguments of psql may name another database and user."""
    query = "select current_user, current_database()"
    assert "myapp|postgres\n" in manage("dbshell", "--", "-XAtc", query, "postgres", "myapp")


def test_the_token_of_dbshell_is_in_no_variable_or_argument(
    azure: Emulator, databases: Databases, capfd: pytest.CaptureFixture[str]
) -> None:
    """The token is in a password file for psql, which reads it again when it reconnects."""
    script = r"\! echo $(cat /proc/$PPID/environ /proc/$PPID/cmdline | grep -c e[y]J)"
    script += ' $(grep -c e[y]J "$PGPASSFILE")'
    databases().client.runshell(["-Xq", "-c", r"\c postgres", "-c", script])
    assert capfd.readouterr().out == "0 1\n"


def test_a_script_in_dbshell_cannot_send_the_token_elsewhere(
    azure: Emulator, databases: Databases, hostile: Callable[..., Hostile]
) -> None:
    r"""`\c` to another host connects without the token."""
    server = hostile(ask_in_clear)
    place = f"host={server.host} port={server.port} user=myapp dbname=mydb sslmode=disable"
    with pytest.raises(CalledProcessError):
        databases().client.runshell(["-Xwc", rf'\c "{place}"'])
    assert server.connections == 1
    assert b"myapp" in server.clear
    assert b"eyJ" not in server.clear


def test_dbshell_rejects_another_server(manage: Manage) -> None:
    """Arguments that connect psql to another server are rejected."""
    printed = manage("dbshell", "--", "-h", "elsewhere.example", status=1)
    assert "CommandError: -h leads psql to another server" in printed


def test_dbshell_fails_as_psql_does(manage: Manage) -> None:
    """The command fails if psql fails."""
    printed = manage("dbshell", "--", "-c", "oops", status=1)
    assert re.search(r'CommandError: "psql .* -c oops" returned non-zero exit status 1', printed)


@pytest.mark.parametrize("there", [True, False])
def test_a_failed_dbshell_shows_no_token(
    tokens: Tokens,
    databases: Databases,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    there: bool,
) -> None:
    """If psql fails or does not exist, the error has no frame that contains the environment."""
    connection = databases(OPTIONS={"credential": tokens.credential})
    monkeypatch.setenv("PATH", os.environ["PATH"] if there else "/nowhere")
    with pytest.raises((CalledProcessError, FileNotFoundError)) as caught:
        connection.client.runshell(["-c", "oops"])
    (token,) = tokens.given
    frames = [entry.frame.f_locals for entry in caught.traceback[1:]]
    assert token not in repr(frames)
    assert caught.value.__context__ is None
    assert isinstance(caught.value, CalledProcessError) is there
    assert ("syntax error" in capfd.readouterr().err) is there


def test_inspectdb_reads_the_tables(manage: Manage) -> None:
    """`manage.py inspectdb` writes the models of the tables."""
    manage("migrate")
    printed = manage("inspectdb", "visits_visit")
    assert "page = models.CharField(max_length=200)" in printed
    assert "at = models.DateTimeField()" in printed
