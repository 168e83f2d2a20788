"""Other spellings of a connection, shown in libpq's: ADO.NET, JDBC, misspelt keywords. Pure."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

_OPTIONS = ("client_id", "cloud", "credential", "pgbouncer", "retry_timeout", "server")

# The words other drivers, ORMs and the portal use for libpq's keywords.
_ALIASES = {
    "data source": "host",
    "database": "dbname",
    "database_name": "dbname",
    "db": "dbname",
    "hostname": "host",
    "initial catalog": "dbname",
    "passwd": "password",
    "pwd": "password",
    "server": "host",
    "ssl": "sslmode",
    "ssl mode": "sslmode",
    "timeout": "connect_timeout",
    "uid": "user",
    "user id": "user",
    "userid": "user",
    "username": "user",
}

_PLACEHOLDER = re.compile(r"[{<]\s*your[ _-][^{}<>]*[}>]", re.IGNORECASE)


def unknown_keyword(name: str, known: Collection[str]) -> str:
    """Return the sentence for a keyword that neither libpq nor azpg knows."""
    return f"{name!r} is no keyword of libpq's or azpg's" + _suggestion(name, known)


def _suggestion(name: str, known: Collection[str]) -> str:
    right = _ALIASES.get(name.lower()) if name not in _OPTIONS else None
    if right is None:
        close = difflib.get_close_matches(name.lower(), [*known, *_OPTIONS], n=1, cutoff=0.7)
        right = close[0] if close else None
    return f": write {right!r}" if right else ""


def unreadable_conninfo(conninfo: str, why: str, known: Collection[str]) -> str:
    """Return the sentence for a conninfo that libpq cannot read, with no value of it but names."""
    text = conninfo.strip()
    if text.lower().startswith("jdbc:"):
        return f"this is a JDBC URL; libpq's form is: {_from_jdbc(text)}"
    if re.match(r"[\w ]+=[^;]*;", text):
        return f"this is an ADO.NET string; libpq's form is: {_from_ado_net(text)}"
    if scheme := re.match(r"(postgres(?:ql)?)\+\w+://", text):
        return (
            f"this is a SQLAlchemy URL; libpq's begins with '{scheme[1]}://', without the '+driver'"
        )
    if named := re.match(r'invalid (?:connection option|URI query parameter): ?"([^"]*)"', why):
        return _named(named[1], conninfo, known)
    return (
        "conninfo cannot be read: it is neither keyword=value pairs nor a postgresql:// URI; in "
        "pairs put single quotes round a value with spaces (password='a b'), and in a URI "
        "percent-encode what is special (@ is %40, / is %2F)"
    )


def _named(name: str, conninfo: str, known: Collection[str]) -> str:
    # A password with a space and '=' in it is read as a keyword: name only what cannot be one.
    if _suggestion(name, known) or "pass" not in conninfo.lower():
        return unknown_keyword(name, known)
    return (
        "conninfo has a word before '=' or '&' that is no keyword of libpq's; if it is part of "
        "a password, put the password in single quotes (in a URI: percent-encode it)"
    )


def _from_ado_net(text: str) -> str:
    pairs = (part.partition("=") for part in text.split(";") if "=" in part)
    return _pairs((name.strip().lower(), value.strip()) for name, _, value in pairs)


def _from_jdbc(text: str) -> str:
    try:
        url = urlsplit(text[len("jdbc:") :])
        port = str(url.port or "")
    except ValueError:
        return "host=… port=… dbname=… user=…"
    return _pairs(
        [
            ("host", url.hostname or ""),
            ("port", port),
            ("dbname", url.path.strip("/")),
            *((name.lower(), value) for name, value in parse_qsl(url.query)),
        ]
    )


def _pairs(said: Iterable[tuple[str, str]]) -> str:
    shown = {"host", "port", "dbname", "user", "password", "sslmode"}
    values = {_ALIASES.get(name, name): value for name, value in said if value}
    values |= {name: "…" for name in ("password", "sslmode") if name in values}
    if "sslmode" in values:
        values["sslmode"] = "verify-full"
    return " ".join(f"{name}={_quoted(v)}" for name, v in values.items() if name in shown)


def _quoted(value: str) -> str:
    if re.fullmatch(r"[^\s'\\]+", value):
        return value
    return "'" + re.sub(r"([\\'])", r"\\\1", value) + "'"


def placeholder(value: str) -> str | None:
    """Return the portal's placeholder that was left in a value: `{your_password}`, `<your-db>`."""
    found = _PLACEHOLDER.search(value)
    return found[0] if found else None
