"""The real PgBouncer behind the second front door, set up as Azure sets up its own."""

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

# The name of the database that is no database, but PgBouncer's administration.
CONSOLE_DATABASE = "pgbouncer"
CONSOLE_USER = "azpg_console"

# The values that Azure documents; passwords are looked up in PostgreSQL, so that a role made
# with SQL can sign in at once. The superuser looks them up in the client's database, whose owner
# chooses its search_path: hence the full names.
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
    """Return the program; Debian keeps it where an ordinary user's PATH does not lead."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin"))
    found = shutil.which("pgbouncer", path=path)
    return Path(found) if found else None


class PgBouncer:
    """Run one PgBouncer that listens only on a private Unix socket."""

    def __init__(
        self, program: Path, os_user: OSUser, folder: Path, postgres_folder: Path, superuser: Login
    ) -> None:
        self.socket_path = folder / ".s.PGSQL.6432"
        output = subprocess.run([program, "--version"], check=True, capture_output=True, text=True)
        self.version = output.stdout.partition("\n")[0].removeprefix("PgBouncer ").strip()
        self._program = program
        self._os_user = os_user
        self._folder = folder
        self.postgres_folder = postgres_folder
        self._superuser = superuser
        self._console_login = Login(CONSOLE_USER, secrets.token_urlsafe(32))
        self._process: _os_processes.ServerProcess | None = None

    async def start(self) -> None:
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
        if self._process is not None:
            await self._process.stop()
            self._process = None

    @property
    def running(self) -> bool:
        """Tell whether it was started and not stopped since."""
        return self._process is not None

    def trust_roles(self, roles: Sequence[str]) -> None:
        """Let roles in without a password; all others prove theirs, but for the superuser."""
        own = (
            f"local {CONSOLE_DATABASE} {self._console_login.user} password\n"
            f"local all {self._superuser.user} reject\n"
        )
        self._os_user.write_file(self._folder / "hba.conf", own + hba_rules(roles))
        # PgBouncer would look the roles up in PostgreSQL, even though they need no password.
        logins = [self._console_login, self._superuser, *map(Login, roles)]
        lines = (
            f"{quote_identifier(login.user)} {quote_identifier(login.password)}\n"
            for login in logins
        )
        self._os_user.write_file(self._folder / "users.txt", "".join(lines))

    async def reload(self) -> None:
        await execute(self.socket_path, self._console_login, CONSOLE_DATABASE, "RELOAD")

    @property
    def _version_number(self) -> tuple[int, ...]:
        return tuple(int(part) for part in re.findall(r"\d+", self.version)[:2])
