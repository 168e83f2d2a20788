"""Make the folder of the root certificate's file, where no other user can replace the file.

A shell still has the variables that `azpg emulator` printed when the emulator has ended. If another
user could then create the file at the same path, programs started from that shell would trust that
user's server.
"""

import contextlib
import os
import pwd
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path


def make_certificate_folder(private: Path) -> Path:
    """Make a folder that only the current user can read or recreate.

    It is in the user's runtime, state or home folder, if no other user can write to that.
    Otherwise it is in `private` and has a random name. Another user can recreate `private` when it
    has been removed, but does not know the name.
    """
    for candidate in _candidates():
        with contextlib.suppress(OSError):
            resolved = candidate.resolve(strict=True)
            if _only_user_can_write(resolved):
                return Path(tempfile.mkdtemp(prefix=".azpg-emulator-", dir=resolved))
    folder = private / _random_name()
    folder.mkdir(mode=0o700)
    return folder


def _random_name() -> str:
    return secrets.token_hex(16)


def _candidates() -> Iterator[Path]:
    for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME", "HOME"):
        candidate = Path(os.environ.get(name, ""))
        if candidate.is_absolute():
            yield candidate
    with contextlib.suppress(KeyError):
        yield Path(pwd.getpwuid(os.geteuid()).pw_dir)


def _only_user_can_write(folder: Path) -> bool:
    """Return whether only this user and root can write to a folder and to those above it.

    A sticky folder such as /tmp does not count, because other users can recreate what was removed.
    """
    for path in (folder, *folder.parents):
        status = path.stat()
        others_can_write = status.st_mode & 0o022
        if status.st_uid not in {0, os.geteuid()} or others_can_write:
            return False
    return True
