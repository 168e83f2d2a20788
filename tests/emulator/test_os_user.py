"""Files of the servers' user, written by an emulator that runs as root."""

from __future__ import annotations

import pwd
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from azpg.emulator._os_user import OSUser

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def os_user() -> OSUser:
    """Return an ordinary user, as root runs the servers."""
    entry = pwd.getpwnam("nobody")
    return OSUser(entry.pw_uid, entry.pw_gid, must_switch=True)


@pytest.fixture
def folder(os_user: OSUser) -> Iterator[Path]:
    """Return a folder of that user; unlike pytest's, the user can enter the folders above it."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o711)
        folder = Path(name, "private")
        folder.mkdir(mode=0o700)
        os_user.chown(folder)
        yield folder


@pytest.mark.root
def test_root_follows_no_symbolic_link(tmp_path: Path, folder: Path, os_user: OSUser) -> None:
    """A symbolic link in place of a file leads to no file of root's."""
    roots_file = tmp_path / "roots"
    roots_file.write_text("kept")
    (folder / "hba.conf").symlink_to(roots_file)
    with pytest.raises(subprocess.CalledProcessError):
        os_user.write_file(folder / "hba.conf", "changed")
    (folder / "server-2").symlink_to(tmp_path / "made")
    with pytest.raises(subprocess.CalledProcessError):
        os_user.make_folder(folder / "server-2")
    assert roots_file.read_text() == "kept"
    assert roots_file.stat().st_uid == 0
    assert not (tmp_path / "made").exists()


@pytest.mark.root
def test_written_files_are_private_to_the_server_user(folder: Path, os_user: OSUser) -> None:
    """A file belongs to that user and only that user can read it, when overwritten as well."""
    for text in ("first ünd $HOME `id`", ""):
        os_user.write_file(folder / "a file", text)
        state = (folder / "a file").stat()
        assert (folder / "a file").read_text() == text
        assert (state.st_uid, state.st_mode & 0o777) == (os_user.uid, 0o600)
