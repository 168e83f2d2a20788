"""The command `azpg emulator`: run a command inside one, or stay and say how to reach it."""

# ruff: noqa: T201  # a command prints

import argparse
import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from ._emulator import Emulator
from ._errors import EmulatorError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _StopSignal(BaseException):  # like KeyboardInterrupt, it is no error
    """Leave every context, because a signal asked for it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(argv: Sequence[str]) -> int:
    """Run `azpg emulator` with its arguments and return the exit status.

    main(["--", "pytest", "-q"])
    """
    options = _parser().parse_args(argv)
    try:
        with (
            _signal_handlers(_stop),
            Emulator(
                host=options.host,
                postgres=options.postgres,
                token_lifetime=options.token_lifetime,
                imds=options.imds,
            ) as emulator,
        ):
            for note in emulator.notes:
                print(note, file=sys.stderr)
            env = emulator.imds_env if options.imds else emulator.env
            unset = [*emulator.env_to_unset, *sorted(emulator.env.keys() - env.keys())]
            if options.command:
                return _run_command(options.command, env, unset)
            _print_exports(env, unset)
            while True:
                signal.pause()
    except EmulatorError as error:
        print(f"azpg emulator: {error}", file=sys.stderr)
        return 1
    except _StopSignal as stopped:
        # To be told to stop is how an emulator that only waits ends well.
        return 128 + stopped.number if options.command else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="azpg emulator",
        description="Run an Azure-like PostgreSQL server on this machine.",
        epilog="Example: azpg emulator -- pytest. Without a command it stays in the foreground "
        "until Ctrl-C.",
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
        "--imds",
        action="store_true",
        help="give tokens in the form of a virtual machine's endpoint, which needs no secret: any "
        "user of this machine can get one (default: in the form of App Service)",
    )
    parser.add_argument(
        "command", nargs="*", metavar="COMMAND", help="what to run inside, after --"
    )
    return parser


def _run_command(command: list[str], env: dict[str, str], unset: list[str]) -> int:
    """Run the command in the emulator's environment; its status is ours, as a shell has it."""
    inherited_env = {name: value for name, value in os.environ.items() if name not in unset}
    pending_signals: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def forward(number: int, _frame: FrameType | None) -> None:
        if process is None:
            pending_signals.append(number)
        elif number != signal.SIGINT or not _in_terminal_foreground():
            # A terminal has sent Ctrl-C to the command as well.
            process.send_signal(number)

    with _signal_handlers(forward):
        try:
            process = subprocess.Popen(command, env=inherited_env | env)
        except OSError as error:
            print(f"azpg emulator: {command[0]}: {error.strerror}", file=sys.stderr)
            return 126 if isinstance(error, PermissionError) else 127
        for number in pending_signals:
            process.send_signal(number)
        status = process.wait()
    return 128 - status if status < 0 else status


def _print_exports(env: dict[str, str], unset: list[str]) -> None:
    print("unset", *unset)
    for name, value in env.items():
        print(f"export {name}={shlex.quote(value)}")
    print("# when done:")
    print("unset", *env)
    sys.stdout.flush()


def _stop(number: int, _frame: FrameType | None) -> None:
    raise _StopSignal(number)


@contextlib.contextmanager
def _signal_handlers(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle the signals that end a program in this way for a while."""
    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _in_terminal_foreground() -> bool:
    """Tell whether a terminal sends its signals to us, and so to our command too."""
    try:
        with Path("/dev/tty").open() as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False
