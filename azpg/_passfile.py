"""The password file of one command, in libpq's format: format and parse it. Pure.

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
"""Set for a command whose password is text, so that azpg in the command finds the file."""

_USER_LINES_HEADER = b"# Below is a copy of your own password file.\n"

_DEFAULT_SOCKET_FOLDERS = ("/tmp", "/run/postgresql", "/var/run/postgresql")  # noqa: S108  # only compared

_LINE_PATTERN = ":".join([r"((?:[^:\\]|\\.)*)"] * 5)


class PasswordKey(NamedTuple):
    """What libpq looks up a password by."""

    host: str
    port: str
    user: str


def password_keys(params: Mapping[str, str]) -> list[PasswordKey]:
    """Return the keys that libpq looks up for these parameters, one for each host of a list."""
    hosts = params.get("host", "").split(",")
    addresses = params.get("hostaddr", "").split(",")
    names = [host or address for host, address in zip_longest(hosts, addresses, fillvalue="")]
    ports = params["port"].split(",")
    if len(ports) == 1:
        ports *= len(names)
    user = params.get("user", "")
    keys = []
    for name, port in zip(names, ports, strict=True):
        keys.append(PasswordKey(name, port, user))
        if name in _DEFAULT_SOCKET_FOLDERS:
            # libpq looks up localhost for its default folder, which is one of them in each build
            keys.append(PasswordKey("localhost", port, user))
    return list(dict.fromkeys(keys))


def format_passfile(keys: Iterable[PasswordKey], password: str, user_lines: bytes) -> bytes:
    """Return the content of a password file with one password for all keys.

    Args:
        keys: The keys to which the password applies.
        password: The password.
        user_lines: The content of the user's own password file, which follows.

    Raises:
        ConfigError: A value contains a line break.
    """
    lines = []
    invalid = set()
    for key in keys:
        invalid |= {name for name, value in key._asdict().items() if _has_line_break(value)}
        lines.append(_format_line(key, password))
    problems = [f"{name} contains a line break, and {_REASON}" for name in sorted(invalid)]
    if _has_line_break(password):
        problems.append(
            f"password contains a line break, and {_REASON}: remove the line break, or set another "
            f"password (ALTER ROLE … PASSWORD '…')"
        )
    if problems:
        raise ConfigError(problems)
    return _join(lines, user_lines)


_REASON = "a command gets its password from a password file, which has one entry on each line"


def _format_line(key: PasswordKey, password: str) -> str:
    host, port, user = map(_escape_field, key)
    return f"{host}:{port}:*:{user}:{_escape(password)}\n"


def _join(lines: Iterable[str], user_lines: bytes) -> bytes:
    # libpq takes the first line that matches
    content = "".join(lines).encode()
    return content + _USER_LINES_HEADER + user_lines if user_lines else content


def parse_passfile(data: bytes) -> dict[PasswordKey, str]:
    """Return the passwords in a file of `format_passfile`, without those of the user's lines."""
    passwords = {}
    for line in data.partition(_USER_LINES_HEADER)[0].decode(errors="replace").split("\n"):
        if fields := re.fullmatch(_LINE_PATTERN, line):
            host, port, _, user, password = (
                re.sub(r"\\(.)", r"\1", each) for each in fields.groups()
            )
            passwords[PasswordKey(host, port, user)] = password
    return passwords


def _has_line_break(value: str) -> bool:
    return not {"\n", "\r", "\0"}.isdisjoint(value)


def _escape_field(value: str) -> str:
    # A field * matches anything, and a line that begins with # is a comment
    escaped = _escape(value)
    return f"\\{escaped}" if value == "*" or value.startswith("#") else escaped


def _escape(value: str) -> str:
    return re.sub(r"([\\:])", r"\\\1", value)
