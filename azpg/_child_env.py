"""What one command gets from azpg: PG* variables, a password file, and psql's arguments."""

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

from . import _passfile
from ._connect import Call
from ._libpq import libpq_info, os_user_name, with_native_paths
from ._psql import is_conninfo, read_arguments
from ._tls.roots import shared_path
from .errors import ConfigError, ConnectError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from psycopg.abc import ConnParam

    from ._clouds import Cloud
    from ._connect import Password
    from ._tokens.credentials import SyncCredential

KEPT = ("PGDATESTYLE", "PGGEQO", "PGTZ", "PG_COLOR", "PG_COLORS")
"""Variables that say neither where to, nor who, nor how."""

_DSN = {"host": "PGHOST", "hostaddr": "PGHOSTADDR", "dbname": "PGDATABASE", "user": "PGUSER"}

_MFD_NOEXEC_SEAL = 0x8
"""Linux 6.3 can be configured to refuse a file in memory without it; older kernels refuse it."""

_FILE = "pgpass"

_WATCH_SECONDS = 0.5

_DESCRIPTORS_OF_SCRIPTS = 100
"""A shell script opens the descriptors 3 to 9 itself, and would replace the password file."""


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

    def take_dsn(self) -> str:
        """Move host, database and user from the variables to a connection string; return it.

        psql looks up the password by the host's name, and fills in from the variables what its
        command to reconnect leaves out: with `PGHOST` any address would have the server's name.
        """
        params = {k: self.variables.pop(v) for k, v in _DSN.items() if v in self.variables}
        # The port stays a variable too: without one Debian's psql looks for a local server
        return make_conninfo("", port=self.variables["PGPORT"], **params)

    @contextmanager
    def exported(self, *, in_place: bool = False) -> Iterator[dict[str, str]]:
        """Yield the variables, with a password file that exists while the block runs.

        With `in_place` the command replaces this process, and the file lasts as long as it.
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


def environment(
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
    """Return this process's environment, changed so that a command signs in as `connect` would.

    The arguments are those of `azpg.connect`. No `PG*` variable is left of those that were there.
    The password file holds a fresh token, or the password, for the hosts, ports and user of this
    call alone; the lines of the user's own password file follow.

    Raise `ConfigError` for invalid arguments, `ConnectError` if no token can be acquired.

    >>> environment(server="myserver", pgbouncer=True).variables["PGPORT"]
    '6432'
    """
    call = Call(
        conninfo,
        kwargs,
        server=server,
        credential=credential,
        client_id=client_id,
        password=password,
        pgbouncer=pgbouncer,
        cloud=cloud,
        retry_timeout=retry_timeout,
        is_async=False,
    )
    del conninfo, kwargs, password  # an error's traceback shows this frame
    if call.error is None and is_conninfo(call.plan.params.get("dbname", "")):
        # pgbench, vacuumdb and others expand it out of PGDATABASE
        call.error = ConfigError(
            "dbname looks like a conninfo, and a command would go to the host it names: pass it "
            "as the conninfo itself"
        )
    while call.error is None:
        try:
            if call.pause:
                time.sleep(call.pause)
            return _child_environment(call)
        except psycopg.Error as ex:
            call.failed(ex)
        except BaseException as ex:  # noqa: BLE001  # raised again
            del call  # and the frames below, which hold the password
            raise ex.with_traceback(None)  # noqa: B904  # itself
    error = call.error
    del call
    raise error


def _child_environment(call: Call) -> ChildEnvironment:
    params = call.params(call.answer(), call.addresses())
    passfile = None
    if (secret := params.get("password")) is not None:
        # So that the command's libpq looks up the user that the password file has
        default = os.getlogin() if sys.platform == "win32" else os_user_name()
        params["user"] = params.get("user") or default or ""
        own = _own_passfile(params.pop("passfile", ""))
        passfile = _passfile.content(_passfile.places(params), secret, own)
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in KEPT or not (name.startswith("PG") or name == _passfile.VARIABLE)
    }
    found = variables(with_native_paths(params))
    return ChildEnvironment(kept | found, passfile, is_entra=call.entra is not None)


def variables(params: Mapping[str, str]) -> dict[str, str]:
    """Return the `PG*` variables that say what these parameters of libpq's say, without secrets.

    What has no variable, such as `keepalives_idle`, is left out.
    """
    known = libpq_info().variables
    # A service is read already, and libpq would let it outdo the variables
    left_out = {"service", "servicefile", *libpq_info().secrets}
    return {
        known[keyword]: value
        for keyword, value in params.items()
        if known.get(keyword) and keyword not in left_out
    }


def _own_passfile(path: str) -> bytes:
    """Return the user's own password file, if libpq would read it."""
    if not path and sys.platform == "win32":
        path = os.path.join(os.environ.get("APPDATA", ""), "postgresql", "pgpass.conf")
    path = path or os.path.expanduser("~/.pgpass")
    with suppress(OSError):
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode) and (sys.platform == "win32" or not mode & 0o077):
            return Path(path).read_bytes()
    return b""


def psql(
    program: str, arguments: Sequence[str], options: Mapping[str, Any]
) -> tuple[list[str], ChildEnvironment]:
    """Return psql as a command for the arguments of `azpg.connect` and for psql's own.

    Raise `ConfigError` for arguments that lead psql to another server, and as `environment` does.
    """
    defaults, named, rest = read_arguments(arguments)
    child = environment(**{**defaults, **options, **named})
    return [program, "-d", child.take_dsn(), *rest], child


# The password file


@contextmanager
def _password_file(content: bytes, *, in_place: bool) -> Iterator[str]:
    """Yield the path of a password file that only this user can read, deleted after the block."""
    descriptor = _in_memory(content)
    if descriptor is not None:
        try:
            os.set_inheritable(descriptor, in_place)
            # The command keeps this process's number. For its children, which may not inherit the
            # descriptor, /proc/self would be another process.
            yield f"/proc/{os.getpid()}/fd/{descriptor}"
        finally:
            os.close(descriptor)
        return
    with _on_disk(content, in_place=in_place) as folder:
        yield os.path.join(folder, _FILE)


def _in_memory(content: bytes) -> int | None:
    """Return the descriptor of a sealed file in memory, or None if the system has none."""
    if sys.platform != "linux" or not hasattr(os, "memfd_create"):
        return None
    import fcntl  # noqa: PLC0415  # not on Windows

    for flag in (_MFD_NOEXEC_SEAL, 0):
        with suppress(OSError):
            made = os.memfd_create("azpg-passfile", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | flag)
            break
    else:
        return None
    descriptor = made
    with suppress(OSError):  # the process may have fewer descriptors
        descriptor = fcntl.fcntl(made, fcntl.F_DUPFD_CLOEXEC, _DESCRIPTORS_OF_SCRIPTS)
        os.close(made)
    try:
        os.fchmod(descriptor, 0o600)  # libpq ignores a file that others may read
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        if Path(f"/proc/self/fd/{descriptor}").read_bytes() == content:
            return descriptor
    except OSError:
        pass  # no /proc, as in a chroot
    os.close(descriptor)
    return None


def _on_disk(content: bytes, *, in_place: bool) -> tempfile.TemporaryDirectory[str]:
    """Return a private folder with the file in it."""
    try:
        with ExitStack() as stack:
            folder = tempfile.TemporaryDirectory(prefix="azpg-", ignore_cleanup_errors=True)
            path = os.path.join(stack.enter_context(folder), _FILE)
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
    """Start a process that deletes a folder when this one, and so the command, has ended."""
    pid = os.getpid()
    if forked := os.fork():
        os.waitpid(forked, 0)
        return
    try:
        # Forked twice: the command would wait for a child that it did not start
        os.setsid()
        if os.fork() == 0:
            for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            os.closerange(0, 1 << 16)  # a reader of the command's output must not wait for this
            while _runs(pid):
                time.sleep(_WATCH_SECONDS)
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os._exit(0)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's by now, as sudo is
    return True
