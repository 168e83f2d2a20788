"""Run the tests on another Debian, in a chroot: `python tests/tools/chroot.py PLATFORM [ARG ...]`.

debootstrap makes the chroot once, in a cached folder, from the Debian mirror that this machine
uses. Needs root, debootstrap, Debian's keyring and about a gigabyte. Commands in the chroot have
mounts and processes of their own, which end with the command; they share the network with this
machine.
"""

from __future__ import annotations

import os
import re
import shutil
import ssl
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from uv import find_uv_bin

PROJECT = Path(__file__).parents[2]
SERVERS = ("postgresql", "pgbouncer")

SECONDS_OF_A_WEEK = 7 * 24 * 60 * 60

# dash stays process 1 of the namespace and reaps the orphans, so chroot is not `exec`ed.
ENTER = """
set -e
mount --rbind /dev "$1/dev"
mount -t tmpfs -o mode=1777 tmpfs "$1/dev/shm"
mount -t tmpfs -o mode=1777 tmpfs "$1/tmp"
mount -t proc proc "$1/proc"
mount -t sysfs -o ro sysfs "$1/sys"
set +e
chroot "$@"
exit $?
"""

ENVIRONMENT = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "DEBIAN_FRONTEND": "noninteractive",
    "SSL_CERT_FILE": "/opt/ca.pem",
    "UV_PYTHON_DOWNLOADS": "never",
}
PASSED_ON = re.compile(r"(https?|all|no)_proxy|UV_(DEFAULT_|EXTRA_)?INDEX(_URL)?", re.IGNORECASE)
"""The variables that say how to reach packages."""


@dataclass(frozen=True)
class Chroot:
    """A Debian in a folder."""

    name: str
    suite: str
    packages: tuple[str, ...]
    pythons: tuple[str, ...]
    """on which the tests marked `compat` run"""

    @property
    def folder(self) -> Path:
        """Return where it is cached."""
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
        return caches / "azpg" / self.name

    @property
    def made(self) -> Path:
        """Return the file whose content says of what it was made, and whose time says when."""
        return self.folder / "opt" / "made"

    def make(self) -> None:
        """Make it if it is missing, was made of something else or a week ago."""
        contents = " ".join((self.suite, *self.packages))
        is_current = (
            self.made.is_file()
            and self.made.read_text("utf-8") == contents
            and time.time() - self.made.stat().st_mtime < SECONDS_OF_A_WEEK
        )
        if is_current:
            return
        self._bootstrap()
        # debootstrap leaves the package lists of today
        self.run("apt-get", "install", "-qy", "--no-install-recommends", *self.packages)
        self.run("apt-get", "clean")
        self.made.write_text(contents, "utf-8")

    def _bootstrap(self) -> None:
        subprocess.run(["rm", "-rf", "--one-file-system", self.folder], check=True)
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        options = ("--variant=minbase", "--include=ca-certificates")
        subprocess.run(
            ["debootstrap", *options, self.suite, self.folder, *debian_mirror()], check=True
        )
        # No service starts when its package is installed
        policy = self.folder / "usr" / "sbin" / "policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 101\n", "utf-8")
        policy.chmod(0o755)
        clusters = self.folder / "etc" / "postgresql-common" / "createcluster.conf"
        clusters.parent.mkdir()
        clusters.write_text("create_main_cluster = false\n", "utf-8")

    def run(self, *command: str, folder: str = "/") -> None:
        """Run a command in it, in a folder of it."""
        environment = ENVIRONMENT | {
            name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name)
        }
        shutil.copy("/etc/resolv.conf", self.folder / "etc" / "resolv.conf")
        namespaces = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
        variables = [f"{name}={value}" for name, value in environment.items()]
        inside = ("env", "-i", f"--chdir={folder}", *variables, *command)
        subprocess.run([*namespaces, "sh", "-c", ENTER, "sh", self.folder, *inside], check=True)

    def add_project(self) -> None:
        """Copy the project, uv and the certificates that this machine trusts into it."""
        source = self.folder / "src"
        shutil.rmtree(source, ignore_errors=True)
        shutil.copytree(PROJECT, source, symlinks=True, ignore=_not_source)
        shutil.copy(find_uv_bin(), self.folder / "usr" / "local" / "bin" / "uv")
        trusted = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
        debian = "/etc/ssl/certs/ca-certificates.crt"
        shutil.copy(trusted or debian, self.folder / "opt" / "ca.pem")

    def install(self, version: str) -> str:
        """Install azpg and what its tests need for a version of Python, and return that Python."""
        place = f"/opt/python{version}"
        python = f"{place}/bin/python"
        self.run("uv", "venv", "--quiet", "--clear", f"--python=/usr/bin/python{version}", place)
        install = ("uv", "pip", "install", "--quiet", f"--python={python}")
        wanted = ("--constraint=constraints.txt", ".[emulator]", "--group=tests")
        self.run(*install, *wanted, folder="/src")
        return python


PLATFORMS = {
    "debian13": Chroot(
        "debian13", "trixie", ("python3", "python3-venv", *SERVERS), pythons=("3.13",)
    ),
    "sid": Chroot(
        "sid",
        "sid",
        ("python3", "python3-venv", "python3.15", "python3.15-venv", *SERVERS, "wine", "wine64"),
        pythons=("3.14", "3.15"),
    ),
}


def debian_mirror() -> tuple[str, ...]:
    """Return the Debian mirror of this machine's own package sources.

    Without one, as on Ubuntu, debootstrap uses Debian's own.
    """
    apt = Path("/etc/apt")
    places = (apt / "sources.list", *sorted((apt / "sources.list.d").glob("*")))
    for place in places:
        for line in place.read_text("utf-8").splitlines() if place.is_file() else ():
            found = re.search(r"^(?:deb |URIs:).*?(https?://\S+/debian)/?(?:\s|$)", line)
            if found:
                return (found[1],)
    return ()


def _not_source(folder: str, names: list[str]) -> list[str]:
    hidden = {name for name in names if name.startswith(".") and Path(folder) == PROJECT}
    built = {"__pycache__", "_build", "dist"}.intersection(names)
    return sorted(hidden - {".ci", ".github"} | built)


def main(platform: str, *arguments: str) -> None:
    """Run the tests marked `compat`, or on `windows` the list of Windows' checks."""
    if os.geteuid() != 0:
        sys.exit("chroots need root")
    chroot = PLATFORMS["sid" if platform == "windows" else platform]
    chroot.make()
    chroot.add_project()
    if platform == "windows":
        chroot.run(chroot.install("3.14"), "tests/tools/windows.py", *arguments, folder="/src")
        return
    workers = 2 * (os.cpu_count() or 1)
    selected = arguments or ("-m", "compat")
    failed = []
    for version in chroot.pythons:
        python = chroot.install(version)
        # -P: the installed azpg is tested, not the one in this folder
        pytest = (python, "-P", "-m", "pytest", f"--numprocesses={workers}", *selected)
        try:
            chroot.run(*pytest, folder="/src")
        except subprocess.CalledProcessError:
            failed.append(version)
    if failed:
        sys.exit(f"tests failed on Python {', '.join(failed)}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error.cmd[-1]} failed: exit status {error.returncode}")
