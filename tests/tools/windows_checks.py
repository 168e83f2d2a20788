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

from psycopg import pq

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


def service_files() -> None:
    """A service is found where libpq finds it: in %APPDATA%, and in the folder of PGSYSCONFDIR."""
    folder = Path(os.environ["APPDATA"])
    user = folder / "postgresql" / ".pg_service.conf"
    system = folder / "shared" / "pg_service.conf"
    os.environ["PGSYSCONFDIR"] = str(system.parent)
    for name, file in (("own", user), ("shared", system)):
        file.parent.mkdir(exist_ok=True)
        write_service(file, name)
        # libpq reads the service before it rejects this sslmode
        rejected = pq.PGconn.connect(f"service={name} sslmode=wrong".encode())
        assert b"sslmode" in rejected.error_message, rejected.error_message
        with azpg.connect(f"service={name}") as conn:
            assert conn.execute("show application_name").fetchone() == (name,)
    user.unlink()
    os.environ.pop("PGSYSCONFDIR")


def files_of_a_profile() -> None:
    """A root certificate and a service file serve under a path that is not ASCII."""
    # Wine sets APPDATA when a process starts
    profile = os.environ["APPDATA"] = os.environ["PROFILE"]
    assert not profile.isascii(), profile
    assert os.environ["PGSSLROOTCERT"].startswith(profile)
    write_service(Path(profile, "postgresql", ".pg_service.conf"), "shop")
    with azpg.connect("service=shop") as conn:
        assert conn.execute("show application_name").fetchone() == ("shop",)


def write_service(file: Path, name: str) -> None:
    """Write a service file with one service, whose application_name is its own name."""
    host = f"{SERVER}.postgres.database.azure.com"
    file.write_text(f"[{name}]\nhost={host}\napplication_name={name}\n", "utf-8")


def command() -> None:
    """`azpg.exe` runs, and `azpg exec` returns the status of its command."""
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
    """Run azpg.exe. WinPython's pip writes no folder into it, so PATH has that of python.exe."""
    folder = str(Path(sys.executable).parent)
    return subprocess.run(
        [AZPG, *arguments],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PATH": os.pathsep.join((folder, os.environ["PATH"]))},
    )


CHECKS: tuple[Callable[[], None], ...] = (
    connect,
    connect_async,
    proactor,
    pool,
    async_pool,
    service_files,
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
