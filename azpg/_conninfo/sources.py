"""What each source says: keywords, conninfo, service file, environment, merged as libpq merges.

Below them all stand Service Connector's variables, where nothing else names a server.
"""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg import pq

from azpg import _passfile
from azpg._clouds import is_socket
from azpg._libpq import RESTRICTING_VARIABLES, libpq_info, too_old_for
from azpg._record import Record
from azpg._redact import quote
from azpg.errors import ConfigError

from . import service_connector
from .suggestions import (
    ado_net,
    further_parameters,
    misread_host,
    misread_uri,
    mistaken_conninfo,
    unknown_keyword,
    unreadable_conninfo,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Literal

    By = Literal[
        "keyword", "conninfo", "service file", "environment", "Service Connector", "azpg exec"
    ]


class Said(Record):
    """One value and the source it came from."""

    value: str
    by: By


Merged = dict[str, Said]

_PLACES = {"host", "hostaddr"}
_NAMES = {*_PLACES, "dbname", "port", "sslmode", "user"}
_ALSO_READ = ("PGREQUIRESSL", "PGSERVICEFILE", "PGSYSCONFDIR", _passfile.VARIABLE)


@cache
def _variables() -> frozenset[str]:
    """Return every variable that says where a connection goes, and how."""
    return frozenset(
        {
            *libpq_info().variables.values(),
            *_ALSO_READ,
            *RESTRICTING_VARIABLES,
            *service_connector.VARIABLES,
        }
        - {""}
    )


def environment() -> dict[str, str]:
    """Return those of this process's variables that a connection depends on."""
    held = os.environ
    return {name: held[name] for name in _variables() if name in held}


def surroundings() -> tuple[object, ...]:
    """Return what changes when one of those variables does."""
    # os.environ encodes each name that it is asked for, in Python; the dict below it needs none of
    # that, and this is asked before each connect.
    held = getattr(os.environ, "_data", None)
    if isinstance(held, dict) and os.name == "posix":
        return () if _encoded().isdisjoint(held) else tuple(map(held.get, _encoded()))
    return tuple(map(os.environ.get, _variables()))


@cache
def _encoded() -> frozenset[bytes]:
    return frozenset(map(os.fsencode, _variables()))


def merge(
    conninfo: str,
    keywords: Mapping[str, object],
    environ: Mapping[str, str],
    *,
    server: str | None = None,
) -> tuple[Merged, list[str]]:
    """Return what was said, the strongest source winning, and the problems met while reading."""
    known = libpq_info()
    problems = [
        too_old_for(name) or unknown_keyword(name, known.variables)
        for name in keywords
        if name not in known.variables
    ]
    problems += [
        f"{variable}: {too_old}"
        for variable, keyword in RESTRICTING_VARIABLES.items()
        if environ.get(variable) and (too_old := too_old_for(keyword))
    ]
    own = {name: str(value) for name, value in keywords.items() if value is not None}
    dsn, misread = _read(conninfo)
    problems += misread
    said: Merged = {}
    _add(said, own, "keyword")
    _add(said, dsn, "conninfo")

    if (service := _service(said, environ)) is not None:
        found, problem = read_service(service, environ)
        problems += problem
        _add(said, found, "service file")

    variables = {k: environ[v] for k, v in known.variables.items() if v in environ}
    variables.pop("service", None)
    if environ.get("PGREQUIRESSL", "").startswith("1"):
        variables.setdefault("sslmode", "require")
    _add(said, variables, "environment")

    if server is None and not any(name in said and said[name].value for name in _PLACES):
        found, problem = _connected(environ)
        problems += problem
        for name in _PLACES & found.keys():
            said.pop(name, None)  # an empty one
        _add(said, found, "Service Connector")
    problems += [
        f"{keyword} ({each.by}) holds a NUL, or bytes that are no UTF-8, which libpq cannot be "
        f"handed"
        for keyword, each in said.items()
        if not sendable(each.value)
    ]
    return said, problems


def may_name_a_service(
    conninfo: str, keywords: Mapping[str, object], environ: Mapping[str, str]
) -> bool:
    """Tell whether a service file may count, whose words can be others the next time."""
    # A URI may spell it s%65rvice
    named = "service" in conninfo or "%" in conninfo
    return named or "service" in keywords or "PGSERVICE" in environ


def _read(conninfo: str) -> tuple[dict[str, str], list[str]]:
    if not conninfo:
        return {}, []
    mistaken = mistaken_conninfo(conninfo) or misread_uri(conninfo)
    if mistaken:
        return {}, [mistaken]
    try:
        # Copied out: libpq's own message would quote pieces of a misread password.
        values = {o.keyword.decode(): o.val.decode() for o in parse(conninfo) if o.val is not None}
    except (psycopg.OperationalError, UnicodeError) as error:
        return {}, [unreadable_conninfo(conninfo, str(error), libpq_info().variables)]
    return values, []


def _connected(environ: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return what Service Connector's variables say: nothing, where they name no host."""
    if not (text := environ.get(service_connector.CONNECTION_STRING)):
        return service_connector.keywords(environ), []
    values, problems = _read(text)
    values.pop("service", None)  # read once, above
    problems = [f"{service_connector.CONNECTION_STRING}: {problem}" for problem in problems]
    return values if values.get("host") else {}, problems


def misread(said: Merged, conninfo: str) -> dict[str, str]:
    """Return the problems with values that are nearly right, by keyword; none is quoted whole.

    They are named for what they are before any other rule looks at them.
    """
    found: dict[str, str] = {}
    info = libpq_info()
    for keyword, (value, source) in {k: (v.value, v.by) for k, v in said.items()}.items():
        what = f"{keyword} ({source})"
        if value.endswith(("\n", "\r")):
            found[keyword] = f"{what} ends in a line break: strip it where the value is read"
        elif keyword in info.secrets:
            continue
        elif (source != "keyword" or keyword in _NAMES) and (
            separator := further_parameters(value, info.variables)
        ):
            found[keyword] = (
                ado_net(conninfo)
                if separator == ";" and source == "conninfo"
                else f"{what} goes on with another parameter after {separator!r}: separate "
                f"parameters by spaces (in a URI by '?' and '&')"
            )
        elif keyword in _PLACES:
            hosts = [host for host in value.split(",") if not is_socket(host)]
            wrong = filter(None, (misread_host(keyword, host) for host in hosts))
            if (first := next(wrong, None)) is not None:
                found[keyword] = f"{what} {first}"
    commas = [k for k, v in said.items() if v.by == "conninfo" and v.value.endswith(",")]
    if len(commas) > 1:
        found = dict.fromkeys(commas, "the parameters are separated by commas: use spaces")
    return found


def by(said: Merged, keyword: str) -> By | None:
    """Return who said a keyword."""
    return said[keyword].by if keyword in said else None


def sendable(value: str) -> bool:
    """Tell whether libpq can be handed a value whole."""
    try:
        return b"\0" not in value.encode()  # libpq would read no further than there
    except UnicodeEncodeError:
        return False


def parse(conninfo: str) -> Iterable[pq.ConninfoOption]:
    """Return libpq's reading of a key/value string or URI."""
    text = conninfo.encode()
    if b"\0" in text:
        raise UnicodeError("a NUL")
    return pq.Conninfo.parse(text)


def read_service(name: str, environ: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the section of a service file, and the problems met, looking where libpq looks."""
    named = environ.get("PGSERVICEFILE")
    paths = [os.path.expanduser("~/.pg_service.conf") if named is None else named]
    if folder := environ.get("PGSYSCONFDIR"):
        paths.append(f"{folder}/pg_service.conf")
    for path in paths:
        try:
            # Bytes: to libpq a lone carriage return ends no line.
            lines = Path(path).read_bytes().decode().split("\n")
        except (FileNotFoundError, NotADirectoryError):
            if path == named:
                return {}, [f"the service file {named!r} (PGSERVICEFILE) does not exist"]
            continue
        except (OSError, UnicodeError) as error:
            return {}, [f"the service file {path!r} cannot be read: {error}"]
        if (section := _section(name, lines)) is not None:
            return _service_keywords(section, path)
    places = " or ".join(map(repr, paths))
    shown = quote(name, r"[\w. -]{1,60}")
    return {}, [f"no service {shown} in {places}: add a section for it, or correct the name"]


def command_passwords(environ: Mapping[str, str]) -> dict[_passfile.PasswordKey, str]:
    """Return the passwords that `azpg exec` has handed to the command this process belongs to.

    Any other password file does not count: a forgotten line would replace Entra.

    Raise `ConfigError` if the file cannot be read.
    """
    path = environ.get(_passfile.VARIABLE)
    if not path or path != environ.get("PGPASSFILE"):
        return {}
    try:
        return _passfile.parse_passfile(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(
            f"the password file of this command (PGPASSFILE={path}) cannot be read: "
            f"{error.strerror}. azpg exec made it for the same user, for as long as the command "
            f"runs: start this program by azpg exec too, or pass password= or credential="
        ) from None


def _section(name: str, lines: Iterable[str]) -> list[str] | None:
    found: list[str] | None = None
    for line in (each.strip(" \t\r\v\f") for each in lines):
        if line.startswith("["):
            if found is not None:
                break
            # libpq compares the text behind the bracket and does not look further.
            if line.startswith(f"[{name}]"):
                found = []
        elif found is not None and line and not line.startswith("#"):
            found.append(line)
    return found


def _service_keywords(lines: Iterable[str], path: str) -> tuple[dict[str, str], list[str]]:
    known = libpq_info().variables
    values: dict[str, str] = {}
    problems = []
    for line in lines:
        keyword, equals, value = line.partition("=")
        if keyword in known and equals and keyword != "service":
            values.setdefault(keyword, value)
        elif problem := too_old_for(keyword):
            problems.append(f"the service file {path!r}: {problem}")
        else:
            # The line itself is not shown: it may hold a password.
            problems.append(
                f"the service file {path!r} has a line that is not keyword=value with a "
                f"keyword of libpq's" + (f" ({keyword!r})" if _is_word(keyword) and equals else "")
            )
    return values, problems


def _is_word(text: str) -> bool:
    return re.fullmatch("[a-z_]{1,30}", text) is not None


def _add(said: Merged, values: Mapping[str, str], by: By) -> None:
    for keyword, value in values.items():
        said.setdefault(keyword, Said(value=value, by=by))


def _service(said: Merged, environ: Mapping[str, str]) -> str | None:
    variable = environ.get("PGSERVICE")
    if "service" not in said:
        return variable
    service = said["service"].value
    if variable is None:
        del said["service"]  # read here, once; otherwise it stays, to outdo PGSERVICE in libpq
    return service
