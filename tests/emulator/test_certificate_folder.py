"""The folder of the root certificate's file, which no other user can recreate."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from azpg.emulator import Emulator
from azpg.emulator._process.certificate_folder import make_certificate_folder

MakeFolder = Callable[..., Path]


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """Return a private folder as the emulator's servers have it."""
    folder = tmp_path / "private"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
def make_folder(private: Path, monkeypatch: pytest.MonkeyPatch) -> MakeFolder:
    """Return a function that makes a folder with these environment variables and this home."""

    def make_folder(home: Path | None = None, **variables: Path | str) -> Path:
        for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME", "HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))
        entry = list(pwd.getpwuid(os.geteuid()))
        entry[5] = str(home or "/nonexistent")
        monkeypatch.setattr(pwd, "getpwuid", lambda _uid: pwd.struct_passwd(entry))
        return make_certificate_folder(private)

    return make_folder


@pytest.fixture
def home_folder() -> Iterator[Path]:
    """Return a folder that only the user and root can write to, in the user's real home."""
    home = pwd.getpwuid(os.geteuid()).pw_dir
    with tempfile.TemporaryDirectory(prefix=".azpg-tests-", dir=home) as folder:
        yield Path(folder)


def test_only_the_user_can_replace_the_root_certificate(emulator: Emulator) -> None:
    """No other user can write to any folder above the file."""
    file = Path(emulator.root_certificate)
    assert file.stat().st_uid == os.geteuid()
    for folder in file.parents:
        state = folder.stat()
        assert state.st_uid in {0, os.geteuid()}
        assert not state.st_mode & 0o022, f"{folder} is open to others"


def test_the_runtime_folder_is_preferred(home_folder: Path, make_folder: MakeFolder) -> None:
    """The runtime folder comes before the state and home folders, because it is temporary."""
    runtime, state, home = (home_folder / name for name in ("runtime", "state", "home"))
    for folder in (runtime, state, home):
        folder.mkdir(mode=0o700)
    folders = {"XDG_RUNTIME_DIR": runtime, "XDG_STATE_HOME": state, "HOME": home}
    for name, expected_parent in list(folders.items()):
        folder = make_folder(**folders)
        assert folder.parent == expected_parent
        assert folder.stat().st_mode & 0o777 == 0o700
        del folders[name]
    assert make_folder(home=home).parent == home


def test_invalid_folders_are_not_used(home_folder: Path, make_folder: MakeFolder) -> None:
    """A variable that is empty, relative or does not name a folder is ignored."""
    file = home_folder / "file"
    file.touch()
    for value in ("", "relative", "/nonexistent", file):
        assert make_folder(XDG_RUNTIME_DIR=value, HOME=home_folder).parent == home_folder


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777, 0o722])
def test_a_folder_that_others_can_write_to_is_not_used(
    make_folder: MakeFolder, private: Path, tmp_path: Path, mode: int
) -> None:
    """A folder that another user can write to is not used, even if it is sticky."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(mode)
    (shared / "mine").mkdir(mode=0o700)
    for folder in (shared, shared / "mine"):
        assert make_folder(XDG_RUNTIME_DIR=folder, HOME=folder).parent == private


def test_symbolic_links_are_resolved(
    home_folder: Path, make_folder: MakeFolder, private: Path
) -> None:
    """The returned path contains no symbolic link that another user could replace."""
    (home_folder / "home").mkdir(mode=0o700)
    link = private / "link"
    link.symlink_to(home_folder / "home")
    assert make_folder(HOME=link).parent == home_folder / "home"


def test_without_a_private_folder_the_name_is_random(
    make_folder: MakeFolder, private: Path
) -> None:
    """A user who recreates the emulator's folder does not know the name of the folder in it."""
    folder = make_folder()
    assert folder.parent == private
    assert len(folder.name) >= 32
    assert make_folder().name != folder.name
    assert folder.stat().st_mode & 0o777 == 0o700


AS_NOBODY = """
import os, sys
from azpg.emulator import Emulator
with Emulator(postgres=sys.argv[1], pgbouncer=False) as emulator:
    print(emulator.root_certificate, os.stat(emulator.root_certificate).st_uid)
"""


@pytest.mark.root
def test_a_user_without_a_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a home folder of their own gets the file under a random name."""
    monkeypatch.setenv("HOME", "/root")
    setpriv = shutil.which("setpriv")
    assert setpriv is not None
    caps = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    user = [setpriv, "--reuid=65534", "--regid=65534", "--clear-groups", *caps]
    postgres = max(Path("/usr/lib/postgresql").glob("*"), key=lambda folder: int(folder.name))
    done = subprocess.run(
        [*user, sys.executable, "-c", AS_NOBODY, str(postgres)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    file, owner = done.stdout.split()
    assert owner == "65534"
    assert len(Path(file).parent.name) >= 32
    assert not Path(file).parents[1].exists()
