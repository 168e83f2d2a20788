"""The environment of one command: PG* variables for psql, pg_dump and all else that uses libpq."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psycopg

from ._call import Call
from ._libpq import libpq_info
from .errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from psycopg.abc import ConnParam

    from ._call import Password
    from ._clouds import Cloud
    from ._credentials import SyncCredential

KEPT = ("PGDATESTYLE", "PGGEQO", "PGTZ", "PG_COLOR", "PG_COLORS")
"""Variables that say neither where to, nor who, nor how."""


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
) -> dict[str, str]:
    """Return this process's environment, changed so that a command signs in as `connect` would.

    The arguments are those of `azpg.connect`. No `PG*` variable is left of those that were there;
    `PGPASSWORD` holds a fresh token, or the password. It goes to whatever host the command is
    told: what may be told to psql is for `check_psql`.

    Raise `ConfigError` for a call that cannot be meant, `ConnectError` where no token can be had.

    >>> environment(server="myserver", pgbouncer=True)["PGPORT"]
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
            return _kept(os.environ) | variables(call.params(call.answer(), call.addresses()))
        except psycopg.Error as ex:
            call.failed(ex)
        except BaseException as ex:  # noqa: BLE001  # raised again
            del call  # and the frames below, which hold the password
            raise ex.with_traceback(None)  # noqa: B904  # itself
    error = call.error
    del call
    raise error


def variables(params: Mapping[str, str]) -> dict[str, str]:
    """Return the `PG*` variables that say what these parameters of libpq's say.

    What has no variable, such as `keepalives_idle`, is left out.
    """
    known = libpq_info().variables
    return {
        known[keyword]: value
        for keyword, value in params.items()
        # A service is read already, and libpq would let it outdo the variables
        if known.get(keyword) and keyword not in {"service", "servicefile"}
    }


def _kept(environ: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value for name, value in environ.items() if not name.startswith("PG") or name in KEPT
    }


def is_conninfo(text: str) -> bool:
    """Tell whether libpq's tools take the name of a database for a whole conninfo."""
    return "=" in text or text.startswith(("postgresql://", "postgres://"))


_SHORT = "cdFfhLoPpRTUv"
_LONG = (
    *("cluster", "command", "dbname", "field-separator", "file", "host", "log-file", "output"),
    *("port", "pset", "record-separator", "set", "table-attr", "username", "variable"),
)
"""psql's options that take a value; `cluster` is of Debian's wrapper."""

_LEADING = {"-h", "-p", "--host", "--port", "--cluster"}


def check_psql(arguments: Sequence[str]) -> None:
    """Refuse arguments that lead psql to another server: `PGPASSWORD` would go there too.

    Raise `ConfigError` with all of them.

    >>> check_psql(["-h", "elsewhere.example"])
    Traceback (most recent call last):
    azpg.ConfigError: -h leads psql to another server, and the password with it: ...
    """
    problems = []
    for option, value in _read(arguments):
        # psql takes any beginning of a long option's name
        if option in _LEADING or any(
            option.startswith("--") and each.startswith(option) for each in _LEADING
        ):
            problems.append(
                f"{option} leads psql to another server, and the password with it: name the "
                f"server to azpg, before psql's own arguments (azpg psql --server myserver …)"
            )
        elif (option in {"", "-d"} or "--dbname".startswith(option)) and is_conninfo(value):
            problems.append(
                f"{option or 'an argument'} hands psql a conninfo, which can lead it to another "
                f"server, and the password with it: give it to azpg, as the first argument"
            )
    if problems:
        raise ConfigError(problems)


def _read(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield psql's options with their values, and with no option its other arguments."""
    words = iter(arguments)
    for word in words:
        if word == "--":
            yield from (("", each) for each in words)
        elif word.startswith("--"):
            option, equals, value = word.partition("=")
            takes = any(f"--{each}".startswith(option) for each in _LONG)
            yield option, next(words, "") if takes and not equals else value
        elif word.startswith("-") and word != "-":
            letters = iter(word[1:])
            for letter in letters:
                rest = "".join(letters) if letter in _SHORT else ""
                yield f"-{letter}", rest or (next(words, "") if letter in _SHORT else "")
        else:
            yield "", word


def become(command: list[str], environ: Mapping[str, str]) -> int:
    """Run a command in place of this process, so that signals and exit status are its own.

    It returns only where that cannot be: with the command's status on Windows, and with a shell's
    (127 not found, 126 not to be run) after a sentence on stderr.
    """
    sys.stdout.flush()
    try:
        if sys.platform == "win32":
            return subprocess.run(command, env=environ, check=False).returncode  # noqa: S603
        # Python ignores it, and what is ignored stays so: `azpg exec -- pg_dump | head` would err
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.execvpe(command[0], command, environ)  # noqa: S606  # what the caller asked for
    except OSError as error:
        print(f"azpg: {command[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201
        return 127 if isinstance(error, FileNotFoundError) else 126
