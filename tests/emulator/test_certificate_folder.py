"""Where the root certificate's file is: no other user can make it again after the end."""

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

Make = Callable[..., Path]


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """Return a folder as the emulator's servers have it, below one that is everyone's."""
    folder = tmp_path / "private"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
def make(private: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Make a folder with the environment given, and with a home that is given or does not exist."""

    def make(home: Path | None = None, **variables: Path | str) -> Path:
        for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME", "HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))
        entry = list(pwd.getpwuid(os.geteuid()))
        entry[5] = str(home or "/nonexistent")
        monkeypatch.setattr(pwd, "getpwuid", lambda _uid: pwd.struct_passwd(entry))
        return make_certificate_folder(private)

    return make


@pytest.fixture
def safe() -> Iterator[Path]:
    """Return a folder that nobody but root and the user can reach: one in the user's real home."""
    home = pwd.getpwuid(os.geteuid()).pw_dir
    with tempfile.TemporaryDirectory(prefix=".azpg-tests-", dir=home) as folder:
        yield Path(folder)


def test_only_the_user_can_replace_the_root_certificate(emulator: Emulator) -> None:
    """From the file up to the root, no other user may make or rename anything."""
    file = Path(emulator.root_certificate)
    assert file.stat().st_uid == os.geteuid()
    for folder in file.parents:
        state = folder.stat()
        assert state.st_uid in {0, os.geteuid()}
        assert not state.st_mode & 0o022, f"{folder} is open to others"


def test_the_runtime_folder_is_preferred(safe: Path, make: Make) -> None:
    """Of several folders that would do, it is the one that is gone after the session."""
    runtime, state, home = (safe / name for name in ("runtime", "state", "home"))
    for folder in (runtime, state, home):
        folder.mkdir(mode=0o700)
    places = {"XDG_RUNTIME_DIR": runtime, "XDG_STATE_HOME": state, "HOME": home}
    for name, folder in list(places.items()):
        made = make(**places)
        assert made.parent == folder
        assert made.stat().st_mode & 0o777 == 0o700
        del places[name]
    assert make(home=home).parent == home


def test_invalid_folders_are_not_used(safe: Path, make: Make) -> None:
    """A variable that is relative, empty or names no folder counts for nothing."""
    file = safe / "file"
    file.touch()
    for value in ("", "relative", "/nonexistent", file):
        assert make(XDG_RUNTIME_DIR=value, HOME=safe).parent == safe


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777, 0o722])
def test_a_folder_that_others_can_write_to_is_not_used(
    make: Make, private: Path, tmp_path: Path, mode: int
) -> None:
    """What another user could make again, in a sticky folder too, is no place for it."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(mode)
    (shared / "mine").mkdir(mode=0o700)
    for place in (shared, shared / "mine"):
        assert make(XDG_RUNTIME_DIR=place, HOME=place).parent == private


def test_symbolic_links_are_resolved(safe: Path, make: Make, private: Path) -> None:
    """The path that is handed out holds no link that another user could change."""
    (safe / "home").mkdir(mode=0o700)
    link = private / "link"
    link.symlink_to(safe / "home")
    assert make(HOME=link).parent == safe / "home"


def test_without_a_private_folder_the_name_is_random(make: Make, private: Path) -> None:
    """Who makes the emulator's folder in /tmp again does not know what was in it."""
    made = make()
    assert made.parent == private
    assert len(made.name) >= 32
    assert make().name != made.name
    assert made.stat().st_mode & 0o777 == 0o700


AS_NOBODY = """
import os, sys
from azpg.emulator import Emulator
with Emulator(postgres=sys.argv[1], pgbouncer=False) as emulator:
    print(emulator.root_certificate, os.stat(emulator.root_certificate).st_uid)
"""


@pytest.mark.root
def test_a_user_without_a_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a folder of their own has the file all the same, out of others' sight."""
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
