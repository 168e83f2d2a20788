"""Spellings of a connection: ADO.NET, JDBC, misspelt keywords, the command line. Pure."""

from __future__ import annotations

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

_PLACEHOLDER = r"(?i)[{<]\s*your[ _-][^{}<>]*[}>]"


# A user and password, if any, and then no more "@": elsewhere it is left from a password. What
# comes before the first "@" is theirs, as to libpq, a "?" in it too.
_URI = r"(?s)postgres(?:ql)?://([^/@]*@)?+[^@?]*(\?.*)?"


def unknown_keyword(name: str, known: Collection[str]) -> str:
    """Return the sentence for a keyword that neither libpq nor azpg knows."""
    return f"{name!r} is no keyword of libpq's or azpg's" + _suggestion(name, known)


def _suggestion(name: str, known: Collection[str]) -> str:
    if name in _OPTIONS:
        return f": it is an option of azpg's, which stands beside the conninfo ({name}=…)"
    right = _ALIASES.get(name.lower())
    if right is None:
        import difflib  # noqa: PLC0415  # late: only for what is misspelt

        close = difflib.get_close_matches(name.lower(), [*known, *_OPTIONS], n=1, cutoff=0.7)
        right = close[0] if close else None
    return f": write {right!r}" if right else ""


def misread_uri(conninfo: str) -> str | None:
    """Return the sentence for a URI of which libpq reads a piece of the password as the host."""
    if not re.match("postgres(?:ql)?://", conninfo) or re.fullmatch(_URI, conninfo):
        return None
    return (
        "the URI has an '@' or '/' that belongs to the user's name or the password: "
        "percent-encode them there (@ is %40, / is %2F)"
    )


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
    if named := re.match(r'invalid (?:connection option|URI query parameter):? "([^"]*)"', why):
        return _named(named[1], conninfo, known)
    return (
        "conninfo cannot be read: it is neither keyword=value pairs nor a postgresql:// URI; in "
        "pairs put single quotes round a value with spaces (password='a b'), and in a URI "
        "percent-encode what is special (@ is %40, / is %2F)"
    )


def _named(name: str, conninfo: str, known: Collection[str]) -> str:
    # A piece of a password may be read as a keyword: name only what cannot be one.
    secret = "pass" in conninfo.lower() or re.search("://.*@", conninfo, re.DOTALL)
    if _suggestion(name, known) or not secret:
        return unknown_keyword(name, known)
    return (
        "conninfo has a word before '=' or '&' that is no keyword of libpq's; if it is part of "
        "a password, put the password in single quotes (in a URI: percent-encode it)"
    )


_FORM = "host=… port=… dbname=… user=…"


def _from_ado_net(text: str) -> str:
    pairs = (part.partition("=") for part in text.split(";") if "=" in part)
    return _pairs((name.strip().lower(), value.strip()) for name, _, value in pairs)


def _from_jdbc(text: str) -> str:
    try:
        url = urlsplit(text[len("jdbc:") :])
        port = str(url.port or "")
    except ValueError:
        return _FORM
    # JDBC has no user and password in the URL's own places: there they may lie anywhere.
    beyond = [part for part in url.query.split("&") if not part.lower().startswith("user=")]
    if "@" in "".join([url.netloc, url.path, *beyond, url.fragment]):
        return _FORM
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
    values |= {"sslmode": "verify-full"} if "sslmode" in values else {}
    return " ".join(
        f"{n}={'…' if n == 'password' else _known(v)}" for n, v in values.items() if n in shown
    )


def _known(value: str) -> str:
    # What is no plain word may be cut out of a password that was not what it looked like.
    return value if re.fullmatch(r"[\w.,:@#-]+", value) else "…"


def placeholder(value: str) -> str | None:
    """Return the portal's placeholder that was left in a value: `{your_password}`, `<your-db>`."""
    found = "your" in value.lower() and re.search(_PLACEHOLDER, value)
    return found[0] if found else None


def on_command_line(text: str) -> str:
    """Return a sentence with Python's keywords (`server="a"`) as they are typed there."""
    text = text.replace("pgbouncer=True", "--pgbouncer").replace(
        "pgbouncer=False", "--no-pgbouncer"
    )
    return re.sub(_KEYWORD, lambda found: f"--{found[1].replace('_', '-')} {found[3]}", text)


_KEYWORD = r"\b(server|host|hostaddr|port|dbname|user|client_id|cloud)=([\"'])(.*?)\2"
