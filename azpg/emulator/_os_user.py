"""The operating system user that the real servers run as, and the folder they run in."""

import os
import pwd
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ._errors import EmulatorError

# PostgreSQL and PgBouncer refuse to run as root. The first of these users that exists is used.
_UNPRIVILEGED_USERS = ("postgres", "nobody")
# The path of a Unix socket has at most 107 bytes, and the servers' part of it needs about 60.
_MAX_BASE_LENGTH_BYTES = 45


@dataclass(frozen=True, slots=True)
class OSUser:
    """The operating system user of the servers.

    Args:
        uid: The user's number.
        gid: The number of the user's group.
        must_switch: Whether this process is root and has to start the servers as another user.
    """

    uid: int
    gid: int
    must_switch: bool

    @property
    def popen_options(self) -> dict[str, Any]:
        """Return the arguments that make `subprocess.Popen` run a program as this user."""
        if not self.must_switch:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def chown(self, path: Path) -> None:
        """Make this user the owner of a file or folder."""
        if self.must_switch:
            os.chown(path, self.uid, self.gid)

    def write_file(self, path: Path, text: str) -> None:
        """Write a file as this user and let only this user read it.

        The user could replace a file in their folder by a symbolic link. If root wrote the file,
        it could be led to overwrite any file of the machine.
        """
        self._run_script('umask 077 && exec cat > "$0"', path, text)

    def make_folder(self, path: Path) -> None:
        """Make a folder as this user and let only this user enter it."""
        self._run_script('exec mkdir -m 700 "$0"', path)

    def can_run(self, program: Path) -> bool:
        """Return whether the user can read a program and its libraries."""
        try:
            subprocess.run(
                [program, "--version"],
                check=True,
                capture_output=True,
                cwd="/",
                **self.popen_options,
            )
        except (OSError, subprocess.CalledProcessError):
            return False
        return True

    def _run_script(self, script: str, path: Path, stdin: str = "") -> None:
        subprocess.run(
            ["/bin/sh", "-c", script, path],
            check=True,
            input=stdin.encode(),
            env={"PATH": os.defpath},
            cwd="/",
            **self.popen_options,
        )


def server_os_user() -> OSUser:
    """Return the user to run the servers as: the current user, or if that is root, another one.

    Raises:
        EmulatorError: If the servers cannot run as any user of this machine.
    """
    if os.geteuid() != 0:
        try:
            pwd.getpwuid(os.geteuid())
        except KeyError:
            raise EmulatorError(
                f"The current user has the number {os.geteuid()} but no name, and PostgreSQL's "
                "initdb insists on one. Give it an entry in /etc/passwd, in a Dockerfile with "
                f"RUN useradd --uid {os.geteuid()} app."
            ) from None
        return OSUser(os.geteuid(), os.getegid(), must_switch=False)
    for name in _UNPRIVILEGED_USERS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return OSUser(entry.pw_uid, entry.pw_gid, must_switch=True)
    raise EmulatorError(
        "PostgreSQL refuses to run as root, and there is neither a user 'postgres' nor 'nobody' "
        "to run it as. Add one: useradd --system postgres."
    )


def make_runtime_folder(os_user: OSUser) -> Path:
    """Make the emulator's folder.

    It is in the temporary folder if the user of the servers can enter that and its path is short
    enough for Unix sockets, otherwise in /tmp.
    """
    base = tempfile.gettempdir()
    is_usable = len(base) <= _MAX_BASE_LENGTH_BYTES and re.fullmatch(r"[\w/.+-]+", base)
    if not is_usable or not _can_enter(os_user, base):
        base = "/tmp"  # noqa: S108  # mkdtemp makes a private folder in it
    folder = Path(tempfile.mkdtemp(prefix="azpg-emulator-", dir=base))
    if os_user.must_switch:
        # The servers' user has to enter this folder to reach its own folder inside it.
        folder.chmod(0o711)
    return folder


def _can_enter(os_user: OSUser, folder: str) -> bool:
    if not os_user.must_switch:
        return True
    for path in (Path(folder), *Path(folder).parents):
        status = path.stat()
        if status.st_uid == os_user.uid:
            execute_bit = 0o100
        elif status.st_gid == os_user.gid:
            execute_bit = 0o010
        else:
            execute_bit = 0o001
        if not status.st_mode & execute_bit:
            return False
    return True
