"""What the libpq in use supports: its keywords, variables and defaults, and what it rejects."""

from __future__ import annotations

import os
import re
import socket
import sys
from functools import cache
from typing import TYPE_CHECKING

from psycopg import pq

from .errors import ConfigError

if sys.platform != "win32":
    import pwd

if TYPE_CHECKING:
    from collections.abc import Mapping

NONEXISTENT_FILE = "/dev/null/none"
"""A path that cannot exist. Without a passfile, or with an empty one, libpq reads ~/.pgpass."""

SINCE_VERSION = {
    "gssencmode": 12,
    "tcp_user_timeout": 12,
    "channel_binding": 13,
    "ssl_max_protocol_version": 13,
    "ssl_min_protocol_version": 13,
    "sslpassword": 13,
    "sslcrldir": 14,
    "sslsni": 14,
    "load_balance_hosts": 16,
    "require_auth": 16,
    "sslcertmode": 16,
    "gssdelegation": 17,
    "sslnegotiation": 17,
    "max_protocol_version": 18,
    "min_protocol_version": 18,
    "oauth_client_id": 18,
    "oauth_client_secret": 18,
    "oauth_issuer": 18,
    "oauth_scope": 18,
    "scram_client_key": 18,
    "scram_server_key": 18,
    "sslkeylogfile": 18,
}
"""keyword -> the first version of libpq that has it, for those that are not in every version
(https://www.postgresql.org/docs/release/)"""

RESTRICTING_VARIABLES = {
    "PGCHANNELBINDING": "channel_binding",
    "PGREQUIREAUTH": "require_auth",
    "PGSSLCERTMODE": "sslcertmode",
    "PGSSLCRLDIR": "sslcrldir",
    "PGSSLMINPROTOCOLVERSION": "ssl_min_protocol_version",
}
"""Variables that restrict a connection, and that an older libpq silently ignores."""

_FILES = ("passfile", "sslcert", "sslcrl", "sslcrldir", "sslkey", "sslkeylogfile", "sslrootcert")

_USER_FILES = {
    "passfile": (".pgpass", "pgpass.conf"),
    "service": (".pg_service.conf", ".pg_service.conf"),
    "sslrootcert": (".postgresql/root.crt", "root.crt"),
}
"""keyword -> the user's file in the home folder, and on Windows in %APPDATA%\\postgresql
(https://www.postgresql.org/docs/current/libpq-pgservice.html and the pages next to it)"""

# Defaults of the keywords for which libpq has no compiled default. An empty value is not the
# default of all of them: libpq rejects it, or (passfile) reads another file.
_DEFAULTS = {
    "client_encoding": "",
    "dbname": "",
    "hostaddr": "",
    "gsslib": "",
    "keepalives": "1",
    "max_protocol_version": "3.0",
    "min_protocol_version": "3.0",
    "oauth_client_id": "",
    "oauth_client_secret": "",
    "oauth_issuer": "",
    "oauth_scope": "",
    "passfile": NONEXISTENT_FILE,
    "password": "",
    "replication": "",
    "require_auth": "password,md5,gss,sspi,scram-sha-256,none",
    "requirepeer": "",
    "sslcert": "",
    "sslcertmode": "allow",
    "sslcrl": "",
    "sslcrldir": "",
    "sslkey": "",
    "sslkeylogfile": "",
    "sslpassword": "",
    "sslrootcert": "",
    "ssl_max_protocol_version": "",
    "tcp_user_timeout": "0",
}

WITHOUT_DEFAULT = frozenset({"scram_client_key", "scram_server_key", "service", "servicefile"})
"""Keywords for which no value means that they are not set. The SCRAM keys have no variable."""

INSTALL = 'install the libpq that psycopg brings (pip install "psycopg[binary]")'

_KEEPALIVES = frozenset(
    {"keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "tcp_user_timeout"}
)
_BROADCAST_ADDRESS = "255.255.255.255"
"""A TCP connection to it fails at once, and sends nothing."""


class LibpqInfo:
    """The connection parameters of the libpq in use."""

    def __init__(self) -> None:
        options = pq.Conninfo.get_defaults()
        self.version = pq.version() // 10000
        """the major version"""
        self.variables = {o.keyword.decode(): (o.envvar or b"").decode() for o in options}
        """keyword -> environment variable, empty if it has none"""
        self.secrets = frozenset(
            o.keyword.decode()
            for o in options
            # libpq marks passwords with a star; its SCRAM keys it only hides as debug options.
            if o.dispchar == b"*" or o.keyword.startswith(b"scram_")
        )
        """keywords whose values are secret"""
        compiled = {
            o.keyword.decode(): o.compiled.decode() for o in options if o.compiled is not None
        }
        self.defaults = {
            keyword: value
            for keyword, value in {**_DEFAULTS, **compiled}.items()
            if keyword in self.variables
        }
        """keyword -> its default value; given explicitly, libpq ignores the environment variable"""
        if "oauth_issuer" in self.variables:
            self.defaults["require_auth"] += ",oauth"


@cache
def libpq_info() -> LibpqInfo:
    """Return what the libpq in use supports, read once."""
    return LibpqInfo()


def too_old_for(keyword: str) -> str | None:
    """Return the problem with a keyword if only a newer libpq supports it, or None."""
    info = libpq_info()
    if keyword in info.variables or keyword not in SINCE_VERSION:
        return None
    return (
        f"{keyword} needs libpq {SINCE_VERSION[keyword]} or newer, and this is libpq "
        f"{info.version}: leave it out, or {INSTALL}"
    )


def os_user_name() -> str | None:
    """Return the operating system's name of the user, which is libpq's default for `user`."""
    if sys.platform == "win32":
        return None
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return None


def user_file(keyword: str) -> str:
    """Return the path of the user's file that libpq reads for a keyword, if nothing names another.

    Args:
        keyword: "passfile", "service" or "sslrootcert".
    """
    posix_name, windows_name = _USER_FILES[keyword]
    if sys.platform == "win32":
        # libpq asks Windows for this folder, whose name APPDATA holds in every session
        folder = os.environ.get("APPDATA") or os.path.join(
            os.path.expanduser("~"), "AppData", "Roaming"
        )
        return os.path.join(folder, "postgresql", windows_name)
    return os.path.join(os.path.expanduser("~"), posix_name)


def system_config_folder(environ: Mapping[str, str]) -> str | None:
    """Return the folder in which libpq looks for the system's service file, or None.

    The default is compiled into libpq: this one in psycopg's wheels for Linux and macOS and in
    Debian's libpq. The wheel for Windows has a folder that any user of the machine can create, so
    only the variable counts there.
    """
    default = None if sys.platform == "win32" else "/etc/postgresql-common"
    return environ.get("PGSYSCONFDIR", default)


def with_native_paths(params: dict[str, str]) -> dict[str, str]:
    """Replace paths that libpq cannot open, in `params` itself, and return it.

    On Windows libpq opens files in the ANSI code page, so a path with other characters is replaced
    by its short (8.3) path.

    Raises:
        ConfigError: The volume has no short paths.
    """
    if sys.platform != "win32" and os.name != "nt":
        return params
    problems = []
    for keyword in _FILES:
        path = params.get(keyword, "")
        if not path.isascii():
            short = short_path(path)
            if short is None:
                problems.append(
                    f"libpq cannot open {keyword} under a path that is not ASCII, and this volume "
                    f"has no short (8.3) names: install Python and azpg under an ASCII path, or "
                    f"copy the file to one and write {keyword}= with it"
                )
            else:
                params[keyword] = short
    if problems:
        raise ConfigError(problems)
    return params


def short_path(path: str) -> str | None:
    """Return a Windows path in 8.3 names, or None if it has none.

    A file that does not exist yet keeps its name, in the short path of its folder.
    """
    folder, name = os.path.split(path)
    for existing, rest in ((path, ""), (folder, name)):
        if (short := _short_name(existing)) and short.isascii() and rest.isascii():
            return os.path.join(short, rest) if rest else short
    return None


def _short_name(path: str) -> str:
    import ctypes  # noqa: PLC0415  # only such paths on Windows need it

    buffer = ctypes.create_unicode_buffer(32768)
    windll = getattr(ctypes, "windll")  # noqa: B009  # Windows only
    windll.kernel32.GetShortPathNameW(path, buffer, len(buffer))
    return buffer.value


def validation_error(params: Mapping[str, str]) -> str | None:
    """Return libpq's message if it rejects the parameters; nothing is connected.

    libpq validates them before it opens a socket, except for addresses and keepalives.
    """
    for address in filter(None, params.get("hostaddr", "").split(",")):
        try:
            socket.getaddrinfo(address.encode(), None, flags=socket.AI_NUMERICHOST)
        except socket.gaierror as error:
            shown = _without_values(f'could not parse network address "{address}"')
            return f"{shown}: {error.strerror}"
    local = {**libpq_info().defaults, **params}
    local |= {"host": NONEXISTENT_FILE, "hostaddr": "", "user": "x", "password": "x"}
    local["port"] = local["port"].partition(",")[0]
    message = _connect_error(local)
    if message and NONEXISTENT_FILE not in message:
        return _without_values(message)
    if any(libpq_info().defaults.get(name) != params[name] for name in _KEEPALIVES & params.keys()):
        message = _connect_error({**local, "host": "none", "hostaddr": _BROADCAST_ADDRESS})
        if found := re.search(r'[^:]*"\w+"$', message):
            return _without_values(found[0].strip())
    return None


def _without_values(message: str) -> str:
    """Mask quoted values that may contain several values of a misread string, or a password."""
    return re.sub(
        '"([^"]*)"', lambda v: v[0] if re.fullmatch(r"[\w.:+-]{1,40}", v[1]) else '"…"', message
    )


def _connect_error(params: Mapping[str, str]) -> str:
    quoted = {k: re.sub(r"([\\'])", r"\\\1", v) for k, v in params.items()}
    pgconn = pq.PGconn.connect_start(" ".join(f"{k}='{v}'" for k, v in quoted.items()).encode())
    try:
        return pgconn.error_message.decode(errors="replace").strip()
    finally:
        pgconn.finish()
