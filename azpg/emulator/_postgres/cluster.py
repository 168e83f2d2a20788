"""A temporary PostgreSQL cluster: its server process, its standby and its roles."""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path

from azpg.emulator import _os_processes
from azpg.emulator._entra_role import EntraRole
from azpg.emulator._errors import EmulatorError, ServerError
from azpg.emulator._os_user import OSUser

from .admin_session import Login, execute, open_session, quote_identifier, quote_literal
from .entra_roles import create_functions, insert_identity, insert_label
from .hba import hba_rules
from .installation import Installation

# These are Azure's names: of its superuser, of the role that its customers' administrators are
# members of, and of the database that customers cannot connect to. Source: MicrosoftDocs/
# azure-databases-docs, articles/postgresql/security (copy of 07/2026).
SUPERUSER = "azuresu"
_ADMIN_ROLE = "azure_pg_admin"
# The superuser's statements run in this database. In a database of their own, clients could
# change the settings by which names in the statements are resolved.
MAINTENANCE_DATABASE = "azure_maintenance"

# Before PostgreSQL 16 a role with CREATEROLE can grant itself these roles, and with them run
# programs and read and write files as the operating system user of the server. A role that does
# not exist cannot be granted, and role names that start with pg_ cannot be created.
_REMOVE_SERVER_ROLES = """
SET allow_system_table_mods = on;
DELETE FROM pg_catalog.pg_authid WHERE rolname IN
('pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files');
"""

_CHECK_SHARE_FOLDER = """
DO $$ DECLARE used text; BEGIN
SELECT setting INTO used FROM pg_catalog.pg_config WHERE name = 'SHAREDIR';
IF used <> {} THEN RAISE EXCEPTION 'PostgreSQL uses the files in %', used; END IF;
END $$
"""

# fsync protects against a crash of the machine, which a temporary cluster does not have to survive.
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
_MAX_START_ATTEMPTS = 100
_START_RETRY_DELAY_SECONDS = 0.1
_RECOVERY_POLL_DELAY_SECONDS = 0.02


class Cluster:
    """Run one temporary cluster that listens only on a private Unix socket.

    Args:
        installation: The PostgreSQL to run.
        os_user: The operating system user to run it as.
        folder: The folder to make for its data and its socket.
        superuser: The user name and password of its superuser.
        allowed_extensions: The value of `azure.extensions`.
    """

    def __init__(
        self,
        installation: Installation,
        os_user: OSUser,
        folder: Path,
        superuser: Login,
        allowed_extensions: Sequence[str],
    ) -> None:
        self.folder = folder
        self.socket_path = folder / ".s.PGSQL.5432"
        self.program = installation.postgres
        self._installation = installation
        self._os_user = os_user
        self._superuser = superuser
        self._allowed_extensions = allowed_extensions
        # A standby reads this file whenever it connects to the primary.
        self._password_file = folder / "pgpass"
        self._data = folder / "data"
        self._process: _os_processes.ServerProcess | None = None
        os_user.make_folder(folder)

    async def init(self) -> None:
        """Create the data directory of an empty cluster."""
        password_file = self.folder / "password"
        self._os_user.write_file(password_file, self._superuser.password)
        await self._run(
            self._installation.initdb,
            *("--pgdata", self._data),
            *("--username", SUPERUSER),
            *("--pwfile", password_file),
            *("--auth", "scram-sha-256"),
            *("--encoding", "UTF8"),
            *("--locale", "C"),
            "--no-sync",
            "--no-instructions",
        )
        password_file.unlink()
        allow_list = quote_literal(",".join(self._allowed_extensions))
        settings = f"{_SETTINGS}azure.extensions = {allow_list}\n"
        self._os_user.write_file(self._data / "postgresql.auto.conf", settings)

    async def copy_from(self, primary: "Cluster") -> None:
        """Create the data directory of a standby of a running cluster.

        Raises:
            EmulatorError: If the installation has no pg_basebackup.
        """
        if not self._installation.pg_basebackup.is_file():
            raise EmulatorError(
                f"There is no {self._installation.pg_basebackup}, which makes the standby. Install "
                "PostgreSQL's client programs as well."
            )
        self._os_user.write_file(
            self._password_file, f"*:*:*:{SUPERUSER}:{self._superuser.password}\n"
        )
        conninfo = (
            f"host={primary.folder} user={SUPERUSER} passfile={self._password_file} "
            f"application_name={_STANDBY_NAME}"
        )
        await self._run(
            self._installation.pg_basebackup,
            *("--pgdata", self._data),
            *("--checkpoint", "fast"),
            *("--wal-method", "stream"),
            *("--create-slot", "--slot", _STANDBY_NAME),
            "--no-sync",
            "--no-manifest",
            "--write-recovery-conf",
            f"--dbname={conninfo}",
        )

    async def start(self) -> None:
        """Start the server, as a standby if the data directory is one; wait until it is ready."""
        is_standby = (self._data / "standby.signal").exists()
        self._process = await _os_processes.start_server(
            [self.program, "-D", self._data, "-k", self.folder],
            os_user=self._os_user,
            folder=self.folder,
            ready_messages=_STANDBY_READY_MESSAGES if is_standby else _PRIMARY_READY_MESSAGES,
            stop_signal=signal.SIGQUIT,
        )

    async def stop(self, stop_signal: signal.Signals | None = None) -> None:
        """Stop the server if it runs.

        Args:
            stop_signal: The signal that selects PostgreSQL's shutdown mode (default: SIGQUIT,
                immediate shutdown).
        """
        if self._process is not None:
            await self._process.stop(stop_signal)

    async def restart_after_kill(self) -> None:
        """Start the server, and retry while processes of a killed server still run.

        Raises:
            EmulatorError: If such a process does not end.
        """
        for _ in range(_MAX_START_ATTEMPTS):
            try:
                return await self.start()
            except EmulatorError as error:
                if "pre-existing shared memory" not in str(error):
                    raise
                await asyncio.sleep(_START_RETRY_DELAY_SECONDS)
        raise EmulatorError("PostgreSQL does not start again: a query runs on without it.")

    async def kill_backend(self) -> None:
        """Kill the process of one session and wait until the server has recovered.

        PostgreSQL ends all other sessions as well and recovers from its log.
        """
        (surviving_reader, surviving_writer), _ = await open_session(
            self.socket_path, self._superuser, MAINTENANCE_DATABASE
        )
        (_, killed_writer), killed_process_id = await open_session(
            self.socket_path, self._superuser, MAINTENANCE_DATABASE
        )
        os.kill(killed_process_id, signal.SIGKILL)
        # The other session ends when the server has noticed.
        await surviving_reader.read()
        surviving_writer.close()
        killed_writer.close()
        while True:
            try:
                return await self.execute("SELECT 1")
            except (ServerError, EOFError, OSError):
                await asyncio.sleep(_RECOVERY_POLL_DELAY_SECONDS)

    async def create_azure_objects(self, tenant_id: str) -> None:
        """Create the database, the role and the functions that a new server at Azure has."""
        await execute(
            self.socket_path,
            self._superuser,
            "postgres",
            f"CREATE DATABASE {MAINTENANCE_DATABASE}",
        )
        await self.execute(
            f"REVOKE ALL ON DATABASE {MAINTENANCE_DATABASE} FROM PUBLIC;"
            f"CREATE ROLE {_ADMIN_ROLE} NOLOGIN CREATEDB CREATEROLE;"
            f"GRANT pg_monitor, pg_signal_backend TO {_ADMIN_ROLE};"
            f"ALTER DATABASE postgres OWNER TO {_ADMIN_ROLE};"
        )
        await self._remove_server_roles()
        await execute(self.socket_path, self._superuser, "postgres", create_functions(tenant_id))

    async def check_share_folder(self, share_folder: Path) -> None:
        """Raise `ServerError` if the server does not use the files in this folder."""
        await self.execute(_CHECK_SHARE_FOLDER.format(quote_literal(str(share_folder))))

    async def _remove_server_roles(self) -> None:
        """Remove the roles that give access to programs and files, before PostgreSQL 16."""
        if self._installation.major < 16:
            await self.execute(_REMOVE_SERVER_ROLES)

    async def enable_synchronous_replication(self) -> None:
        """Acknowledge commits only after the standby has written them."""
        await self.execute(f"ALTER SYSTEM SET synchronous_standby_names = {_STANDBY_NAME}")
        await self.reload()

    async def promote(self) -> None:
        """Promote the standby to a primary."""
        await self.execute(
            "DO $$ BEGIN ASSERT pg_catalog.pg_promote(), 'it was not promoted'; END $$"
        )

    def remove(self) -> None:
        """Remove the files of a stopped cluster."""
        shutil.rmtree(self.folder, ignore_errors=True)

    async def reload(self) -> None:
        """Reload the configuration files."""
        await self.execute("SELECT pg_catalog.pg_reload_conf()")

    async def execute(self, statement: str) -> None:
        """Run statements as the superuser."""
        await execute(self.socket_path, self._superuser, MAINTENANCE_DATABASE, statement)

    async def create_role(
        self, name: str, *, password: str | None = None, entra_role: EntraRole | None = None
    ) -> None:
        """Create an administrator role with the attributes that it has at Azure.

        Args:
            name: The name of the role.
            password: Its password, if it has one.
            entra_role: The identity that it is for, if it has no password.
        """
        password_clause = "" if password is None else f" PASSWORD {quote_literal(password)}"
        statement = (
            f"CREATE ROLE {quote_identifier(name)} LOGIN CREATEDB CREATEROLE{password_clause} "
            f"IN ROLE {_ADMIN_ROLE};"
        )
        await self.execute(statement + (insert_label(entra_role) if entra_role else ""))

    async def add_identity(self, object_id: str, name: str, role_type: str) -> None:
        """Make an identity known to Azure's SQL functions."""
        with contextlib.suppress(ServerError):  # a client has dropped the database
            await execute(
                self.socket_path,
                self._superuser,
                "postgres",
                insert_identity(object_id, name, role_type),
            )

    def trust_roles(self, roles: Iterable[str]) -> None:
        """Let the Entra roles in, whose tokens the proxy checks; others need a password."""
        superuser_rule = f"local all,replication {SUPERUSER} password\n"
        self._os_user.write_file(self._data / "pg_hba.conf", superuser_rule + hba_rules(roles))

    async def _run(self, *argv: str | Path) -> None:
        await _os_processes.run_program(argv, os_user=self._os_user, folder=self.folder)
