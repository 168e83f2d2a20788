"""The password file of one command, in libpq's format: written here, and read again by azpg. Pure.

https://www.postgresql.org/docs/current/libpq-pgpass.html
"""

from __future__ import annotations

import re
from itertools import zip_longest
from typing import TYPE_CHECKING, NamedTuple

from .errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

VARIABLE = "AZPG_PASSFILE"
"""Set to the file's path for a command whose password is text, so that azpg in it finds it."""

_COPY = b"# Below is a copy of your own password file.\n"

_DEFAULT_SOCKET_FOLDERS = ("/tmp", "/run/postgresql", "/var/run/postgresql")  # noqa: S108  # only compared

_LINE = ":".join([r"((?:[^:\\]|\\.)*)"] * 5)


class Place(NamedTuple):
    """What libpq finds a password by."""

    host: str
    port: str
    user: str


def places(params: Mapping[str, str]) -> list[Place]:
    """Return what libpq looks up for these parameters: one place for each host of a list."""
    hosts = params.get("host", "").split(",")
    addresses = params.get("hostaddr", "").split(",")
    names = [host or address for host, address in zip_longest(hosts, addresses, fillvalue="")]
    ports = params["port"].split(",")
    if len(ports) == 1:
        ports *= len(names)
    user = params.get("user", "")
    found = []
    for name, port in zip(names, ports, strict=True):
        found.append(Place(name, port, user))
        if name in _DEFAULT_SOCKET_FOLDERS:
            # Each build of libpq has one of them as its default, and looks up localhost for it
            found.append(Place("localhost", port, user))
    return list(dict.fromkeys(found))


def content(found: Iterable[Place], password: str, own: bytes) -> bytes:
    """Return a password file for these places, followed by the lines of the user's own file.

    Raise `ConfigError` for a value that a line cannot hold.
    """
    lines = []
    broken = set()
    for place in found:
        broken |= {name for name, value in place._asdict().items() if _breaks(value)}
        host, port, user = map(_escaped, place)
        lines.append(f"{host}:{port}:*:{user}:{_backslashed(password)}\n")
    problems = [f"{name} contains a line break, and {_WHY}" for name in sorted(broken)]
    if _breaks(password):
        problems.append(
            f"password contains a line break, and {_WHY}: remove the line break, or set another "
            f"password (ALTER ROLE … PASSWORD '…')"
        )
    if problems:
        raise ConfigError(problems)
    return "".join(lines).encode() + (_COPY + own if own else b"")


_WHY = "a command gets its password from a password file, which has one entry on each line"


def passwords(data: bytes) -> dict[Place, str]:
    """Return the passwords of a file made by `content`, without those of the user's own file."""
    found = {}
    for line in data.partition(_COPY)[0].decode(errors="replace").split("\n"):
        if fields := re.fullmatch(_LINE, line):
            host, port, _, user, password = (
                re.sub(r"\\(.)", r"\1", each) for each in fields.groups()
            )
            found[Place(host, port, user)] = password
    return found


def _breaks(value: str) -> bool:
    return not {"\n", "\r", "\0"}.isdisjoint(value)


def _escaped(value: str) -> str:
    # A lone asterisk would match everything, and a line that begins with # is a comment
    escaped = _backslashed(value)
    return f"\\{escaped}" if value == "*" or value.startswith("#") else escaped


def _backslashed(value: str) -> str:
    return re.sub(r"([\\:])", r"\\\1", value)
