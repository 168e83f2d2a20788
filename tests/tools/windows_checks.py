"""What is checked on Windows: `python windows_checks.py`, with an emulator's variables set.

Windows' CPython runs this file, so it needs nothing but an installed azpg. `windows.py` starts the
emulator, which runs on Linux, and a profile whose path is not ASCII.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import azpg

SERVER = "myserver"
AZPG = Path(sysconfig.get_path("scripts"), "azpg.exe")
CHILD = "import os, sys; os._exit(int(sys.argv[1]))"
CTRL_C = 0xC000013A - (1 << 32)
"""the status after Ctrl-C, as the signed number that os._exit takes"""


def connect() -> None:
    """`connect` signs in over TLS, on PostgreSQL's port and on PgBouncer's."""
    with azpg.connect(server=SERVER) as conn:
        assert conn.execute("select 1").fetchone() == (1,)
        assert conn.pgconn.ssl_in_use
    port = int(os.environ["PGBOUNCER_PORT"])
    with azpg.connect(server=SERVER, port=port, pgbouncer=True) as conn:
        assert conn.execute("select 2").fetchone() == (2,)


def connect_async() -> None:
    """`connect_async` connects on the event loop that the error about Proactor advises."""

    async def main() -> None:
        async with await azpg.connect_async(server=SERVER) as conn:
            cursor = await conn.execute("select 1")
            assert await cursor.fetchone() == (1,)

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(main())


def proactor() -> None:
    """On Windows' default event loop the error says what to write, and no token is requested."""

    def credential() -> Any:
        raise AssertionError

    async def main() -> None:
        await azpg.connect_async(server=SERVER, credential=credential)

    problem = ""
    try:
        asyncio.run(main())
    except azpg.ConfigError as error:
        problem = str(error)
    assert "ProactorEventLoop" in problem, problem
    assert "SelectorEventLoop" in problem, problem


def pool() -> None:
    """A pool whose backends were terminated hands out new connections."""
    with azpg.create_pool(server=SERVER, min_size=2, max_size=2) as connections:
        connections.wait()
        with connections.connection() as first, connections.connection() as second:
            lost = {first.info.backend_pid, second.info.backend_pid}
        with azpg.connect(server=SERVER) as other:
            for pid in lost:
                assert other.execute("select pg_terminate_backend(%s, 5000)", [pid]).fetchone()
        with connections.connection() as conn:
            assert conn.info.backend_pid not in lost
            assert conn.execute("select 1").fetchone() == (1,)


def async_pool() -> None:
    """An async pool works on the selector event loop."""

    async def main() -> None:
        async with (
            azpg.create_pool_async(server=SERVER, min_size=1) as connections,
            connections.connection() as conn,
        ):
            assert await (await conn.execute("select 1")).fetchone() == (1,)

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(main())


def files_of_a_profile() -> None:
    """Paths that are not ASCII serve: the root certificate above, and the service file."""
    # Wine sets APPDATA when a process starts
    profile = os.environ["APPDATA"] = os.environ["PROFILE"]
    assert not profile.isascii(), profile
    assert os.environ["PGSSLROOTCERT"].startswith(profile)
    service = Path(profile, "postgresql", ".pg_service.conf")
    host = f"{SERVER}.postgres.database.azure.com"
    service.write_text(f"[shop]\nhost={host}\napplication_name=shop\n", "utf-8")
    with azpg.connect("service=shop") as conn:
        assert conn.execute("show application_name").fetchone() == ("shop",)


def command() -> None:
    """`azpg.exe` is installed; `azpg exec` returns the status of its command."""
    assert AZPG.is_file()
    ran = run("--version")
    assert ran.stdout.strip() == f"azpg {azpg.__version__}", ran
    for status in (0, 7, CTRL_C):
        child = (sys.executable, "-c", CHILD, str(status))
        ran = run("exec", "--server", SERVER, "--", *child)
        assert ran.returncode % (1 << 32) == status % (1 << 32), (status, ran)


def emulator() -> None:
    """`azpg emulator` and `azpg demo` say in one line that Windows has none."""
    for name in ("emulator", "demo"):
        ran = run(name)
        assert ran.returncode == 1, ran
        (line,) = ran.stderr.splitlines()
        assert line.startswith(f"azpg {name}: "), line
        assert "Linux or macOS" in line, line


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a module: azpg.exe prints nothing under Wine, for an unknown reason."""
    return subprocess.run(
        [sys.executable, "-m", "azpg", *arguments],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


CHECKS: tuple[Callable[[], None], ...] = (
    connect,
    connect_async,
    proactor,
    pool,
    async_pool,
    files_of_a_profile,
    command,
    emulator,
)


def main() -> None:
    """Run all checks; the first that fails ends it with its traceback."""
    say(f"Python {sys.version} on {sys.platform}")
    for check in CHECKS:
        started = time.monotonic()
        check()
        say(f"{check.__name__}: {time.monotonic() - started:.1f} s")
    say(f"{len(CHECKS)} passed, 0 failed")


def say(line: str) -> None:
    """Print a line at once, because a pipe keeps lines otherwise."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
