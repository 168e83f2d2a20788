"""The environment of one command: PG* variables, a password file, and psql's arguments."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.conninfo import make_conninfo

from . import _deadline, _passfile
from ._connect import ConnectRequest
from ._conninfo.options import ConnectOptions
from ._libpq import libpq_info, os_user_name, user_file, with_native_paths
from ._memfd import create_sealed_file
from ._psql import is_conninfo, parse_psql_args
from ._tls.roots import shared_path
from ._tracebacks import redact_exception
from .errors import ConfigError, ConnectError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from psycopg.abc import ConnParam

    from ._clouds import Cloud
    from .abc import Password, SyncCredential

PASSED_THROUGH = ("PGDATESTYLE", "PGGEQO", "PGTZ", "PG_COLOR", "PG_COLORS")
"""The user's PG* variables that a command keeps: they do not affect the connection."""

_CONNINFO_VARIABLES = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "dbname": "PGDATABASE",
    "user": "PGUSER",
}

_FILE_NAME = "pgpass"

_EXIT_POLL_SECONDS = 0.5


class ChildEnvironment:
    """The environment of one command: its variables, and the content of its password file.

    `variables` contains no password. `passfile` is None if there is no password to hand over.
    """

    def __init__(
        self, variables: dict[str, str], passfile: bytes | None, *, is_entra: bool
    ) -> None:
        self.variables = variables
        self._passfile = passfile
        self._is_entra = is_entra

    def pop_conninfo(self) -> str:
        """Remove host, database and user from the variables; return them as a connection string.

        psql's command to reconnect takes what it omits from the variables, and psql looks up the
        password by host name: with `PGHOST` set, the server's password would go to any address.
        """
        params = {
            k: self.variables.pop(v) for k, v in _CONNINFO_VARIABLES.items() if v in self.variables
        }
        # Keep PGPORT: without it Debian's psql looks for a local server
        return make_conninfo("", port=self.variables["PGPORT"], **params)

    @contextmanager
    def exported(self, *, in_place: bool = False) -> Iterator[dict[str, str]]:
        """Yield the variables, with a password file that exists while the block runs.

        Args:
            in_place: Whether the command replaces this process. Then the password file exists
                until the command ends.
        """
        environ = self.variables.copy()
        if "PGSSLROOTCERT" in environ:
            environ["PGSSLROOTCERT"] = shared_path(environ["PGSSLROOTCERT"], inherit=in_place)
        if self._passfile is None:
            yield environ
            return
        with _password_file(self._passfile, in_place=in_place) as made:
            path = with_native_paths({"passfile": made})["passfile"]
            marked = {} if self._is_entra else {_passfile.VARIABLE: path}
            yield environ | {"PGPASSFILE": path} | marked


def child_environment(
    conninfo: str = "",
    *,
    server: str | None = None,
    credential: SyncCredential | None = None,
    client_id: str | None = None,
    password: Password | None = None,
    pgbouncer: bool | None = None,
    cloud: Cloud | str | None = None,
    retry_timeout: float | None = None,
    **kwargs: ConnParam,
) -> ChildEnvironment:
    """Return an environment in which a command connects as `azpg.connect` would.

    The arguments are those of `azpg.connect`. The variables are those of this process, but the
    `PG*` variables are replaced. The password file contains a fresh token, or the password, only
    for the hosts, ports and user of these arguments; the user's own password file follows.

    Raises:
        ConfigError: The arguments are invalid.
        ConnectError: A token could not be acquired.

    >>> child_environment(server="myserver", pgbouncer=True).variables["PGPORT"]
    '6432'
    """
    handled = sys.exception()
    request: ConnectRequest | None = None
    try:
        request = ConnectRequest(
            ConnectOptions(
                conninfo=conninfo,
                keywords=kwargs,
                server=server,
                credential=credential,
                client_id=client_id,
                password=password,
                pgbouncer=pgbouncer,
                cloud=cloud,
                retry_timeout=retry_timeout,
            ),
            is_async=False,
        )
        # Error reports show the variables of this frame
        conninfo, password, kwargs = "", None, {}
        _check_dbname(request.config.params.get("dbname", ""))
        while True:
            try:
                with request.attempt():
                    return _create(request)
            except psycopg.Error as error:
                delay = request.handle_failure(error)
                if delay is None:
                    raise
            _deadline.sleep(delay)
    except BaseException as error:
        conninfo, password, kwargs, request = "", None, {}, None
        redact_exception(error, handled)
        raise


def _check_dbname(dbname: str) -> None:
    if is_conninfo(dbname):
        # pgbench, vacuumdb and others expand it out of PGDATABASE
        raise ConfigError(
            "dbname looks like a conninfo, and a command would go to the host it names: pass it "
            "as the conninfo itself"
        )


def _create(request: ConnectRequest) -> ChildEnvironment:
    params = request.params(request.login(), request.resolve_hosts())
    passfile = None
    if (secret := params.get("password")) is not None:
        # libpq looks up the password by user, so the command must have the same default user
        default_user = os.getlogin() if sys.platform == "win32" else os_user_name()
        params["user"] = params.get("user") or default_user or ""
        user_lines = _read_user_passfile(params.pop("passfile", ""))
        passfile = _passfile.format_passfile(_passfile.password_keys(params), secret, user_lines)
    variables = _without_pg_variables(os.environ) | to_pg_variables(with_native_paths(params))
    return ChildEnvironment(variables, passfile, is_entra=request.entra is not None)


def _without_pg_variables(environ: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environ.items()
        if name in PASSED_THROUGH or not (name.startswith("PG") or name == _passfile.VARIABLE)
    }


def to_pg_variables(params: Mapping[str, str]) -> dict[str, str]:
    """Return the `PG*` variables for parameters of libpq, except for secrets.

    A parameter without a variable, such as `keepalives_idle`, is omitted.
    """
    variables = libpq_info().variables
    # The parameters include the service's already, and in libpq a service wins over variables
    omitted = {"service", "servicefile", *libpq_info().secrets}
    return {
        variables[keyword]: value
        for keyword, value in params.items()
        if variables.get(keyword) and keyword not in omitted
    }


def _read_user_passfile(path: str) -> bytes:
    """Return the content of the user's own password file, or nothing if libpq would not read it."""
    path = path or user_file("passfile")
    with suppress(OSError):
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode) and (sys.platform == "win32" or not mode & 0o077):
            return Path(path).read_bytes()
    return b""


def psql_command(
    program: str, arguments: Sequence[str], options: Mapping[str, Any]
) -> tuple[list[str], ChildEnvironment]:
    """Return a command that runs psql, and its environment.

    Args:
        program: Path or name of psql.
        arguments: Arguments of psql.
        options: Arguments of `azpg.connect`.

    Raises:
        ConfigError: The arguments are invalid, or would connect psql to another server.
        ConnectError: A token could not be acquired.
    """
    defaults, named, rest = parse_psql_args(arguments)
    child = child_environment(**{**defaults, **options, **named})
    return [program, "-d", child.pop_conninfo(), *rest], child


# The password file


@contextmanager
def _password_file(content: bytes, *, in_place: bool) -> Iterator[str]:
    """Yield the path of a password file that only this user can read, deleted after the block."""
    # libpq ignores a password file that others may read
    descriptor = create_sealed_file("azpg-passfile", content, mode=0o600)
    if descriptor is not None:
        try:
            os.set_inheritable(descriptor, in_place)
            # Not /proc/self: the command's children may not inherit the descriptor. The command
            # itself has the ID of this process.
            yield f"/proc/{os.getpid()}/fd/{descriptor}"
        finally:
            os.close(descriptor)
        return
    with _on_disk(content, in_place=in_place) as folder:
        yield os.path.join(folder, _FILE_NAME)


def _on_disk(content: bytes, *, in_place: bool) -> tempfile.TemporaryDirectory[str]:
    """Return a private folder that contains the password file."""
    try:
        with ExitStack() as stack:
            folder = tempfile.TemporaryDirectory(prefix="azpg-", ignore_cleanup_errors=True)
            path = os.path.join(stack.enter_context(folder), _FILE_NAME)
            with open(path, "wb", opener=_open_private) as file:
                file.write(content)
            if in_place:
                _delete_at_exit(folder.name)
            stack.pop_all()  # the caller deletes it
    except OSError as error:
        raise ConnectError(
            f"the password file for the command cannot be written: {error.strerror}",
            hint="set TMPDIR to a folder that you can write to, and check that a file descriptor "
            "is free (ulimit -n)",
        ) from None
    return folder


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_EXCL, 0o600)


def _delete_at_exit(folder: str) -> None:
    """Start a process that deletes a folder when this process, and so the command, has ended."""
    pid = os.getpid()
    if child := os.fork():
        os.waitpid(child, 0)
        return
    try:
        # Fork again, so that the process is not a child of the command, which may wait for it
        os.setsid()
        if os.fork() == 0:
            for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            os.closerange(0, 1 << 16)  # otherwise the command's output never ends
            while _is_running(pid):
                time.sleep(_EXIT_POLL_SECONDS)
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os._exit(0)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # the command runs as another user, as sudo does
    return True
