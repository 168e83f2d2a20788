"""The root certificates that servers are verified with, as a file that libpq can read.

libpq reads the package's own file: whoever can change it can change the code, so it needs no copy
and no check. Only another set of roots (`Cloud(roots=...)`) is written, where no other user can
change it: into a sealed memfd on Linux, otherwise into a private temporary folder.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import stat
import sys
import tempfile
from binascii import a2b_base64, b2a_base64
from contextlib import suppress
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from azpg._clouds import AZURE_ROOTS
from azpg._memfd import create_sealed_file
from azpg.errors import ConfigError, TLSError

if TYPE_CHECKING:
    from collections.abc import Iterator

PEM_FILE = Path(__file__).with_name("roots.pem")
"""Every root certificate of Azure's list, also those that certifi has dropped."""

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


# The file


def root_file(fingerprints: frozenset[str]) -> str:
    """Return the path of a PEM file with exactly the roots of these SHA-256 fingerprints.

    Raise `ConfigError` if there is no such certificate, `TLSError` if they cannot be read, or
    cannot be kept where no other user can change them.
    """
    if fingerprints == AZURE_ROOTS and _has_own_file():
        return str(PEM_FILE)
    return _other_root_file(fingerprints).path()


@cache
def _has_own_file() -> bool:
    # In a zip there is none; a program frozen without azpg's data has none either
    return PEM_FILE.is_file()


@cache
def _other_root_file(fingerprints: frozenset[str]) -> RootFile:
    return RootFile(fingerprints)


class RootFile:
    """The file of one set of roots; it is made again if it is no longer the one that was made.

    A daemon that closes all descriptors closes this one too, and its number is then another file.
    """

    def __init__(self, fingerprints: frozenset[str]) -> None:
        self.fingerprints = fingerprints
        self._made: tuple[str, tuple[int, int] | None] = ("", None)

    def path(self) -> str:
        """Return the file's path."""
        path, identity = self._made
        if identity is None or _identity(path) != identity:
            path = self._make()
            self._made = path, _identity(path)
        return path

    def _make(self) -> str:
        content = pem(self.fingerprints)
        descriptor = create_sealed_file("azpg-roots.pem", content, mode=0o644)
        if descriptor is not None:
            return f"/proc/self/fd/{descriptor}"
        try:
            return _write_private_file(content)
        except OSError as error:
            raise TLSError(
                f"the root certificates of this cloud cannot be written: {error}",
                kind="root-file",
                hint="close some file descriptors (or raise ulimit -n), or set TMPDIR to a folder "
                "that only you can write to; or write the roots to a file yourself and pass it as "
                "sslrootcert=",
            ) from None


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _write_private_file(content: bytes) -> str:
    folder, process = tempfile.mkdtemp(prefix="azpg-"), os.getpid()

    def remove() -> None:
        if os.getpid() == process:  # a forked child may exit before its parent
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    path = os.path.join(folder, "roots.pem")
    Path(path).write_bytes(content)
    if replaceable_by(path) is not None:
        raise PermissionError(f"another user could exchange files below {folder}")
    return path


def shared_path(path: str, *, inherit: bool = False) -> str:
    """Return a path under which other processes of this user find the same file.

    `/proc/self/fd/3` is another file in every process. `inherit` keeps the file open in a command
    that takes this process's place.
    """
    head, _, descriptor = path.rpartition("/")
    if head != "/proc/self/fd":
        return path
    if inherit:
        os.set_inheritable(int(descriptor), True)
    return f"/proc/{os.getpid()}/fd/{descriptor}"


# Certificates


class Root:
    """One root certificate, and where its bytes come from."""

    def __init__(self, der: bytes, source: str) -> None:
        self.der = der
        self.source = source


def pem(fingerprints: frozenset[str]) -> bytes:
    """Return the certificates with these fingerprints as one PEM text."""
    found = certificates(fingerprints)
    return b"".join(_to_pem(found[name].der) for name in sorted(found))


def certificates(fingerprints: frozenset[str]) -> dict[str, Root]:
    """Return the certificates with these fingerprints, by fingerprint.

    Raise `ConfigError` if there is no such certificate, `TLSError` if they cannot be read.
    """
    found: dict[str, Root] = {}
    unread = None
    for source, read in (("azpg", _own_pem), ("certifi", _certifi_pem)):
        try:
            text = read().decode("latin-1")
        except (ImportError, OSError) as error:
            unread = unread or error
            continue
        found |= {name: Root(der, source) for name, der in parse_pem(text) if name in fingerprints}
    missing = sorted(fingerprints - found.keys())
    if missing and unread is not None:
        raise TLSError(
            f"the root certificates cannot be read: {unread}", kind="root-file", hint=_unread_hint()
        )
    if missing:
        raise ConfigError(
            [f"no certificate with the SHA-256 {name} is in certifi or azpg" for name in missing]
        )
    return found


def _own_pem() -> bytes:
    if _has_own_file():
        return PEM_FILE.read_bytes()
    return resources.files(__package__).joinpath("roots.pem").read_bytes()


def _certifi_pem() -> bytes:
    import certifi  # noqa: PLC0415  # late: only another set of roots needs it

    return Path(certifi.where()).read_bytes()


def _unread_hint() -> str:
    if not _has_own_file():
        return (
            "azpg/_tls/roots.pem is missing from this program: collect azpg's data files "
            "(PyInstaller: --collect-data azpg), or install azpg again"
        )
    return "close some file descriptors, or raise ulimit -n"


def parse_pem(text: str) -> Iterator[tuple[str, bytes]]:
    """Yield each certificate's SHA-256 fingerprint and its bytes."""
    for part in text.split(_BEGIN)[1:]:
        with suppress(ValueError):  # no base64: another file's fault
            der = a2b_base64(part.partition(_END)[0])
            yield hashlib.sha256(der).hexdigest(), der


def _to_pem(der: bytes) -> bytes:
    text = b2a_base64(der, newline=False)
    lines = [text[i : i + 64] for i in range(0, len(text), 64)]
    return b"\n".join([_BEGIN.encode(), *lines, _END.encode(), b""])


# Files of the user


def user_root_crt() -> str:
    """Return where libpq looks for the user's own roots, whether the file exists or not."""
    if sys.platform == "win32":
        return os.path.join(os.environ.get("APPDATA", ""), "postgresql", "root.crt")
    return os.path.join(os.path.expanduser("~"), ".postgresql", "root.crt")


def replaceable_by(path: str) -> Literal["owner", "anyone"] | None:
    """Return who else could exchange a file: its owner, if that is neither this user nor root.

    "anyone" says that the other user owns it, or a folder on the way to it, below a folder that
    everyone may write to, as everyone may create files there. A file that does not exist belongs
    to whoever creates it. POSIX only.
    """
    if sys.platform == "win32" or path == "system":
        return None
    foreign = writable = False
    for name in {os.path.abspath(path), os.path.realpath(path)}:
        for part in (Path(name), *Path(name).parents):
            try:
                found = os.lstat(part)
            except OSError:
                continue
            foreign = foreign or found.st_uid not in (0, os.geteuid())
            writable = writable or (
                stat.S_ISDIR(found.st_mode) and bool(found.st_mode & stat.S_IWOTH)
            )
    if not foreign:
        return None
    return "anyone" if writable else "owner"
