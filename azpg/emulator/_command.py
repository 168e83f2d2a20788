"""The command `azpg emulator`: run a command inside one, or stay and say how to reach it."""

# ruff: noqa: T201  # a command prints

import argparse
import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from ._emulator import Emulator
from ._errors import EmulatorError


class _StopError(Exception):
    """Carry the signal that asked us to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(argv: Sequence[str]) -> int:
    """Run `azpg emulator` with its arguments and return the exit status.

    main(["--", "pytest", "-q"])
    """
    options = _parser().parse_args(argv)
    with _stoppable():
        try:
            with Emulator(
                host=options.host,
                postgres=options.postgres,
                token_lifetime=options.token_lifetime,
            ) as emulator:
                for note in emulator.notes:
                    print(note, file=sys.stderr)
                if options.command:
                    return _run(options.command, emulator)
                _show(emulator)
                signal.pause()
        except EmulatorError as problem:
            print(f"azpg emulator: {problem}", file=sys.stderr)
            return 1
        except _StopError as stop:
            # Ending an emulator that only waits is what one does with it.
            return 128 + stop.number if options.command else 0
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="azpg emulator",
        description="Run an Azure-like PostgreSQL server on this machine.",
        epilog="Without a command it stays in the foreground until Ctrl-C.",
    )
    parser.add_argument(
        "--host",
        default="myserver.postgres.database.azure.com",
        help="the server's full name (default: %(default)s)",
    )
    parser.add_argument(
        "--postgres",
        metavar="DIR",
        help="another PostgreSQL to run, such as /usr/lib/postgresql/15",
    )
    parser.add_argument(
        "--token-lifetime",
        type=float,
        default=3600.0,
        metavar="SECONDS",
        help="how long tokens are valid (default: %(default)s)",
    )
    parser.add_argument(
        "command", nargs="*", metavar="COMMAND", help="what to run inside, after --"
    )
    return parser


def _run(command: list[str], emulator: Emulator) -> int:
    """Run the command in the emulator's environment; its status is ours, as a shell has it."""
    env = {k: v for k, v in os.environ.items() if k not in emulator.env_to_unset}
    try:
        process = subprocess.Popen(command, env=env | emulator.env)
    except OSError as problem:
        print(f"azpg emulator: {command[0]}: {problem.strerror}", file=sys.stderr)
        return 126 if isinstance(problem, PermissionError) else 127
    while True:
        try:
            status = process.wait()
        except _StopError as stop:
            # A terminal has sent Ctrl-C to the command as well; it decides what comes of it.
            if stop.number != signal.SIGINT or not _in_foreground():
                process.send_signal(stop.number)
        else:
            return 128 - status if status < 0 else status


def _show(emulator: Emulator) -> None:
    print("unset", *emulator.env_to_unset)
    for name, value in emulator.env.items():
        print(f"export {name}={shlex.quote(value)}")
    print("# when done:")
    print("unset", *emulator.env)
    sys.stdout.flush()


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Turn the signals that end a program into an exception, so that contexts are left."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise _StopError(number)

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_foreground() -> bool:
    """Tell whether a terminal sends its signals to us, and so to our command too."""
    try:
        with Path("/dev/tty").open() as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False
