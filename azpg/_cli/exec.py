"""Run a command in place of this process: `azpg psql` and `azpg exec`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from azpg._child_env import ChildEnvironment


def exec_command(command: list[str], child: ChildEnvironment) -> int:
    """Run a command in place of this process, so that signals and exit status are its own.

    Returns:
        The exit status, if the command could not replace this process: on Windows that of the
        command; elsewhere, after a message on stderr, 127 if it was not found and 126 if it is not
        executable, as a shell would return.
    """
    sys.stdout.flush()
    with child.exported(in_place=sys.platform != "win32") as environ:
        try:
            if sys.platform == "win32":
                return _run(command, environ)
            # Python ignores SIGPIPE, and the command would inherit that: `azpg exec -- pg_dump |
            # head` would print an error
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            os.execvpe(command[0], command, environ)  # noqa: S606  # what the caller asked for
        except OSError as error:
            print(f"azpg: {command[0]}: {_reason(command[0], error)}", file=sys.stderr)  # noqa: T201
            return 127 if isinstance(error, FileNotFoundError) else 126


_CLIENT_PROGRAMS = ("pg_dump", "pg_dumpall", "pg_restore", "psql", "reindexdb", "vacuumdb")


def _reason(name: str, error: OSError) -> str:
    if isinstance(error, FileNotFoundError) and name in _CLIENT_PROGRAMS:
        return "not installed: on Debian and Ubuntu, run apt-get install postgresql-client"
    return str(error.strerror)


def _run(command: list[str], environ: dict[str, str]) -> int:
    """Run a command as a child process and return its exit status, as a signed number.

    The console sends Ctrl-C and Ctrl-Break to the command too, which decides what they do: psql
    cancels its query. This process ignores them until the command has ended, so that the status is
    the command's and its password file is deleted.
    """
    numbers = [signal.SIGINT, *filter(None, [getattr(signal, "SIGBREAK", None)])]
    handlers = [(number, signal.signal(number, signal.SIG_IGN)) for number in numbers]
    try:
        status = subprocess.run(command, env=environ, check=False).returncode  # noqa: S603
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)
    # Ctrl-C ends a program with 0xC000013A, and sys.exit would make 0xFFFFFFFF of it
    return status if status < 1 << 31 else status - (1 << 32)
