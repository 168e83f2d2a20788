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


def make_certificate_folder(private: Path) -> Path:
    """Make a folder that only the current user can read, or make again after its end.

    It is in the user's runtime, state or home folder. Without one that is safe it is in `private`,
    under a name that nobody can guess or list: a user who makes `private` again does not know it.
    """
    for candidate in _candidates():
        with contextlib.suppress(OSError):
            resolved = candidate.resolve(strict=True)
            if _only_user_can_write(resolved):
                return Path(tempfile.mkdtemp(prefix=".azpg-emulator-", dir=resolved))
    folder = private / secrets.token_hex(16)
    folder.mkdir(mode=0o700)
    return folder


def _candidates() -> Iterator[Path]:
    for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME", "HOME"):
        candidate = Path(os.environ.get(name, ""))
        if candidate.is_absolute():
            yield candidate
    with contextlib.suppress(KeyError):
        yield Path(pwd.getpwuid(os.geteuid()).pw_dir)


def _only_user_can_write(folder: Path) -> bool:
    """Tell whether only this user and root can make anything in a folder, and in those above it.

    A sticky folder such as /tmp does not count: what has been removed from it, others can make.
    """
    states = [path.stat() for path in (folder, *folder.parents)]
    return all(state.st_uid in {0, os.geteuid()} and not state.st_mode & 0o022 for state in states)
