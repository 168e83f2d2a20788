"""The real PostgreSQL behind the front door: its binaries, its cluster, its roles."""

import asyncio
import os
import shutil
import signal
from collections.abc import Iterable
from pathlib import Path

from azpg.emulator import _os_processes
from azpg.emulator._errors import EmulatorError, ServerError
from azpg.emulator._os_user import OSUser

from .admin_session import Login, execute, open_session, quote_identifier, quote_literal
from .hba import hba_rules
from .installation import Installation

# The names that Azure gives to its own superuser, to what its customers' roles belong to, and to
# the database that is closed to them. In any other database a client could decide by its settings
# what the superuser's statements mean.
SUPERUSER = "azuresu"
_ADMIN_ROLE = "azure_pg_admin"
_MAINTENANCE_DATABASE = "azure_maintenance"

# Before PostgreSQL 16 a role that may create roles may grant itself these, and with them run
# programs and read and write files as the servers' user. A role that does not exist can be granted
# to nobody, and nobody can make one of such a name.
_REMOVE_SERVER_ROLES = """
SET allow_system_table_mods = on;
DELETE FROM pg_catalog.pg_authid WHERE rolname IN
('pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files');
"""

# A cluster that lives for minutes need not survive a power cut; killed processes it survives.
_SETTINGS = """
listen_addresses = ''
fsync = off
wal_retrieve_retry_interval = '100ms'
password_encryption = 'scram-sha-256'
timezone = 'UTC'
log_timezone = 'UTC'
log_min_error_statement = panic
"""


_PRIMARY_READY_MESSAGES = ["ready to accept connections"]
_STANDBY_READY_MESSAGES = ["ready to accept read", "started streaming WAL"]
_STANDBY_NAME = "standby"
# After the postmaster was killed, its children are given so many times 0.1 s to notice.
_MAX_START_ATTEMPTS = 100


class Cluster:
    """Run one throw-away cluster that listens only on a private Unix socket."""

    def __init__(
        self, installation: Installation, os_user: OSUser, folder: Path, superuser: Login
    ) -> None:
        self.folder = folder
        self.socket_path = folder / ".s.PGSQL.5432"
        self._installation = installation
        self._os_user = os_user
        self._superuser = superuser
        # The standby reads it for as long as it runs.
        self._password_file = folder / "pgpass"
        self._data = folder / "data"
        self._process: _os_processes.ServerProcess | None = None
        os_user.make_folder(folder)

    async def init(self) -> None:
        """Make an empty cluster."""
        password = self.folder / "password"
        self._os_user.write_file(password, self._superuser.password)
        await self._run(
            self._installation.initdb,
            *("--pgdata", self._data, "--username", SUPERUSER, "--pwfile", password),
            *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"),
            *("--no-sync", "--no-instructions"),
        )
        password.unlink()
        self._os_user.write_file(self._data / "postgresql.auto.conf", _SETTINGS)

    async def copy_from(self, primary: "Cluster") -> None:
        """Make the standby of a running cluster."""
        if not self._installation.pg_basebackup.is_file():
            raise EmulatorError(
                f"There is no {self._installation.pg_basebackup}, which makes the standby. Install "
                "PostgreSQL's client programs as well."
            )
        self._os_user.write_file(
            self._password_file, f"*:*:*:{SUPERUSER}:{self._superuser.password}\n"
        )
        await self._run(
            self._installation.pg_basebackup,
            *("--pgdata", self._data, "--no-sync", "--no-manifest", "--checkpoint", "fast"),
            *(
                "--wal-method",
                "stream",
                "--create-slot",
                "--slot",
                _STANDBY_NAME,
                "--write-recovery-conf",
            ),
            f"--dbname=host={primary.folder} user={SUPERUSER} passfile={self._password_file} "
            f"application_name={_STANDBY_NAME}",
        )

    async def start(self) -> None:
        """Start, as the standby where it is one; on return it answers."""
        standby = (self._data / "standby.signal").exists()
        self._process = await _os_processes.start_server(
            [self._installation.postgres, "-D", self._data, "-k", self.folder],
            os_user=self._os_user,
            folder=self.folder,
            ready_messages=_STANDBY_READY_MESSAGES if standby else _PRIMARY_READY_MESSAGES,
            stop_signal=signal.SIGQUIT,
        )

    async def stop(self, stop_signal: signal.Signals | None = None) -> None:
        if self._process is not None:
            await self._process.stop(stop_signal)

    async def restart_after_kill(self) -> None:
        """Start as soon as the children of a killed postmaster have ended."""
        for _ in range(_MAX_START_ATTEMPTS):
            try:
                return await self.start()
            except EmulatorError as error:
                if "pre-existing shared memory" not in str(error):
                    raise
                await asyncio.sleep(0.1)
        raise EmulatorError("PostgreSQL does not start again: a query runs on without it.")

    async def kill_backend(self) -> None:
        """Kill a backend: PostgreSQL ends all others, recovers and, on return, answers again."""
        (witness, writer), _ = await open_session(
            self.socket_path, self._superuser, _MAINTENANCE_DATABASE
        )
        (_, victim), process_id = await open_session(
            self.socket_path, self._superuser, _MAINTENANCE_DATABASE
        )
        os.kill(process_id, signal.SIGKILL)
        await witness.read()
        for session in (writer, victim):
            session.close()
        while True:
            try:
                return await self.execute("SELECT 1")
            except (ServerError, EOFError, OSError):
                await asyncio.sleep(0.02)

    async def create_azure_objects(self) -> None:
        """Make what Azure's servers have from the start."""
        await execute(
            self.socket_path,
            self._superuser,
            "postgres",
            f"CREATE DATABASE {_MAINTENANCE_DATABASE}",
        )
        await self.execute(
            f"REVOKE ALL ON DATABASE {_MAINTENANCE_DATABASE} FROM PUBLIC;"
            f"CREATE ROLE {_ADMIN_ROLE} NOLOGIN CREATEDB CREATEROLE;"
            f"GRANT pg_monitor, pg_signal_backend TO {_ADMIN_ROLE};"
            f"ALTER DATABASE postgres OWNER TO {_ADMIN_ROLE};"
        )
        if self._installation.major < 16:
            await self.execute(_REMOVE_SERVER_ROLES)

    async def enable_synchronous_replication(self) -> None:
        """Acknowledge from now on only what the standby has as well."""
        await self.execute(f"ALTER SYSTEM SET synchronous_standby_names = {_STANDBY_NAME}")
        await self.reload()

    async def promote(self) -> None:
        """Turn the standby into a primary."""
        await self.execute(
            "DO $$ BEGIN ASSERT pg_catalog.pg_promote(), 'it was not promoted'; END $$"
        )

    def remove(self) -> None:
        """Remove what a stopped cluster leaves behind."""
        shutil.rmtree(self.folder, ignore_errors=True)

    async def reload(self) -> None:
        await self.execute("SELECT pg_catalog.pg_reload_conf()")

    async def execute(self, statement: str) -> None:
        await execute(self.socket_path, self._superuser, _MAINTENANCE_DATABASE, statement)

    async def create_role(self, name: str, password: str | None) -> None:
        """Create a role as Azure makes them: no superuser, but one that may create things."""
        secret = "" if password is None else f" PASSWORD {quote_literal(password)}"
        await self.execute(
            f"CREATE ROLE {quote_identifier(name)} LOGIN CREATEDB CREATEROLE{secret} "
            f"IN ROLE {_ADMIN_ROLE}"
        )

    def trust_roles(self, roles: Iterable[str]) -> None:
        """Let the roles in whose tokens the front door checks; all others prove their password."""
        own = f"local all,replication {SUPERUSER} password\n"
        self._os_user.write_file(self._data / "pg_hba.conf", own + hba_rules(roles))

    async def _run(self, *argv: str | Path) -> None:
        await _os_processes.run_program(argv, os_user=self._os_user, folder=self.folder)
