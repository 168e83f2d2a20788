"""The root certificates that servers are verified with, as a file that libpq can read.

The default is a file of this package: a user who can change it can change the code too, so it is
neither copied nor checked. Another set of roots (`Cloud(roots=...)`) is written to a file that no
other user can change: a sealed memfd on Linux, otherwise a file in a private temporary folder.
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
from azpg._libpq import user_file
from azpg._memfd import create_sealed_file
from azpg.errors import ConfigError, TLSError

if TYPE_CHECKING:
    from collections.abc import Iterator

PEM_FILE = Path(__file__).with_name("roots.pem")
"""All root certificates that Azure documents, including those that certifi has removed."""

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


# Root files


def root_file(fingerprints: frozenset[str] | Literal["certifi"]) -> str:
    """Return the path of a PEM file with exactly these root certificates.

    Args:
        fingerprints: SHA-256 fingerprints, in lower-case hex digits; or "certifi" for its file.

    Raises:
        ConfigError: There is no certificate for a fingerprint.
        TLSError: The certificates cannot be read, or the file cannot be written.
    """
    if fingerprints == "certifi":
        return _certifi_file()
    if fingerprints == AZURE_ROOTS and _has_pem_file():
        return str(PEM_FILE)
    return _other_root_file(fingerprints).path()


@cache
def _has_pem_file() -> bool:
    # There is none in a zip file, or in a program that was frozen without azpg's data files
    return PEM_FILE.is_file()


@cache
def _other_root_file(fingerprints: frozenset[str]) -> RootFile:
    return RootFile(fingerprints)


class RootFile:
    """The file of one set of roots, written again if it was deleted or closed.

    A daemon may close all descriptors of its process; another file may then have the descriptor
    of the memfd.
    """

    def __init__(self, fingerprints: frozenset[str]) -> None:
        self.fingerprints = fingerprints
        self._written: tuple[str, tuple[int, int] | None] = ("", None)

    def path(self) -> str:
        """Return the path of the file, which exists."""
        if not self._exists():
            path = self._write()
            self._written = path, _identity(path)
        return self._written[0]

    def _exists(self) -> bool:
        """Return whether the path still leads to the file that was written."""
        path, identity = self._written
        return identity is not None and _identity(path) == identity

    def _write(self) -> str:
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
                "⟦sslrootcert=⟧",
            ) from None


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _write_private_file(content: bytes) -> str:
    folder, process = tempfile.mkdtemp(prefix="azpg-"), os.getpid()

    def remove() -> None:
        if os.getpid() == process:  # not in a forked child
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    path = os.path.join(folder, "roots.pem")
    Path(path).write_bytes(content)
    _check_private(path)
    return path


def _check_private(path: str) -> None:
    if replaceable_by(path) is not None:
        raise PermissionError(f"another user could exchange files below {os.path.dirname(path)}")


def shared_path(path: str, *, inherit: bool = False) -> str:
    """Return the path of a root file for other processes of this user.

    `/proc/self/fd/3` is another file in each process.

    Args:
        path: The path of the root file in this process.
        inherit: Whether to keep the file open in a command that replaces this process.
    """
    head, _, descriptor = path.rpartition("/")
    if head != "/proc/self/fd":
        return path
    if inherit:
        os.set_inheritable(int(descriptor), True)
    return f"/proc/{os.getpid()}/fd/{descriptor}"


# Certificates


class Root:
    """One root certificate: its DER bytes, and their source, "azpg" or "certifi"."""

    def __init__(self, der: bytes, source: str) -> None:
        self.der = der
        self.source = source


def pem(fingerprints: frozenset[str]) -> bytes:
    """Return the certificates with these fingerprints as one PEM file."""
    found = certificates(fingerprints)
    return b"".join(_to_pem(found[name].der) for name in sorted(found))


def certificates(fingerprints: frozenset[str]) -> dict[str, Root]:
    """Return the certificates with these fingerprints, by fingerprint.

    Raises:
        ConfigError: There is no certificate for a fingerprint.
        TLSError: The certificates cannot be read.
    """
    found: dict[str, Root] = {}
    read_error = None
    for source, read in (("azpg", _vendored_pem), ("certifi", _certifi_pem)):
        try:
            text = read().decode("latin-1")
        except (ImportError, OSError) as error:
            read_error = read_error or error
            continue
        found |= {name: Root(der, source) for name, der in _select(text, fingerprints)}
    missing = sorted(fingerprints - found.keys())
    if missing and read_error is not None:
        raise TLSError(
            f"the root certificates cannot be read: {read_error}",
            kind="root-file",
            hint=_read_error_hint(),
        )
    if missing:
        raise ConfigError(
            [f"no certificate with the SHA-256 {name} is in certifi or azpg" for name in missing]
        )
    return found


def _select(text: str, fingerprints: frozenset[str]) -> Iterator[tuple[str, bytes]]:
    for name, der in parse_pem(text):
        if name in fingerprints:
            yield name, der


def _vendored_pem() -> bytes:
    if _has_pem_file():
        return PEM_FILE.read_bytes()
    return resources.files(__package__).joinpath("roots.pem").read_bytes()


def _certifi_pem() -> bytes:
    import certifi  # noqa: PLC0415  # only another set of roots needs it

    return Path(certifi.where()).read_bytes()


def _certifi_file() -> str:
    try:
        import certifi  # noqa: PLC0415  # only a cloud whose roots are not known needs it

        path = certifi.where()
    except (ImportError, OSError) as error:
        path, reason = "", str(error)
    else:
        reason = "certifi's file does not exist"
    if not os.path.isfile(path):
        # libpq would look for another file
        raise TLSError(
            f"the root certificates cannot be read: {reason}",
            kind="root-file",
            hint="install certifi again, or pass your own file of roots as ⟦sslrootcert=⟧",
        )
    return path


def _read_error_hint() -> str:
    if not _has_pem_file():
        return (
            "azpg/_tls/roots.pem is missing from this program: collect azpg's data files "
            "(PyInstaller: --collect-data azpg), or install azpg again"
        )
    return "close some file descriptors, or raise ulimit -n"


def parse_pem(text: str) -> Iterator[tuple[str, bytes]]:
    """Yield the SHA-256 fingerprint and the DER bytes of each certificate."""
    for part in text.split(_BEGIN)[1:]:
        with suppress(ValueError):  # a damaged certificate does not count
            der = a2b_base64(part.partition(_END)[0])
            yield hashlib.sha256(der).hexdigest(), der


def certifi_certificates() -> list[bytes]:
    """Return certifi's certificates in DER form; none if they cannot be read."""
    try:
        text = _certifi_pem().decode("latin-1")
    except (ImportError, OSError):
        return []
    return [der for _, der in parse_pem(text)]


def has_azure_root(path: str) -> bool | None:
    """Return whether a PEM file has any of the pinned roots; None if it cannot be read."""
    try:
        text = Path(path).read_bytes().decode("latin-1")
    except OSError:
        return None
    return any(name in AZURE_ROOTS for name, _ in parse_pem(text))


def _to_pem(der: bytes) -> bytes:
    text = b2a_base64(der, newline=False)
    lines = [text[i : i + 64] for i in range(0, len(text), 64)]
    return b"\n".join([_BEGIN.encode(), *lines, _END.encode(), b""])


# The user's files


def user_root_crt() -> str:
    """Return the path at which libpq looks for the user's root certificates."""
    return user_file("sslrootcert")


def replaceable_by(path: str) -> Literal["owner", "anyone"] | None:
    """Return which other users could replace a file. POSIX only.

    Returns:
        None if the file and all folders above it belong to this user or to root, or do not exist.
        "owner" if one belongs to another user. "anyone" if, in addition, one of the folders is
        world-writable: any user could have created the file or folder there.
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
