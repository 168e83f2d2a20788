"""The hook that PyInstaller runs for azpg; `nox -s frozen` builds and runs a whole program."""

from __future__ import annotations

import runpy
import tomllib
from importlib import metadata
from pathlib import Path

from azpg._pyinstaller.hook_folders import hook_folders
from azpg._tls.roots import PEM_FILE

ROOT = Path(__file__).parents[1]


def test_the_hook_collects_the_root_certificates() -> None:
    """Without this file each connection of a frozen program fails."""
    (folder,) = hook_folders()
    # A hook that is given the wrong destination is found only when the program runs
    datas = runpy.run_path(str(Path(folder, "hook-azpg.py")))["datas"]
    assert (str(PEM_FILE), "azpg/_tls") in datas


def test_pyinstaller_finds_the_hook() -> None:
    """The entry point names a function that returns the hook's folder."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    ((name, value),) = project["entry-points"]["pyinstaller40"].items()
    entry = metadata.EntryPoint(name, value, "pyinstaller40")
    assert entry.name == "hook-dirs"
    assert entry.load()() == hook_folders()
