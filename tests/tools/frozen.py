"""Freeze a program with PyInstaller and run it: `python tests/tools/frozen.py FOLDER`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from azpg.emulator import Emulator

PROGRAM = Path(__file__).with_name("frozen_program.py")


def main(folder: Path) -> None:
    """Build the program in a folder, and run it against the emulator."""
    options = ("--noconfirm", "--log-level=WARN", "--noupx", f"--specpath={folder}")
    places = (f"--distpath={folder / 'dist'}", f"--workpath={folder / 'build'}")
    build = (sys.executable, "-m", "PyInstaller", *options, *places, str(PROGRAM))
    subprocess.run(build, check=True)
    program = folder / "dist" / PROGRAM.stem / PROGRAM.stem
    with Emulator(pgbouncer=False) as emulator:
        # PATH is all that the machine's environment gives to it
        environ = {"PATH": os.defpath, **emulator.env}
        subprocess.run([program], check=True, env=environ, cwd="/", timeout=120)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
