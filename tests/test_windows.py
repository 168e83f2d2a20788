"""What differs on Windows, as far as Linux can run it; `nox -s windows` runs Windows' CPython."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

import azpg
from azpg import _libpq
from azpg._child_env import ChildEnvironment
from azpg._cli import exec as exec_module
from azpg._connect import can_wait_for_sockets

SERVER = "host=myserver.postgres.database.azure.com"


@pytest.fixture
def on_windows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Take this platform for Windows, with a profile of its own."""
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("APPDATA", str(tmp_path / "Größe"))
    return monkeypatch


# The event loop


class ProactorEventLoop(asyncio.SelectorEventLoop):
    """A loop with the name of Windows' default."""


async def use_pool(pool_class: Any, **arguments: Any) -> None:
    pool = pool_class(SERVER, open=False, **arguments)
    try:
        await pool.open()
        await pool.getconn(timeout=10)
    finally:
        await pool.close()


CALLS: dict[str, Callable[..., Awaitable[object]]] = {
    "connect_async": azpg.connect_async,
    "AsyncConnection.connect": azpg.AsyncConnection.connect,
    "create_pool_async": lambda conninfo, **kw: azpg.create_pool_async(conninfo, **kw).open(),
    "AsyncConnectionPool": lambda _, **kw: use_pool(azpg.AsyncConnectionPool, kwargs=kw),
    "AsyncNullConnectionPool": lambda _, **kw: use_pool(azpg.AsyncNullConnectionPool, kwargs=kw),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_the_proactor_event_loop_is_rejected_before_a_token_is_requested(
    call: Callable[..., Awaitable[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Psycopg would reject it last, and a pool's workers would only log that."""

    def credential() -> Any:
        raise AssertionError

    async def main() -> None:
        monkeypatch.setattr(sys, "platform", "win32")
        try:
            await call(SERVER, credential=credential)
        finally:
            monkeypatch.undo()

    with (
        asyncio.Runner(loop_factory=ProactorEventLoop) as runner,
        pytest.raises(azpg.ConfigError, match="ProactorEventLoop"),
    ):
        runner.run(main())


def test_the_advice_about_the_event_loop_runs_as_typed() -> None:
    """It is a statement for every supported Python, and the loop that it makes is usable."""
    assert not can_wait_for_sockets(type("Subclass", (ProactorEventLoop,), {}))
    problem = azpg.explain(
        psycopg.InterfaceError("Psycopg cannot use the 'ProactorEventLoop'")
    ).hint
    statement = problem.partition("asyncio.run(main()) by: ")[2].partition(" (with uvicorn")[0]
    loops: list[asyncio.AbstractEventLoop] = []

    async def main() -> None:
        loops.append(asyncio.get_running_loop())

    exec(statement, {"asyncio": asyncio, "main": main})
    (loop,) = loops
    assert can_wait_for_sockets(type(loop))
    assert loop.is_closed()


# The user's files


def test_service_files_are_where_libpq_on_windows_looks_for_them(
    on_windows: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """That is the folder postgresql in %APPDATA%, and not the home folder."""
    folder = tmp_path / "Größe" / "postgresql"
    folder.mkdir(parents=True)
    (folder / ".pg_service.conf").write_text(f"[shop]\r\n{SERVER}\r\ndbname=shop\r\n")
    written = azpg.conninfo("service=shop", password="secret")
    assert "dbname=shop" in written
    assert _libpq.user_file("passfile") == str(folder / "pgpass.conf")
    assert _libpq.user_file("sslrootcert") == str(folder / "root.crt")


def test_the_systems_service_file_is_read_only_if_a_variable_names_its_folder(
    on_windows: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Any user of the machine could create the folder that is compiled into psycopg's wheel."""
    with pytest.raises(azpg.ConfigError) as raised:
        azpg.conninfo("service=shop", password="secret")
    assert "/pg_service.conf" not in str(raised.value)
    (tmp_path / "pg_service.conf").write_text(f"[shop]\r\n{SERVER}\r\ndbname=shop\r\n")
    on_windows.setenv("PGSYSCONFDIR", str(tmp_path))
    assert "dbname=shop" in azpg.conninfo("service=shop", password="secret")


def test_without_appdata_no_file_of_the_working_directory_is_read(
    on_windows: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A relative path would let the working directory decide what is trusted."""
    on_windows.delenv("APPDATA")
    on_windows.chdir(tmp_path)
    for keyword in ("passfile", "service", "sslrootcert"):
        path = _libpq.user_file(keyword)
        assert path.startswith(str(Path.home())), path


# Commands


def test_exec_returns_the_status_that_windows_has_for_it(on_windows: pytest.MonkeyPatch) -> None:
    """Windows' statuses are unsigned, and sys.exit takes signed ones: 0xC000013A is Ctrl-C's."""
    codes = {0: 0, 3: 3, 0xC000013A: 0xC000013A - (1 << 32)}

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, int(command[0], 0))

    on_windows.setattr(subprocess, "run", run)
    for status, expected in codes.items():
        child = ChildEnvironment({}, None, is_entra=True)
        assert exec_module.exec_command([hex(status)], child) == expected


def test_ctrl_c_is_left_to_the_command(on_windows: pytest.MonkeyPatch) -> None:
    """Azpg lives until the command has ended: psql cancels a query and goes on."""
    program = ("import os, signal, sys; os.kill(os.getppid(), signal.SIGINT); sys.exit(7)",)
    before = signal.getsignal(signal.SIGINT)
    child = ChildEnvironment({}, None, is_entra=True)
    assert exec_module.exec_command([sys.executable, "-c", *program], child) == 7
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("command", ["demo", "emulator"])
def test_commands_of_the_emulator_say_in_a_sentence_that_windows_has_none(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It needs Linux or macOS, and WSL is a Linux."""
    program = (
        "import sys; from azpg._cli.main import main; sys.platform = 'win32'\n"
        f"sys.exit(main([{command!r}]))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 1
    assert ran.stdout == ""
    (line,) = ran.stderr.splitlines()
    assert line.startswith(f"azpg {command}: ")
    assert "Linux or macOS" in line
    assert "WSL" in line
