"""Near misses: other drivers' connection strings, misspelled keywords, hosts with a port. Pure.

No message quotes a value that may hold part of a password.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from .options import OPTION_NAMES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

# What other drivers, ORMs and the portal call libpq's keywords
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


# User and password, if there are any, end at the first "@", as for libpq. A further "@" is part of
# a password.
_URI = r"(?s)postgres(?:ql)?://([^/@]*@)?+[^@?]*(\?.*)?"


def unknown_keyword_error(name: str, known: Collection[str]) -> str:
    """Return the problem with a keyword that neither libpq nor azpg has."""
    suggestion = _suggestion(name, known)
    if not suggestion and not re.fullmatch("[a-z_]{1,30}", name):
        return (
            "there is a keyword that neither libpq nor azpg has; it is not shown, as it may be a "
            "piece of a password: write host=… user=… password='…', or a postgresql:// URI"
        )
    return f"{name!r} is not a libpq or azpg keyword" + suggestion


def _suggestion(name: str, known: Collection[str]) -> str:
    if name in OPTION_NAMES:
        return f": it is an azpg option: pass it as an argument, not in the conninfo ({name}=…)"
    meant = _ALIASES.get(name.lower())
    if meant is None:
        choices = [*known, *OPTION_NAMES]
        close = difflib.get_close_matches(name.lower(), choices, n=1, cutoff=0.7)
        meant = close[0] if close else None
    return f": write {meant!r}" if meant else ""


def ambiguous_uri_error(conninfo: str) -> str | None:
    """Return the problem with a URI of which libpq would take part of the password for the host."""
    if not re.match("postgres(?:ql)?://", conninfo) or re.fullmatch(_URI, conninfo):
        return None
    return (
        "the URI has an '@' or '/' that belongs to the user's name or the password: "
        "percent-encode them there (@ is %40, / is %2F)"
    )


_COMMAND = r"""\$?\s*(export\s|set\s|(\w+=\S*\s+)*(psql|pg_\w+|pgbench|vacuumdb)(\.exe)?\s)"""
_SCHEME = r"([A-Za-z][A-Za-z0-9.-]{0,30}):/"


def not_a_conninfo_error(conninfo: str) -> str | None:
    """Return the problem with a text that is no connection string, even if libpq could parse it."""
    text = conninfo.strip()
    if re.match(_COMMAND, text):
        return (
            "this is a command line: pass only the connection string in it, without the command, "
            "its options and the quotes"
        )
    if len(text) > 1 and text[0] in "\"'`" and text[-1] == text[0]:
        return "the connection string is in quotes that belong to a shell: leave them out"
    scheme = re.match(_SCHEME, text)
    if scheme is None or re.match("postgres(ql)?://", text) or scheme[1].lower() == "jdbc":
        return None
    if scheme[1].lower() in ("postgres", "postgresql"):
        return "a URI begins with 'postgresql://', in lower case and with two slashes"
    return "this is a URL of another kind: libpq's begins with 'postgresql://'"


def unreadable_conninfo_error(conninfo: str, reason: str, known: Collection[str]) -> str:
    """Return the problem with a conninfo that libpq cannot parse.

    Args:
        conninfo: the text; of its values only names are quoted.
        reason: libpq's message.
        known: the keywords that libpq has.
    """
    text = conninfo.strip()
    if text.lower().startswith("jdbc:"):
        return f"this is a JDBC URL; libpq's form is: {_from_jdbc(text)}"
    if re.match(r"[\w ]+=[^;]*;", text):
        return ado_net_error(text)
    if scheme := re.match(r"(postgres(?:ql)?)\+\w+://", text):
        return (
            f"this is a SQLAlchemy URL; libpq's begins with '{scheme[1]}://', without the '+driver'"
        )
    if name := unknown_keyword(reason):
        return _unknown_in_conninfo_error(name, conninfo, known)
    return (
        "conninfo cannot be read: it is neither keyword=value pairs nor a postgresql:// URI; in "
        "pairs put single quotes round a value with spaces (password='a b'), and in a URI "
        "percent-encode what is special (@ is %40, / is %2F)"
    )


def unknown_keyword(reason: str) -> str:
    """Return the keyword that libpq's message is about, because libpq does not have it."""
    named = re.match(r'invalid (?:connection option|URI query parameter):? "([^"]*)"', reason)
    return named[1] if named else ""


def _unknown_in_conninfo_error(name: str, conninfo: str, known: Collection[str]) -> str:
    # Part of a password may have been parsed as a keyword: it is named only if it cannot be that
    has_secret = "pass" in conninfo.lower() or re.search("://.*@", conninfo, re.DOTALL)
    if _suggestion(name, known) or not has_secret:
        return unknown_keyword_error(name, known)
    return (
        "conninfo has a word before '=' or '&' that is not a libpq keyword; if it is part of "
        "a password, put the password in single quotes (in a URI: percent-encode it)"
    )


_EXAMPLE = "host=… port=… dbname=… user=…"


def ado_net_error(text: str) -> str:
    """Return the problem with an ADO.NET string, and the same string in libpq's form."""
    return f"this is an ADO.NET string; libpq's form is: {_from_ado_net(text)}"


def _from_ado_net(text: str) -> str:
    pairs = (part.partition("=") for part in text.split(";") if "=" in part)
    return _to_conninfo((name.strip().lower(), value.strip()) for name, _, value in pairs)


def _from_jdbc(text: str) -> str:
    try:
        url = urlsplit(text[len("jdbc:") :])
        port = str(url.port or "")
    except ValueError:
        return _EXAMPLE
    # A JDBC URL has no place for user and password before the host: they could be anywhere
    others = [part for part in url.query.split("&") if not part.lower().startswith("user=")]
    if "@" in "".join([url.netloc, url.path, *others, url.fragment]):
        return _EXAMPLE
    return _to_conninfo(
        [
            ("host", url.hostname or ""),
            ("port", port),
            ("dbname", url.path.strip("/")),
            *((name.lower(), value) for name, value in parse_qsl(url.query)),
        ]
    )


def _to_conninfo(parameters: Iterable[tuple[str, str]]) -> str:
    shown = {"host", "port", "dbname", "user", "password", "sslmode"}
    values = {_ALIASES.get(name, name): value for name, value in parameters if value}
    values |= {"sslmode": "verify-full"} if "sslmode" in values else {}
    return " ".join(
        f"{name}={'…' if name == 'password' else _mask_value(value)}"
        for name, value in values.items()
        if name in shown
    )


def _mask_value(value: str) -> str:
    # Other values may be part of a password that was parsed wrong
    return value if re.fullmatch(r"[\w.,:@#-]+", value) else "…"


def placeholder(value: str) -> str | None:
    """Return the placeholder of the portal in a value, such as `{your_password}`, or None."""
    found = "your" in value.lower() and re.search(_PLACEHOLDER, value)
    return found[0] if found else None


def placeholder_errors(secrets: Mapping[str, str]) -> list[str]:
    """Return the problems with secrets that are still a placeholder of the portal."""
    return [
        f"{name} still holds the portal's placeholder {found}: write your own, or leave it out to "
        f"sign in with Microsoft Entra"
        for name, value in secrets.items()
        if (found := placeholder(value))
    ]


def following_parameter(value: str, known: Collection[str]) -> str | None:
    """Return the separator after which a value continues with another parameter, or None."""
    if "=" not in value:  # as in nearly all values, which saves building the pattern
        return None
    names = "|".join(map(re.escape, sorted({*known, *_ALIASES}, key=len, reverse=True)))
    found = re.search(rf"([;,&])\s*({names})\s*=", value, re.IGNORECASE)
    return found[1] if found else None


def host_error(keyword: str, host: str) -> str | None:
    """Return the problem with one host of a list, or None; do not pass Unix sockets."""
    if re.fullmatch(r"[A-Za-z0-9.-]*", host):
        return None
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


def to_cli_options(text: str) -> str:
    """Return a message with Python's keywords (`server="a"`) as the command's options."""
    text = text.replace("pgbouncer=True", "--pgbouncer").replace(
        "pgbouncer=False", "--no-pgbouncer"
    )
    text = re.sub(_KEYWORD, lambda found: f"--{found[1].replace('_', '-')} {found[3]}", text)
    return re.sub(_NAMED, lambda found: f"--{found[1].replace('_', '-')}", text)


_KEYWORD = r"\b(server|host|hostaddr|port|dbname|user|client_id|cloud)=([\"'])(.*?)\2"
_NAMED = r"\b(server|host|hostaddr|port|dbname|user|client_id|cloud)=(?=[ .,:;)]|$)"
