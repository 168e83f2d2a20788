"""The real PgBouncer, with the settings that Azure documents.

Source: MicrosoftDocs/azure-databases-docs, articles/postgresql/connectivity,
concepts-pgbouncer.md and pgbouncer-parameters-table.md (checked 2026-11-27).
"""

import os
import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from azpg.emulator import _os_processes
from azpg.emulator._os_user import OSUser

from .admin_session import Login, execute, quote_identifier
from .hba import hba_rules

# The database name that opens PgBouncer's admin console instead of a database.
CONSOLE_DATABASE = "pgbouncer"
CONSOLE_USER = "azpg_console"

# PgBouncer looks passwords up in PostgreSQL, so that a role created with SQL can authenticate at
# once. The superuser runs that query in the client's database, whose owner can set search_path.
# The query therefore names the schema of everything that it uses.
_SETTINGS = """\
[databases]
* = host='{postgres_folder}' port=5432

[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = {folder}
auth_type = hba
auth_hba_file = {folder}/hba.conf
auth_file = {folder}/users.txt
auth_user = {superuser}
auth_query = SELECT usename, passwd FROM pg_catalog.pg_shadow \
WHERE usename OPERATOR(pg_catalog.=) $1
admin_users = {console_user}
pool_mode = transaction
default_pool_size = 50
max_client_conn = 5000
ignore_startup_parameters =
query_wait_timeout = 120
server_idle_timeout = 600
log_connections = 0
log_disconnections = 0
"""


def find_pgbouncer() -> Path | None:
    """Return the path of PgBouncer, or None if it is not installed.

    Debian installs it in /usr/sbin, which is not in the PATH of an ordinary user.
    """
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin"))
    program = shutil.which("pgbouncer", path=path)
    return Path(program) if program else None


class PgBouncer:
    """Run one PgBouncer that listens only on a private Unix socket.

    Args:
        program: The path of PgBouncer.
        os_user: The operating system user to run it as.
        folder: The folder for its files and its socket.
        postgres_folder: The folder of the socket of the PostgreSQL server that it connects to.
        superuser: The PostgreSQL user that looks up the passwords of roles.
    """

    def __init__(
        self, program: Path, os_user: OSUser, folder: Path, postgres_folder: Path, superuser: Login
    ) -> None:
        self.socket_path = folder / ".s.PGSQL.6432"
        output = subprocess.run(
            [program, "--version"], check=True, capture_output=True, text=True
        ).stdout
        self.version = output.partition("\n")[0].removeprefix("PgBouncer ").strip()
        self._program = program
        self._os_user = os_user
        self._folder = folder
        self.postgres_folder = postgres_folder
        self._superuser = superuser
        self._console_login = Login(CONSOLE_USER, secrets.token_urlsafe(32))
        self._process: _os_processes.ServerProcess | None = None

    async def start(self) -> None:
        """Write the settings, start PgBouncer and wait until it is ready."""
        settings = _SETTINGS.format(
            folder=self._folder,
            postgres_folder=self.postgres_folder,
            superuser=self._superuser.user,
            console_user=self._console_login.user,
        )
        if self._version_number >= (1, 21):
            settings += "max_prepared_statements = 0\n"
        self._os_user.write_file(self._folder / "pgbouncer.ini", settings)
        self._process = await _os_processes.start_server(
            [self._program, self._folder / "pgbouncer.ini"],
            os_user=self._os_user,
            folder=self._folder,
            ready_messages=["process up"],
            stop_signal=signal.SIGTERM,
        )

    async def stop(self) -> None:
        """Stop PgBouncer if it runs."""
        if self._process is not None:
            await self._process.stop()
            self._process = None

    @property
    def running(self) -> bool:
        """Return whether it has been started and not stopped since."""
        return self._process is not None

    def trust_roles(self, roles: Sequence[str]) -> None:
        """Let the Entra roles in, whose tokens the proxy checks; others need a password.

        The superuser is rejected.
        """
        admin_rules = (
            f"local {CONSOLE_DATABASE} {self._console_login.user} password\n"
            f"local all {self._superuser.user} reject\n"
        )
        self._os_user.write_file(self._folder / "hba.conf", admin_rules + hba_rules(roles))
        # Without an entry here PgBouncer looks a role up in PostgreSQL, even if the role needs no
        # password.
        logins = [self._console_login, self._superuser, *map(Login, roles)]
        lines = [
            f"{quote_identifier(login.user)} {quote_identifier(login.password)}\n"
            for login in logins
        ]
        self._os_user.write_file(self._folder / "users.txt", "".join(lines))

    async def reload(self) -> None:
        """Reload the configuration files."""
        await execute(self.socket_path, self._console_login, CONSOLE_DATABASE, "RELOAD")

    @property
    def _version_number(self) -> tuple[int, ...]:
        return tuple(int(part) for part in re.findall(r"\d+", self.version)[:2])
