"""Where the root certificate's file is: a folder that no other user can make once it is gone.

What `azpg emulator` prints to export outlives the emulator in a shell. If another user could make
the file again, that shell's programs would trust that user's server.
"""

import contextlib
import os
import pwd
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path


def make(private: Path) -> Path:
    """Make a folder that only the current user can read, or make again after its end.

    It is in the user's runtime, state or home folder. Without one that is safe it is in `private`,
    under a name that nobody can guess or list: a user who makes `private` again does not know it.
    """
    for place in _places():
        with contextlib.suppress(OSError):
            resolved = place.resolve(strict=True)
            if _is_closed_to_others(resolved):
                return Path(tempfile.mkdtemp(prefix=".azpg-emulator-", dir=resolved))
    folder = private / secrets.token_hex(16)
    folder.mkdir(mode=0o700)
    return folder


def _places() -> Iterator[Path]:
    for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME", "HOME"):
        place = Path(os.environ.get(name, ""))
        if place.is_absolute():
            yield place
    with contextlib.suppress(KeyError):
        yield Path(pwd.getpwuid(os.geteuid()).pw_dir)


def _is_closed_to_others(folder: Path) -> bool:
    """Tell whether only this user and root can make anything in a folder, and in those above it.

    A sticky folder such as /tmp does not count: what has been removed from it, others can make.
    """
    states = [path.stat() for path in (folder, *folder.parents)]
    return all(state.st_uid in {0, os.geteuid()} and not state.st_mode & 0o022 for state in states)
