"""The command `azpg emulator`: run a command with an emulator, or print what to export."""

# ruff: noqa: T201  # this is a command, whose output is printed

import argparse
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from ._azure_extensions import ALLOWED_BY_DEFAULT
from ._emulator import Emulator
from ._errors import EmulatorError

_EXAMPLES = """\
examples:
  azpg emulator
  azpg emulator -- pytest
  azpg emulator --postgres DIR -- pytest"""

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _StopSignal(BaseException):  # like KeyboardInterrupt, it is not an error
    """Raised in the main thread when a signal asks the command to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(argv: Sequence[str]) -> int:
    """Run `azpg emulator` and return the exit status.

    Example::

        main(["--", "pytest", "-q"])

    Args:
        argv: The arguments after `azpg emulator`.
    """
    options = _parser().parse_args(argv)
    try:
        emulator = Emulator(
            host=options.host,
            postgres=options.postgres,
            extensions=options.extensions,
            token_lifetime=options.token_lifetime,
            imds=options.imds,
        )
        if not options.command or sys.stderr.isatty():
            _tell("Starting an emulator of Azure (PostgreSQL, PgBouncer) on this machine …")
        with _signal_handlers(_raise_stop_signal), emulator:
            for note in emulator.notes:
                print(note, file=sys.stderr)
            env = emulator.imds_env if options.imds else emulator.env
            env_to_unset = [*emulator.env_to_unset, *sorted(emulator.env.keys() - env.keys())]
            if options.command:
                return _run_command(options.command, env, env_to_unset)
            _tell("Paste these lines into another terminal, and run your program there:\n")
            _print_exports(env, env_to_unset)
            _tell("\nThe emulator runs until you press Ctrl-C here.")
            while True:
                signal.pause()
    except EmulatorError as error:
        print(f"azpg emulator: {error}", file=sys.stderr)
        return 1
    except _StopSignal as stop:
        # Without a command, a signal is the normal way to end the emulator.
        return 128 + stop.number if options.command else 0


def _tell(line: str) -> None:
    """Print a line for the user on stderr, so that stdout holds only what a shell can run."""
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="azpg emulator",
        description=_wrap(
            "Run an emulator of Azure Database for PostgreSQL on this machine, for development and "
            "tests. With a command, it runs the command and ends with it. Without one, it prints "
            "the variables to set in another terminal, and runs until Ctrl-C."
        ),
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--host",
        default="myserver.postgres.database.azure.com",
        metavar="NAME",
        help="the server's full name (default: that of myserver in the public cloud)",
    )
    parser.add_argument(
        "--postgres",
        metavar="DIR",
        help="the folder of the PostgreSQL to run (default: the bundled one)",
    )
    parser.add_argument(
        "--extensions",
        type=_names,
        default=",".join(ALLOWED_BY_DEFAULT),
        metavar="NAMES",
        help="the extensions that may be created, separated by commas, as in the server parameter "
        "azure.extensions (default: %(default)s)",
    )
    parser.add_argument(
        "--token-lifetime",
        type=float,
        default=3600.0,
        metavar="SECONDS",
        help="how long tokens are valid (default: %(default).0f)",
    )
    parser.add_argument(
        "--imds",
        action="store_true",
        help="serve tokens like the identity endpoint of a virtual machine, which needs no secret: "
        "any user of this machine can get one (default: like App Service, with a secret)",
    )
    parser.add_argument(
        "command", nargs="*", metavar="COMMAND", help="the command to run, after --"
    )
    return parser


def _wrap(text: str) -> str:
    """Return the text with lines as long as the terminal's; a longer word stays whole."""
    columns = max(shutil.get_terminal_size().columns, 20)
    return textwrap.fill(text, columns, break_long_words=False, break_on_hyphens=False)


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name.strip()]


def _run_command(command: list[str], env: dict[str, str], env_to_unset: list[str]) -> int:
    """Run the command with the emulator's environment variables and return its exit status.

    As in a shell, the status is 128 plus the signal's number if a signal has ended the command.
    """
    inherited_env = {name: value for name, value in os.environ.items() if name not in env_to_unset}
    pending_signals: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def forward(number: int, _frame: FrameType | None) -> None:
        if process is None:
            pending_signals.append(number)
        elif number != signal.SIGINT or not _in_terminal_foreground():
            # If this process has received Ctrl-C from a terminal, so has the command.
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


def _print_exports(env: dict[str, str], env_to_unset: list[str]) -> None:
    """Print shell commands that set the environment variables, and how to unset them."""
    print("unset", *env_to_unset)
    for name, value in env.items():
        print(f"export {name}={shlex.quote(value)}")
    print("# when done: unset", *env)
    sys.stdout.flush()


def _raise_stop_signal(number: int, _frame: FrameType | None) -> None:
    raise _StopSignal(number)


@contextlib.contextmanager
def _signal_handlers(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle the signals that end a program for as long as the context lasts."""
    previous_handlers = {number: signal.signal(number, handler) for number in _STOP_SIGNALS}
    try:
        yield
    finally:
        for number, previous_handler in previous_handlers.items():
            signal.signal(number, previous_handler)


def _in_terminal_foreground() -> bool:
    """Return whether this process, and so the command too, receives signals from a terminal."""
    try:
        with Path("/dev/tty").open() as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False
