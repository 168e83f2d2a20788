"""The sources of parameters: keywords, conninfo, service file, environment, merged as libpq does.

Service Connector's variables come last, and count only if nothing else names a host.
"""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psycopg
from psycopg import pq

from azpg import _passfile
from azpg._clouds import is_socket
from azpg._libpq import (
    RESTRICTING_VARIABLES,
    libpq_info,
    system_config_folder,
    too_old_for,
    user_file,
)
from azpg._redact import quote
from azpg.errors import ConfigError

from . import service_connector
from .ssl_option import replace_ssl, replace_ssl_in_conninfo
from .suggestions import (
    STRIP_LINE_BREAK,
    ado_net_error,
    ambiguous_uri_error,
    bracketed_name,
    bracketed_word,
    following_parameter,
    host_error,
    is_quoted,
    not_a_conninfo_error,
    placeholder,
    secret_placeholder_error,
    unknown_keyword,
    unknown_keyword_error,
    unreadable_conninfo_error,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Literal

    from .options import ConnectOptions

    Source = Literal[
        "keyword", "conninfo", "service file", "environment", "Service Connector", "azpg exec"
    ]


class Parameter(NamedTuple):
    """The value of one libpq keyword, and where it came from."""

    value: str
    source: Source
    place: str = ""
    """where the user finds it: the variable's name, or the service file and its section"""

    @property
    def where(self) -> str:
        """Return where it came from, for a message."""
        return self.place or _WHERE.get(self.source, self.source)

    def named(self, keyword: str) -> str:
        """Return how to name it in a message: by its variable, or by the keyword and its place."""
        if self.source == "environment" and self.place:
            return self.place
        return f"⟦{keyword}⟧" if self.source == "keyword" else f"{keyword} ({self.where})"


_WHERE = {"conninfo": "connection string"}
Parameters = dict[str, Parameter]

_HOST_KEYWORDS = {"host", "hostaddr"}
_NAME_KEYWORDS = {*_HOST_KEYWORDS, "dbname", "port", "sslmode", "user"}
_UNQUOTED_KEYWORDS = {"connect_timeout", "port", "sslmode", "sslrootcert", "target_session_attrs"}
"""Keywords whose values have no quotes, unlike names."""
_EXTRA_VARIABLES = ("PGREQUIRESSL", "PGSERVICEFILE", "PGSYSCONFDIR", _passfile.VARIABLE)


@cache
def _variables() -> frozenset[str]:
    """Return the names of all variables that a connection depends on."""
    of_keywords = libpq_info().variables.values()
    names = {*of_keywords, *_EXTRA_VARIABLES, *RESTRICTING_VARIABLES, *service_connector.VARIABLES}
    return frozenset(names - {""})


def environment() -> dict[str, str]:
    """Return those of this process's variables that a connection depends on."""
    names = _variables()
    return {name: os.environ[name] for name in os.environ if name in names}


def merge(options: ConnectOptions, environ: Mapping[str, str]) -> tuple[Parameters, list[str]]:
    """Merge all sources; a source that comes earlier in the module's docstring wins.

    Returns:
        The parameters, and the problems met while reading the sources.
    """
    known = libpq_info().variables
    keywords, problems = replace_ssl(options.keywords)
    problems += [
        too_old_for(name) or unknown_keyword_error(name, known)
        for name in keywords
        if name not in known
    ]
    problems += [
        f"{variable}: {too_old}"
        for variable, keyword in RESTRICTING_VARIABLES.items()
        if environ.get(variable) and (too_old := too_old_for(keyword))
    ]
    params: Parameters = {}
    given = {name: str(value) for name, value in keywords.items() if value is not None}
    _add_missing(params, given, "keyword")
    from_conninfo, conninfo_problems = _parse_conninfo(options.conninfo)
    problems += conninfo_problems
    _add_missing(params, from_conninfo, "conninfo")

    if (service := _pop_service(params, environ)) is not None:
        from_service, service_problems = read_service(service, environ)
        problems += service_problems
        for keyword, parameter in from_service.items():
            params.setdefault(keyword, parameter)

    for keyword, parameter in _from_environment(environ).items():
        params.setdefault(keyword, parameter)

    has_host = any(params[name].value for name in _HOST_KEYWORDS & params.keys())
    if options.server is None and not has_host:
        from_connector, connector_problems = _from_service_connector(environ)
        problems += connector_problems
        for name in _HOST_KEYWORDS & from_connector.keys():
            params.pop(name, None)  # an empty one
        for keyword, parameter in from_connector.items():
            params.setdefault(keyword, parameter)
    problems += [
        f"{each.named(keyword)} contains a NUL or bytes that are not UTF-8, which libpq "
        f"does not accept"
        for keyword, each in params.items()
        if not is_encodable(each.value)
    ]
    return params, problems


def _from_environment(environ: Mapping[str, str]) -> Parameters:
    params = {
        keyword: Parameter(environ[variable], "environment", variable)
        for keyword, variable in libpq_info().variables.items()
        if variable in environ
    }
    params.pop("service", None)  # it has been read
    if environ.get("PGREQUIRESSL", "").startswith("1"):
        params.setdefault("sslmode", Parameter("require", "environment", "PGREQUIRESSL"))
    return params


def _parse_conninfo(conninfo: str) -> tuple[dict[str, str], list[str]]:
    if not conninfo:
        return {}, []
    if problem := not_a_conninfo_error(conninfo) or ambiguous_uri_error(conninfo):
        return {}, [problem]
    conninfo, problem = replace_ssl_in_conninfo(conninfo)
    if problem:
        return {}, [problem]
    try:
        # Copied before anything is raised: libpq's own message could quote parts of a password
        values = {o.keyword.decode(): o.val.decode() for o in parse(conninfo) if o.val is not None}
    except (psycopg.OperationalError, UnicodeError) as error:
        problem = too_old_for(unknown_keyword(str(error))) or unreadable_conninfo_error(
            conninfo, str(error), libpq_info().variables
        )
        return {}, [problem]
    return values, []


def _from_service_connector(environ: Mapping[str, str]) -> tuple[Parameters, list[str]]:
    """Return the parameters of Service Connector's variables; none if they name no host."""
    if not (conninfo := environ.get(service_connector.CONNECTION_STRING)):
        found = service_connector.params_from_environ(environ)
        return {
            keyword: Parameter(value, "Service Connector", variable)
            for keyword, (value, variable) in found.items()
        }, []
    values, problems = _parse_conninfo(conninfo)
    values.pop("service", None)  # service files have been read by now
    problems = [f"{service_connector.CONNECTION_STRING}: {problem}" for problem in problems]
    if not values.get("host"):
        return {}, problems
    place = service_connector.CONNECTION_STRING
    return {
        keyword: Parameter(value, "Service Connector", place) for keyword, value in values.items()
    }, problems


def near_misses(params: Parameters, conninfo: str, *, needs_server: bool = False) -> dict[str, str]:
    """Return the problems with values that are nearly right, by keyword; no value is quoted whole.

    They are found before any other rule looks at the values, whose problem would mislead.

    Args:
        params: the parameters of all sources.
        conninfo: the caller's connection string.
        needs_server: whether the host must be one of Azure, and no `server` is given.
    """
    problems: dict[str, str] = {}
    for keyword, parameter in params.items():
        if problem := _near_miss(keyword, parameter, conninfo, needs_server=needs_server):
            problems[keyword] = problem
    with_commas = [
        keyword
        for keyword, parameter in params.items()
        if parameter.source == "conninfo" and parameter.value.endswith(",")
    ]
    if len(with_commas) > 1:
        problem = "the connection string has commas between its parameters: write spaces"
        return dict.fromkeys(with_commas, problem)
    return problems


def _near_miss(
    keyword: str, parameter: Parameter, conninfo: str, *, needs_server: bool
) -> str | None:
    value, source = parameter.value, parameter.source
    where = parameter.named(keyword)
    if value.endswith(("\n", "\r")):
        return f"{where} {STRIP_LINE_BREAK}"
    if keyword in libpq_info().secrets:
        return secret_placeholder_error(where, value)
    if source != "keyword" or keyword in _NAME_KEYWORDS:
        separator = following_parameter(value, libpq_info().variables)
        if separator == ";" and source == "conninfo":
            return ado_net_error(conninfo)
        if separator:
            return (
                f"{where} contains another parameter after {separator!r}: write a space between "
                f"parameters (in a URI '?' before the first and '&' between them)"
            )
    if keyword in _UNQUOTED_KEYWORDS and is_quoted(value):
        return f"{where} has quotes around it, which an env file of docker keeps: leave them out"
    if found := _placeholder_in(keyword, value):
        return f"{where} is still the placeholder {found}: write the real value"
    if keyword in _HOST_KEYWORDS:
        for host in value.split(","):
            if not is_socket(host) and (
                problem := host_error(keyword, host, needs_server=needs_server)
            ):
                return f"{where} {problem}"
        if re.fullmatch(r"[^,]+,\d{1,5}", value):
            return (
                f"{where} ends in a port after a comma, as in ADO.NET: write the port as "
                f"⟦port={value.partition(',')[2]}⟧"
            )
    return None


def _placeholder_in(keyword: str, value: str) -> str | None:
    """Return the placeholder that a value is or contains, or None."""
    if found := placeholder(value):
        return found
    if keyword == "port":
        return bracketed_word(value)
    return bracketed_name(value) if keyword in {"dbname", "user"} else None


def source_of(params: Parameters, keyword: str) -> Source | None:
    """Return where the value of a keyword came from, or None if it has none."""
    return params[keyword].source if keyword in params else None


def is_encodable(value: str) -> bool:
    """Return whether libpq can be given a value whole: it reads UTF-8 up to the first NUL."""
    try:
        return b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False


def parse(conninfo: str) -> Iterable[pq.ConninfoOption]:
    """Parse a key/value string or URI as libpq does.

    Raises:
        psycopg.OperationalError: if libpq cannot parse it; its message may quote a secret.
        UnicodeError: if it cannot be encoded.
    """
    encoded = conninfo.encode()
    if b"\0" in encoded:
        raise UnicodeError("a NUL")
    return pq.Conninfo.parse(encoded)


def command_passwords(environ: Mapping[str, str]) -> dict[_passfile.PasswordKey, str]:
    """Return the passwords that `azpg exec` gave to the command that this process belongs to.

    Any other password file does not count: a forgotten line in it would replace Entra.

    Raises:
        ConfigError: if the file cannot be read.
    """
    path = _command_passfile(environ)
    if not path:
        return {}
    try:
        return _passfile.parse_passfile(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(
            f"the password file of this command (PGPASSFILE={path}) cannot be read: "
            f"{error.strerror}. azpg exec made it for the same user, for as long as the command "
            f"runs: start this program by azpg exec too, or pass ⟦password=⟧ or ⟦credential=⟧"
        ) from None


def _command_passfile(environ: Mapping[str, str]) -> str | None:
    """Return the path of the password file that `azpg exec` made, if it is the one in use."""
    path = environ.get(_passfile.VARIABLE)
    return path if path == environ.get("PGPASSFILE") else None


# Service files


def read_service(name: str, environ: Mapping[str, str]) -> tuple[Parameters, list[str]]:
    """Read the section of a service file, from the files that libpq reads.

    Returns:
        The section's parameters, and the problems with the files.
    """
    named = environ.get("PGSERVICEFILE")
    paths = [user_file("service") if named is None else named]
    if (folder := system_config_folder(environ)) is not None:
        paths.append(f"{folder}/pg_service.conf")
    for path in paths:
        try:
            # As bytes: for libpq a lone carriage return does not end a line
            lines = Path(path).read_bytes().decode().split("\n")
        except (FileNotFoundError, NotADirectoryError):
            if path == named:
                return {}, [f"the service file {named!r} (PGSERVICEFILE) does not exist"]
            continue
        except (OSError, UnicodeError) as error:
            return {}, [f"the service file {path!r} cannot be read: {error}"]
        if (section := _service_section(name, lines)) is not None:
            values, problems = _service_params(section, path)
            shown = quote(name, r"[\w. -]{1,60}").strip("'")
            place = f"section [{shown}] of {path}"
            return {k: Parameter(v, "service file", place) for k, v in values.items()}, problems
    places = " or ".join(map(repr, paths))
    shown = quote(name, r"[\w. -]{1,60}")
    return {}, [f"no service {shown} in {places}: add a section for it, or correct the name"]


def _service_section(name: str, lines: Iterable[str]) -> list[str] | None:
    """Return the lines of a service's section, or None if there is no such section."""
    section: list[str] | None = None
    for line in (each.strip(" \t\r\v\f") for each in lines):
        if line.startswith("["):
            if section is not None:
                break
            # libpq ignores what follows the closing bracket
            if line.startswith(f"[{name}]"):
                section = []
        elif section is not None and line and not line.startswith("#"):
            section.append(line)
    return section


def _service_params(lines: Iterable[str], path: str) -> tuple[dict[str, str], list[str]]:
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
            # The line itself is not shown: it may hold a password
            is_word = re.fullmatch("[a-z_]{1,30}", keyword) is not None
            shown = f" ({keyword!r})" if is_word and equals else ""
            problems.append(
                f"the service file {path!r} has a line that is not keyword=value, or whose keyword "
                f"libpq does not have{shown}: correct the line"
            )
    return values, problems


def _pop_service(params: Parameters, environ: Mapping[str, str]) -> str | None:
    """Return the name of the service to read, and remove it from the parameters.

    It stays if PGSERVICE names another one: libpq must not read that.
    """
    variable = environ.get("PGSERVICE")
    if "service" not in params:
        return variable
    service = params["service"].value
    if variable is None:
        del params["service"]
    return service


def _add_missing(params: Parameters, values: Mapping[str, str], source: Source) -> None:
    for keyword, value in values.items():
        params.setdefault(keyword, Parameter(value, source))
