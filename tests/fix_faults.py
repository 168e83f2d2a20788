"""Servers that can be brought to fail: the emulator, PostgreSQL, and a PgBouncer of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

import azpg

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fix_servers import Postgres

    from azpg.emulator import Emulator


@dataclass(frozen=True)
class Servers:
    """Everything that can be brought to fail."""

    azure: Emulator
    postgres: Postgres
    pooler: dict[str, Any]
    """the keywords that lead to a PgBouncer with small limits and no server behind it"""

    @property
    def there(self) -> dict[str, Any]:
        """Return the keywords that lead to the emulator."""
        return {"host": self.azure.host, "hostaddr": self.azure.hostaddr}

    def connect(self, **options: Any) -> None:
        """Connect to PostgreSQL by azpg, as its role unless another is named."""
        known: dict[str, Any] = self.postgres.conninfo(**options)
        azpg.connect(**known, retry_timeout=0).close()

    def connect_azure(self, **options: Any) -> None:
        """Connect to the emulator by azpg, as its own principal unless another is named."""
        azpg.connect(**self.there, retry_timeout=0, **options).close()

    def admin(self, *statements: str) -> Any:
        """Run statements as PostgreSQL's superuser and return the last one's row, if it has one."""
        postgres = self.postgres
        with psycopg.connect(
            host=postgres.socket, port=postgres.port, user="admin", dbname="postgres"
        ) as conn:
            conn.autocommit = True
            for statement in statements:
                cursor = conn.execute(statement)
            return cursor.fetchone() if cursor.description else None

    @contextlib.contextmanager
    def rule(self, line: str) -> Iterator[None]:
        """Let a line stand first in PostgreSQL's pg_hba.conf."""
        rules = Path(self.postgres.socket, "pg_hba.conf")
        before = rules.read_text()
        try:
            rules.write_text(f"{line}\n{before}")
            self._reload()
            yield
        finally:
            rules.write_text(before)
            self._reload()

    def _reload(self) -> None:
        loaded = self.admin("select pg_conf_load_time()")
        self.admin("select pg_reload_conf()")
        while self.admin("select pg_conf_load_time()") == loaded:
            pass  # until a new connection has it

    @contextlib.contextmanager
    def opened(self, **options: Any) -> Iterator[azpg.Connection[Any]]:
        """Lend a connection to PostgreSQL, whatever becomes of it."""
        known: dict[str, Any] = self.postgres.conninfo(**options)
        with contextlib.closing(azpg.connect(**known)) as conn:
            conn.autocommit = True
            yield conn


@pytest.fixture(scope="module")
def pooler() -> Iterator[dict[str, Any]]:
    """Run a PgBouncer that asks for passwords itself, with small limits and no server behind."""
    with tempfile.TemporaryDirectory(prefix="azpg-pgbouncer-") as name:
        folder = Path(name)
        (folder / "users.txt").write_text('"app" "pw"\n')
        (folder / "pgbouncer.ini").write_text(
            f"[databases]\nshop = host={folder} port=1\n"
            f"[pgbouncer]\nunix_socket_dir={folder}\nlisten_port=6432\nauth_type=plain\n"
            f"auth_file={folder}/users.txt\nmax_client_conn=4\nquery_wait_timeout=1\n"
        )
        account: dict[str, Any] = {}
        if os.geteuid() == 0:  # as which PgBouncer refuses to run
            account = {"user": "postgres", "group": "postgres", "extra_groups": ()}
            for path in (folder, *folder.iterdir()):
                shutil.chown(path, "postgres")
        program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
        with subprocess.Popen(
            [program, folder / "pgbouncer.ini"], stderr=subprocess.PIPE, text=True, **account
        ) as process:
            try:
                assert process.stderr is not None
                assert any("process up" in line for line in process.stderr)
                yield {"host": str(folder), "port": 6432, "user": "app", "dbname": "shop"}
            finally:
                process.terminate()


@pytest.fixture
def servers(
    azure: Emulator, postgres: Postgres, pooler: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Servers:
    """Return everything that can be brought to fail, none of it named by the environment."""
    monkeypatch.delenv("PGHOSTADDR")
    return Servers(azure, postgres, pooler)
