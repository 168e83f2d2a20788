"""Near misses: other drivers' connection strings, misspelled keywords, hosts with a port. Pure.

No message quotes a value that may hold part of a password.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from azpg._clouds import cloud_for_host, is_dns_label

from .options import OPTION_NAMES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

# What other drivers, ORMs and the portal call libpq's keywords
_ALIASES = {
    "data source": "host",
    "database": "dbname",
    "database_name": "dbname",
    "db": "dbname",
    "hostname": "host",
    "initial catalog": "dbname",
    "passwd": "password",
    "prepared_statement_cache_size": "prepare_threshold",
    "pwd": "password",
    "server": "host",
    "ssl": "sslmode",
    "ssl mode": "sslmode",
    "statement_cache_size": "prepare_threshold",
    "timeout": "connect_timeout",
    "uid": "user",
    "user id": "user",
    "userid": "user",
    "username": "user",
}

_PLACEHOLDER = r"(?i)[{<\[]\s*your[ _-][^{}<>\[\]]*[}>\]]"


# User and password, if there are any, end at the first "@", as for libpq. A further "@" is part of
# a password.
_URI = r"(?s)postgres(?:ql)?://([^/@]*@)?+[^@?]*(\?.*)?"


def unknown_keyword_error(name: str, known: Collection[str]) -> str:
    """Return the problem with a keyword that neither libpq nor azpg has."""
    suggestion = _suggestion(name, known)
    if not suggestion and not re.fullmatch("[a-z_]{1,30}", name):
        return (
            "an option is neither libpq's nor azpg's; it is not shown, because it may be part of a "
            "password: write host=… user=… password='…', or a postgresql:// URI"
        )
    return f"{name!r} is not a libpq or azpg keyword" + suggestion


def _suggestion(name: str, known: Collection[str]) -> str:
    if name in OPTION_NAMES:
        return f": it is an azpg option: pass it as an argument, not in the conninfo (⟦{name}=…⟧)"
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
        "the URI has an '@' or '/' in the user's name or the password: percent-encode it there (@ "
        "is %40, / is %2F)"
    )


_COMMANDS = (
    r"psql|pg_\w+|pgbench|pgcli|usql|(?:create|drop|vacuum|reindex|cluster)(?:db|user)|azpg|az|sudo|"
    r"docker|kubectl"
)
_COMMAND = (
    rf"(?i)[$>#]?\s*(?:(?:export|set|setx)\s|\$env:|(?:\w+=\S+\s+)*(?:{_COMMANDS})(?:\.exe)?\s)"
)
_SCHEME = r"([A-Za-z][A-Za-z0-9.+-]{0,30}):/"
_URL_ASSIGNMENT = r"(?:[A-Z][A-Z0-9_]*|\w*(?:conninfo|dsn|string|uri|url))\s*=\s*['\"]?(?:jdbc:)?[A-Za-z][\w+]*://"
_QUOTES = ('""', "''", "``", "<>", "\u201c\u201d", "\u2018\u2019")
_OTHER_SCHEMES = frozenset(
    {
        *("cockroachdb", "gis", "http", "https", "mysql", "pg", "pgsql", "postgis", "postgresqls"),
        *("psql", "psycopg", "redshift", "timescale", "timescaledb", "timescalegis"),
    }
)


def not_a_conninfo_error(conninfo: str) -> str | None:
    """Return the problem with a text that is no connection string, even if libpq could parse it."""
    text = conninfo.strip()
    if re.match(_COMMAND, text):
        return (
            "the connection string is a whole command line: pass only what the command connects "
            "to, 'host=… dbname=… user=…' or 'postgresql://…', without the command, its options "
            "and its quotes"
        )
    if re.match(_URL_ASSIGNMENT, text):
        return (
            "the connection string is an assignment of a URL: pass only the URL, without the name, "
            "the '=' and the quotes"
        )
    if len(text) > 1 and text[0] + text[-1] in _QUOTES:
        return "the connection string has quotes or brackets around it: leave them out"
    scheme = re.match(_SCHEME, text)
    if scheme is None:
        return None
    name = scheme[1].lower()
    if re.match("postgres(ql)?://", text):
        is_libpqs = conninfo == conninfo.lstrip()
        return (
            None if is_libpqs else "the connection string has white space before it: leave it out"
        )
    if name == "jdbc" or re.match(r"postgres(ql)?\+\w+://", text):
        return None  # libpq cannot parse it
    if name in ("postgres", "postgresql"):
        return "the URI must begin with 'postgresql://', in lower case and with two slashes"
    shown = f", not with '{name}://'" if name in _OTHER_SCHEMES else ""
    return f"the URI must begin with 'postgresql://'{shown}"


def unreadable_conninfo_error(conninfo: str, reason: str, known: Collection[str]) -> str:
    """Return the problem with a conninfo that libpq cannot parse.

    Args:
        conninfo: the text; of its values only names are quoted.
        reason: libpq's message.
        known: the keywords that libpq has.
    """
    text = conninfo.strip()
    if text.lower().startswith("jdbc:"):
        return f"the connection string is a JDBC URL: write it in libpq's form, {_from_jdbc(text)}"
    if re.match(r"[\w ]+=[^;]*;", text):
        return ado_net_error(text)
    if scheme := re.match(r"(postgres(?:ql)?)\+\w+://", text):
        return (
            f"the connection string is a SQLAlchemy URL: write "
            f"'{scheme[1]}://' without the '+driver'"
        )
    if name := unknown_keyword(reason):
        return _unknown_in_conninfo_error(name, conninfo, known)
    return (
        "the connection string is invalid: it is neither keyword=value pairs nor a postgresql:// "
        "URI. In pairs, put single quotes around a value with spaces (password='a b'). In a URI, "
        "percent-encode special characters (@ is %40, / is %2F)"
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
        "the connection string has an unknown option before '=' or '&'. If it is part of a "
        "password, put the password in single quotes (in a URI: percent-encode it)"
    )


_EXAMPLE = "host=… port=… dbname=… user=…"


def ado_net_error(text: str) -> str:
    """Return the problem with an ADO.NET string, and the same string in libpq's form."""
    return (
        f"the connection string is in ADO.NET's form: write it in libpq's form, "
        f"{_from_ado_net(text)}"
    )


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


def bracketed_word(value: str) -> str | None:
    """Return a value without white space around it if it is wholly one word in brackets, or None.

    The brackets are those of documentation (`<password>`, `[password]`, `{password}`) and of
    variables that nothing has replaced (`${PASSWORD}`, `$(PASSWORD)`, `{{ password }}`,
    `%PASSWORD%`).
    """
    value = value.strip()
    return value if re.fullmatch(_BRACKETED_WORD, value) else None


def bracketed_name(value: str) -> str | None:
    """Return a bracketed word that names a parameter, such as `<user>`, or None.

    A group or a database may have brackets in its name.
    """
    word = bracketed_word(value)
    words = re.findall("[a-z]+", word.lower()) if word else []
    return word if not _PARAMETER_WORDS.isdisjoint(words) else None


def secret_placeholder_error(name: str, value: str) -> str | None:
    """Return the problem with a secret that is still a placeholder; it is not quoted."""
    if not (placeholder(value) or bracketed_word(value)):
        return None
    return (
        f"{name} is still a placeholder, a word in brackets: write the real value, or leave it out "
        f"to use Microsoft Entra"
    )


def client_id_error(client_id: str) -> str | None:
    """Return the problem with a client ID that is nearly right, or None."""
    if client_id.endswith(("\n", "\r")):
        return f"⟦client_id⟧ {STRIP_LINE_BREAK}"
    if found := placeholder(client_id) or bracketed_word(client_id):
        return f"⟦client_id⟧ is still the placeholder {found}: write the identity's client ID"
    return None


_WORD = r"\s*[A-Za-z]+(?:[ _.-]+[A-Za-z]+)*\s*"
_BRACKETED_WORD = (
    rf"\$?\{{{_WORD}\}}|\$?\{{\{{{_WORD}\}}\}}|\$?\({_WORD}\)|\[{_WORD}\]|<{_WORD}>|<<{_WORD}>>"
    rf"|%{_WORD}%"
)
_PARAMETER_WORDS = frozenset(
    {
        *("account", "database", "databasename", "db", "dbname", "dbuser", "email", "host"),
        *("hostname", "id", "identity", "login", "name", "password", "port", "role", "server"),
        *("user", "userid", "username"),
    }
)


def following_parameter(value: str, known: Collection[str]) -> str | None:
    """Return the separator after which a value continues with another parameter, or None."""
    if "=" not in value:  # as in nearly all values, which saves building the pattern
        return None
    names = "|".join(map(re.escape, sorted({*known, *_ALIASES}, key=len, reverse=True)))
    found = re.search(rf"([;,&])\s*({names})\s*=", value, re.IGNORECASE)
    return found[1] if found else None


def is_quoted(value: str) -> bool:
    """Return whether a value has quotes around it that belong to the syntax of some file."""
    return len(value) > 2 and value[0] == value[-1] and value[0] in "\"'"


def host_error(keyword: str, host: str, *, needs_server: bool = False) -> str | None:
    """Return the problem with one host of a list, or None; do not pass Unix sockets.

    Args:
        keyword: "server", "host" or "hostaddr".
        host: The text.
        needs_server: Whether only hosts of Azure are allowed, and no `server` is given.
    """
    if host.endswith(("\n", "\r")):
        return STRIP_LINE_BREAK
    name = placeholder(host) or bracketed_word(host)
    if name and "." not in name:
        return f"is still the placeholder {name}: write the server's name"
    if re.search(r"[=;?]", host):
        return (
            "contains other parameters too: pass the text as the connection string, the first "
            f"argument, in libpq's form (host=… port=… dbname=… user=…), and leave out ⟦{keyword}=⟧"
        )
    problem = _shape_problem(host)
    if problem is None:
        return None
    if re.search(r"\S\s+\S", host):
        return f'{problem}: write one name, or a list separated by commas, ⟦{keyword}="a,b"⟧'
    fix = _write_host(keyword, host, needs_server=needs_server)
    if "://" in host:
        fix = f"{fix}, or pass the whole URL as the connection string (postgresql://…)"
    return f"{problem}: {fix}"


STRIP_LINE_BREAK = (
    "ends in a line break, as a file does that echo wrote, or a Kubernetes secret made from one: "
    "write printf in place of echo, or .strip() where the value is read"
)


def _shape_problem(host: str) -> str | None:
    """Return what a text contains that is no part of a host's name or address, or None."""
    if is_quoted(host):
        return "has quotes around it, which an env file of docker keeps"
    if re.match(r"[A-Za-z][\w+.-]*:/|(tcp|https?):", host):
        return "contains the beginning of a URL"
    if re.search(r"\s", host):
        return "contains white space"
    if "@" in host:
        return "contains a user"
    if "/" in host or "\\" in host:
        return "contains a path"
    if re.fullmatch(r"\[[^\]]*\](:\d*)?", host):
        return "contains an IPv6 address in brackets"
    if re.fullmatch(r"[^:]+:\d{1,5}", host):
        return "contains a port"
    if ":" in host and not _is_ip(host):
        return "contains more than a name"
    if not re.fullmatch(r"[\w.:%-]*", host):
        return "contains a character that no host name has"
    return None


_HOST_IN_TEXT = re.compile(
    r"""(?x)
    (?P<before> \s* ["'`<]? (?: [A-Za-z][\w+.-]*:/{1,3} | //? | tcp: | https?: )? (?: .*@ )? )
    (?P<name> [A-Za-z0-9](?:[\w.-]*\w)? | \[[0-9A-Fa-f:.%]+\] ) \.?
    (?: [:,]\s* (?P<port> \d{1,5} ) )?
    (?: [/\\] .* )?
    ["'`>]? \s*
    """,
    re.DOTALL | re.ASCII,
)


def _write_host(keyword: str, text: str, *, needs_server: bool) -> str:
    """Return the instruction to write a host without what does not belong to it."""
    found = _HOST_IN_TEXT.fullmatch(text)
    # Next to a user or in a URL, what looks like a host may be part of a password
    may_be_secret = re.search(r"@|^\s*\W?[A-Za-z][\w+.-]*:/", text)
    is_azure = found is not None and cloud_for_host(found["name"]) is not None
    if found is None or (may_be_secret and not is_azure):
        example = (
            '⟦server="myserver"⟧' if keyword == "server" or needs_server else f'⟦{keyword}="…"⟧'
        )
        return f"write only the name, {example}, a port as ⟦port=⟧, and a user as ⟦user=⟧"
    name = found["name"].strip("[]")
    port = f", port={found['port']}" if found["port"] else ""
    is_short_name = is_dns_label(name) and "_" not in name and name != "localhost"
    if is_azure or keyword == "hostaddr" or (keyword == "host" and not needs_server):
        return f'write ⟦{keyword}="{name}"{port}⟧'
    if is_short_name and not name.isdecimal():
        return f'write ⟦server="{name}"{port}⟧'
    return (
        f'write ⟦server="myserver", host="{name}"{port}⟧, with the server\'s Azure name as '
        f"⟦server=⟧"
    )


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
