"""The servers: an emulator of Azure, and a PostgreSQL with TLS and SCRAM of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
import trustme

from azpg.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Iterator

POSTGRES = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
"""Debian's newest PostgreSQL that is installed: 15 in Debian 12."""


def pytest_report_header() -> list[str]:
    """Name the drivers and servers in use."""
    pgbouncer = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
    return [
        f"psycopg {psycopg.__version__}, libpq {psycopg.pq.version()}",
        _version(POSTGRES / "postgres"),
        _version(pgbouncer),
    ]


def _version(program: str | Path) -> str:
    shown = subprocess.run([program, "--version"], check=True, capture_output=True, text=True)
    return shown.stdout.splitlines()[0]


@pytest.fixture(scope="session")
def emulator() -> Iterator[Emulator]:
    """Run one emulator for all tests; what a test changes in it, it changes back."""
    with Emulator() as emulator:
        assert emulator.pgbouncer_port == 6432, emulator.notes
        yield emulator


@pytest.fixture
def azure(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """Export what leads to the emulator, as its users do, and return it."""
    for name, value in emulator.env.items():
        monkeypatch.setenv(name, value)
    return emulator


@pytest.fixture(scope="session")
def imds_emulator() -> Iterator[Emulator]:
    """Run an emulator whose identity endpoint is a virtual machine's as well."""
    with Emulator(imds=True, pgbouncer=False) as emulator:
        yield emulator


@pytest.fixture
def azure_vm(imds_emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """Export what leads to it from a virtual machine, and return it."""
    for name, value in imds_emulator.imds_env.items():
        monkeypatch.setenv(name, value)
    return imds_emulator


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL that does its own TLS, with one role, and a certificate for its host's name."""

    host: str
    hostaddr: str
    port: int
    user: str
    password: str
    root: str
    socket: str
    """the folder of its Unix socket, where it asks for no password"""

    def conninfo(self, **changes: object) -> dict[str, object]:
        """Return the keywords that reach and verify it."""
        known = {
            "host": self.host,
            "hostaddr": self.hostaddr,
            "port": self.port,
            "user": self.user,
            "password": self.password,
            "dbname": "postgres",
            "sslrootcert": self.root,
        }
        return known | changes


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Run Debian's PostgreSQL behind its own TLS, with SCRAM."""
    with tempfile.TemporaryDirectory(prefix="azpg-postgres-") as folder:
        yield from _serve(Path(folder))


def _serve(folder: Path) -> Iterator[Postgres]:
    server = Postgres(
        host="db15.postgres.database.azure.com",
        hostaddr=_own_address(),
        port=5432,
        user="app",
        password="p'ass wörd",
        root=str(folder / "root.pem"),
        socket=str(folder / "data"),
    )
    ca = trustme.CA()
    ca.cert_pem.write_to_path(server.root)
    folder.chmod(0o755)
    data = folder / "data"
    data.mkdir(mode=0o700)
    _own(data)
    _run("initdb", "--no-sync", "--auth=scram-sha-256", "--auth-local=trust", "-U", "admin", data)
    ca.issue_cert(server.host, "localhost").private_key_and_cert_chain_pem.write_to_path(
        data / "server.pem"
    )
    (data / "server.pem").chmod(0o600)
    _own(data / "server.pem")
    settings = {
        "listen_addresses": server.hostaddr,
        "port": server.port,
        "unix_socket_directories": data,
        "ssl": "on",
        "ssl_cert_file": "server.pem",
        "ssl_key_file": "server.pem",
        "fsync": "off",
        "max_prepared_transactions": 4,
    }
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    _run("pg_ctl", "-D", data, "-w", "-o", options, "-l", data / "log", "start")
    try:
        with psycopg.connect(
            host=str(data), port=server.port, user="admin", dbname="postgres", autocommit=True
        ) as admin:
            admin.execute(
                psycopg.sql.SQL("create role {} login password {}").format(
                    psycopg.sql.Identifier(server.user), psycopg.sql.Literal(server.password)
                )
            )
            admin.execute("grant all on schema public to public")
        yield server
    finally:
        _run("pg_ctl", "-D", data, "-m", "immediate", "stop")


def _own_address() -> str:
    """Return a loopback address of this process alone: others may test at the same time."""
    pid = os.getpid()
    return f"127.15.{pid >> 8 & 255}.{pid & 255 or 255}"


def _run(program: str, *arguments: str | Path) -> None:
    # PostgreSQL refuses to run as root
    user = {"user": "postgres", "group": "postgres", "extra_groups": ()} if _is_root() else {}
    subprocess.run(  # type: ignore[call-overload]  # mypy joins the values' types
        [POSTGRES / program, *arguments], check=True, stdout=subprocess.DEVNULL, cwd="/", **user
    )


def _is_root() -> bool:
    return os.geteuid() == 0


def _own(path: Path) -> None:
    """Give a path to the user that PostgreSQL runs as."""
    if _is_root():
        shutil.chown(path, "postgres", "postgres")
