"""Sealed files in memory, which no other user can read and nobody can change. Linux only."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_MFD_NOEXEC_SEAL = 0x8
"""Linux 6.3 has it, and its sysctl `vm.memfd_noexec` may require it. Older kernels reject it."""

_MIN_DESCRIPTOR = 100
"""A shell script opens the descriptors 3 to 9 itself, and would replace an inherited file."""


def create_sealed_file(name: str, content: bytes, *, mode: int) -> int | None:
    """Return the descriptor of a new file in memory, or None if this system has none.

    Args:
        name: A name for people who list the open files of this process.
        content: What the file contains.
        mode: Its permissions, such as 0o600.
    """
    if sys.platform != "linux" or not hasattr(os, "memfd_create"):
        return None
    descriptor = _create(name)
    if descriptor is None:
        return None
    try:
        os.fchmod(descriptor, mode)
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        _seal(descriptor)
        if Path(f"/proc/self/fd/{descriptor}").read_bytes() == content:
            return descriptor
    except OSError:
        pass  # a chroot may have no /proc
    os.close(descriptor)
    return None


def _create(name: str) -> int | None:
    if sys.platform == "linux":
        for flag in (_MFD_NOEXEC_SEAL, 0):
            with suppress(OSError):
                descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | flag)
                return _renumber(descriptor)
    return None


def _seal(descriptor: int) -> None:
    if sys.platform == "linux":
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)


def _renumber(descriptor: int) -> int:
    """Move a file to a descriptor of at least `_MIN_DESCRIPTOR`, if the process may have one."""
    if sys.platform == "linux":
        with suppress(OSError):
            moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _MIN_DESCRIPTOR)
            os.close(descriptor)
            return moved
    return descriptor
