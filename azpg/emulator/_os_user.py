"""Whom the real servers run as, and the folder they live in."""

import os
import pwd
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ._errors import EmulatorError

# PostgreSQL and PgBouncer refuse to run as root.
_UNPRIVILEGED_USERS = ("postgres", "nobody")
# A Unix socket's path has at most 107 bytes; the servers' own part needs about 60 of them.
_MAX_BASE_LENGTH_BYTES = 45


@dataclass(frozen=True, slots=True)
class OSUser:
    """Name the system user of the servers; `switch` is for when we are root."""

    uid: int
    gid: int
    must_switch: bool

    @property
    def popen_options(self) -> dict[str, Any]:
        """Return the arguments that make a child process run as this user."""
        if not self.must_switch:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def chown(self, path: Path) -> None:
        if self.must_switch:
            os.chown(path, self.uid, self.gid)

    def write_file(self, path: Path, text: str) -> None:
        """Write a file as this user, who alone can read it.

        In a folder of that user's, root could be led to any file of the machine by a link.
        """
        self._run('umask 077 && exec cat > "$0"', path, text)

    def make_folder(self, path: Path) -> None:
        """Make a folder as this user, to whom alone it is open."""
        self._run('exec mkdir -m 700 "$0"', path)

    def can_run(self, program: Path) -> bool:
        """Tell whether the user reaches a program and its libraries."""
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

    def _run(self, script: str, path: Path, text: str = "") -> None:
        subprocess.run(
            ["/bin/sh", "-c", script, path],
            check=True,
            input=text.encode(),
            env={"PATH": os.defpath},
            cwd="/",
            **self.popen_options,
        )


def server_os_user() -> OSUser:
    """Return the caller's own account, or one that the servers accept when we are root."""
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
    """Make the emulator's folder where the account reaches it and socket paths stay short."""
    base = tempfile.gettempdir()
    fits = len(base) <= _MAX_BASE_LENGTH_BYTES and re.fullmatch(r"[\w/.+-]+", base)
    if not fits or not _can_enter(os_user, base):
        base = "/tmp"  # noqa: S108  # mkdtemp makes a folder of our own in it
    folder = Path(tempfile.mkdtemp(prefix="azpg-emulator-", dir=base))
    if os_user.must_switch:
        # The servers' user passes through; it reads and writes only in the folder that is its own.
        folder.chmod(0o711)
    return folder


def _can_enter(os_user: OSUser, folder: str) -> bool:
    if not os_user.must_switch:
        return True
    for path in (Path(folder), *Path(folder).parents):
        state = path.stat()
        if state.st_uid == os_user.uid:
            open_to_it = state.st_mode & 0o100
        elif state.st_gid == os_user.gid:
            open_to_it = state.st_mode & 0o010
        else:
            open_to_it = state.st_mode & 0o001
        if not open_to_it:
            return False
    return True
