"""Spellings of a connection: ADO.NET, JDBC, misspelt keywords, the command line. Pure."""

from __future__ import annotations

import ipaddress
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
    suggestion = _suggestion(name, known)
    if not suggestion and not re.fullmatch("[a-z_]{1,30}", name):
        return (
            "there is a keyword that neither libpq nor azpg has; it is not shown, as it may be a "
            "piece of a password: write host=… user=… password='…', or a postgresql:// URI"
        )
    return f"{name!r} is no keyword of libpq's or azpg's" + suggestion


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


_COMMAND = r"""\$?\s*(export\s|set\s|(\w+=\S*\s+)*(psql|pg_\w+|pgbench|vacuumdb)(\.exe)?\s)"""
_SCHEME = r"([A-Za-z][A-Za-z0-9.-]{0,30}):/"


def mistaken_conninfo(conninfo: str) -> str | None:
    """Return what a text is that is no connection string, whatever libpq would read in it."""
    text = conninfo.strip()
    if re.match(_COMMAND, text):
        return (
            "this is a command line: pass only the connection string in it, without the command, "
            "its options and the quotes"
        )
    if len(text) > 1 and text[0] in "\"'`" and text[-1] == text[0]:
        return "the connection string stands in quotes that belong to a shell: leave them out"
    scheme = re.match(_SCHEME, text)
    if scheme is None or re.match("postgres(ql)?://", text) or scheme[1].lower() == "jdbc":
        return None
    if scheme[1].lower() in ("postgres", "postgresql"):
        return "a URI begins with 'postgresql://', in lower case and with two slashes"
    return "this is a URL of another kind: libpq's begins with 'postgresql://'"


def unreadable_conninfo(conninfo: str, why: str, known: Collection[str]) -> str:
    """Return the sentence for a conninfo that libpq cannot read, with no value of it but names."""
    text = conninfo.strip()
    if text.lower().startswith("jdbc:"):
        return f"this is a JDBC URL; libpq's form is: {_from_jdbc(text)}"
    if re.match(r"[\w ]+=[^;]*;", text):
        return ado_net(text)
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


def ado_net(text: str) -> str:
    """Return the sentence for an ADO.NET string, with libpq's form of it."""
    return f"this is an ADO.NET string; libpq's form is: {_from_ado_net(text)}"


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


# Values that are nearly right


def further_parameters(value: str, known: Collection[str]) -> str | None:
    """Return the separator after which a value goes on with another parameter, or None."""
    names = "|".join(map(re.escape, sorted({*known, *_ALIASES}, key=len, reverse=True)))
    found = re.search(rf"([;,&])\s*({names})\s*=", value, re.IGNORECASE)
    return found[1] if found else None


def misread_host(keyword: str, host: str) -> str | None:
    """Return what is wrong with one host of a list, quoted only as far as it is a host's name.

    A Unix socket is none.
    """
    if "://" in host:
        return f"holds a URL: pass it as the connection string, and leave out {keyword}="
    if re.search(r"\s", host):
        return "holds white space: write one name, or a list separated by commas"
    if "=" in host or ";" in host:
        return (
            "holds more than a name: write host=… port=… user=… with a space between two parameters"
        )
    if "@" in host:
        return f"holds a user: write it as user=, and {keyword}= without it"
    if "/" in host or "\\" in host:
        return "holds a path: write only the name, and a database as dbname="
    if bracketed := re.fullmatch(r"\[([0-9A-Fa-f:.%]+)\](?::(\d+))?", host):
        port = f" and port={bracketed[2]}" if bracketed[2] else ""
        return f"holds an IPv6 address in brackets: write {keyword}={bracketed[1]}{port}"
    if ported := re.fullmatch(r"([\w.-]+):(\d{1,5})", host):
        return f"holds a port: write {keyword}={ported[1]} and port={ported[2]}"
    if ":" in host and not _is_ip(host):
        return "holds more than a name: write only the name, and a port as port="
    if not re.fullmatch(r"[\w.:%-]*", host):
        return "holds a character that no host name has"
    return None


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def on_command_line(text: str) -> str:
    """Return a sentence with Python's keywords (`server="a"`) as they are typed there."""
    text = text.replace("pgbouncer=True", "--pgbouncer").replace(
        "pgbouncer=False", "--no-pgbouncer"
    )
    return re.sub(_KEYWORD, lambda found: f"--{found[1].replace('_', '-')} {found[3]}", text)


_KEYWORD = r"\b(server|host|hostaddr|port|dbname|user|client_id|cloud)=([\"'])(.*?)\2"
