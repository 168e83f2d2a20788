"""The pinned roots as the file that libpq wants: chosen by fingerprint, kept where it is safe."""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import sys
import tempfile
from binascii import a2b_base64, b2a_base64
from contextlib import suppress
from functools import cache, reduce
from importlib import import_module
from operator import xor
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from azpg._clouds import AZURE_ROOTS
from azpg.errors import ConfigError, TLSError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OWN = Path(__file__).with_name("roots.pem")
"""Every root of Azure's, for those that certifi has dropped."""

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


@cache
def bundle(roots: frozenset[str]) -> Bundle:
    """Return the one bundle of this process for a set of SHA-256 fingerprints."""
    return Bundle(roots)


class Root:
    """One root certificate, and whose copy of it this is."""

    def __init__(self, der: bytes, source: str) -> None:
        self.der = der
        self.source = source


def pem(roots: frozenset[str]) -> bytes:
    """Return the certificates with these fingerprints, from certifi and else from azpg's own."""
    return _joined({name: root.der for name, root in certificates(roots).items()})


def certificates(roots: frozenset[str]) -> dict[str, Root]:
    """Return the certificates with these fingerprints by fingerprint.

    Raise `ConfigError` where there is none, `TLSError` where they cannot be read.
    """
    found: dict[str, Root] = {}
    unread = None
    for source, read in (("azpg", OWN.read_bytes), ("certifi", _certifis)):
        try:
            text = read().decode("latin-1")
        except (ImportError, OSError) as error:
            unread = error
            continue
        found |= {name: Root(der, source) for name, der in _read(text) if name in roots}
    missing = sorted(roots - found.keys())
    if missing and unread is not None:
        hint = (
            "is a file descriptor free (ulimit -n), and are azpg's and certifi's own files there?"
        )
        raise TLSError(f"the pinned roots cannot be read: {unread}", kind="root-file", hint=hint)
    if missing:
        raise ConfigError(
            [f"no certificate with the SHA-256 {name} is in certifi or azpg" for name in missing]
        )
    return found


def _certifis() -> bytes:
    import certifi  # noqa: PLC0415  # late: only who makes a bundle pays for it

    return Path(certifi.where()).read_bytes()


def _read(text: str) -> Iterator[tuple[str, bytes]]:
    """Yield each certificate's fingerprint, and itself."""
    sha256 = _sha256()
    for part in text.split(_BEGIN)[1:]:
        with suppress(ValueError):  # no base64: another file's trouble
            der = a2b_base64(part.partition(_END)[0])
            yield sha256(der).hexdigest(), der


def _sha256() -> Callable[[bytes], Any]:
    """Return the hash, late: not where the bundle is the caller's own."""
    # Python's own where it was built with it: all of OpenSSL is loaded with hashlib's
    try:
        module = import_module("_sha2" if sys.version_info >= (3, 12) else "_sha256")
    except ImportError:
        module = import_module("hashlib")
    return cast("Callable[[bytes], Any]", module.sha256)


def _joined(found: dict[str, bytes]) -> bytes:
    """Return certificates as the one PEM text that there is of them."""
    return b"".join(_to_pem(found[name]) for name in sorted(found))


def _to_pem(der: bytes) -> bytes:
    text = b2a_base64(der, newline=False)
    lines = [text[i : i + 64] for i in range(0, len(text), 64)]
    return b"\n".join([_BEGIN.encode(), *lines, _END.encode(), b""])


def _look(path: str) -> tuple[int, ...] | None:
    """Return what one stat tells of a file: any write to it changes one of these."""
    try:
        seen = os.lstat(path)
    except OSError:
        return None
    return seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns


class Bundle:
    """A PEM file of some roots, checked before each use, and made anew where it is not right.

    It is right when its certificates have the roots' fingerprints, and nothing else is in it. So a
    process that finds the file of an earlier one need not look for them in certifi.
    """

    def __init__(self, roots: frozenset[str]) -> None:
        self.roots = roots
        self._path = ""
        self._seen: tuple[int, ...] | None = None

    def path(self) -> str:
        """Return the file's path; one stat where nothing has touched the file."""
        path = self._path
        if self._seen is None or _look(path) != self._seen:
            self._path = path = self._settle()
            self._seen = _look(path)
        return path

    def _settle(self) -> str:
        for place in (_cache_folder, _private_folder):
            with suppress(OSError):
                return self._put_in(place())
        certificates(self.roots)  # or it is told which is nowhere
        return str(OWN)

    def _put_in(self, folder: str) -> str:
        _check(os.lstat(folder), stat.S_ISDIR)
        name = reduce(xor, (int(root, 16) for root in self.roots)) >> 128
        path = os.path.join(folder, f"roots-{name:032x}.pem")
        if not self._holds(path):
            content = pem(self.roots)
            written, temporary = tempfile.mkstemp(dir=folder)
            try:
                with open(written, "wb") as file:
                    file.write(content)
                os.replace(temporary, path)
            except OSError:
                os.unlink(temporary)
                raise
            if not self._holds(path):
                raise PermissionError(path)
        return path

    def _holds(self, path: str) -> bool:
        with suppress(OSError), open(path, "rb", opener=_open_no_link) as file:
            _check(os.fstat(file.fileno()), stat.S_ISREG)
            content = file.read()
            with suppress(OSError):
                if self.roots == AZURE_ROOTS and content == OWN.read_bytes():
                    return True  # without a look at each
            found = dict(_read(content.decode("latin-1")))
            return found.keys() == self.roots and _joined(found) == content
        return False


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0))


def _check(seen: os.stat_result, is_kind: Callable[[int], bool]) -> None:
    """Raise PermissionError unless it is what it should be, ours, and nobody else can write it."""
    if not is_kind(seen.st_mode):
        raise PermissionError("a link, or no file of its kind")
    if sys.platform != "win32" and (seen.st_uid != os.geteuid() or seen.st_mode & 0o022):
        raise PermissionError("somebody else's, or open to others")


def _cache_folder() -> str:
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA", "")
    elif sys.platform == "darwin":
        base = os.path.expanduser("~/Library/Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not os.path.isabs(base):
        raise FileNotFoundError("no home folder")
    folder = os.path.join(base, "azpg")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    return folder


def _private_folder() -> str:
    folder, maker = tempfile.mkdtemp(prefix="azpg-"), os.getpid()

    def remove() -> None:
        if os.getpid() == maker:  # a forked child may still exit after, or before, its parent
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


def libpqs_file() -> str:
    """Return where libpq looks for the user's own roots, whether there are any or not."""
    if sys.platform == "win32":
        return os.path.join(os.environ.get("APPDATA", ""), "postgresql", "root.crt")
    return os.path.join(os.path.expanduser("~"), ".postgresql", "root.crt")
