"""Run the command `azpg` in a process of its own: with pipes, or in a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, TextIO

import pytest

from azpg.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TIMEOUT = 60


class Ran(NamedTuple):
    """The result of a command."""

    status: int
    out: str
    err: str = ""


class Command(Protocol):
    """Run `azpg` with some arguments."""

    def __call__(self, *args: str, debug: bool = False, **env: str) -> Ran:
        """Return the result for arguments and additional variables; `debug` logs everything."""


class Screen(Protocol):
    """Call a function with a terminal as its stream."""

    def __call__(self, columns: int, write: Callable[[TextIO], object]) -> str:
        """Return what the function writes to a terminal of that width."""


class Terminal(Protocol):
    """Run `azpg` in a terminal."""

    def __call__(self, columns: int, *args: str, **env: str) -> Ran:
        """Return the result for a terminal's width, arguments and additional variables."""


_DEBUG = (
    "import logging, sys; logging.basicConfig(level=logging.DEBUG); "
    "from azpg._cli.main import main; sys.exit(main())"
)


@pytest.fixture
def command() -> Command:
    """Run `azpg` in the test's environment."""

    def run(*args: str, debug: bool = False, **env: str) -> Ran:
        program = ["-c", _DEBUG] if debug else ["-m", "azpg"]
        done = subprocess.run(
            [sys.executable, *program, *args],
            env=os.environ | env,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT,
            stdin=subprocess.DEVNULL,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def terminal() -> Terminal:
    """Run `azpg` in a pseudo terminal of the test's environment."""

    def run(columns: int, *args: str, **env: str) -> Ran:
        controller, tty = open_terminal(columns)
        with subprocess.Popen(
            [sys.executable, "-m", "azpg", *args],
            env={k: v for k, v in os.environ.items() if k != "COLUMNS"} | {"TERM": "xterm"} | env,
            stdin=tty,
            stdout=tty,
            stderr=tty,
        ) as process:
            os.close(tty)
            output = b"".join(_read(controller))
            os.close(controller)
            return Ran(process.wait(TIMEOUT), output.decode().replace("\r\n", "\n"))

    return run


def open_terminal(columns: int) -> tuple[int, int]:
    """Return the controlling end and the terminal end of a pseudo terminal."""
    try:
        controller, tty = pty.openpty()
    except OSError as error:
        pytest.fail(f"this machine has no pseudo terminal ({error}): mount devpts", pytrace=False)
    fcntl.ioctl(tty, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    return controller, tty


def _read(controller: int) -> Iterator[bytes]:
    while True:
        try:
            data = os.read(controller, 1 << 16)
        except OSError:  # on Linux: the last terminal end is closed
            return
        if not data:
            return
        yield data


@pytest.fixture
def screen() -> Screen:
    """Write to a pseudo terminal in this process."""

    def run(columns: int, write: Callable[[TextIO], object]) -> str:
        controller, tty = open_terminal(columns)
        with ThreadPoolExecutor(1) as reader:
            output = reader.submit(lambda: b"".join(_read(controller)))
            with open(tty, "w", encoding="utf-8") as stream:
                write(stream)
            text = output.result().decode().replace("\r\n", "\n")
        os.close(controller)
        return text

    return run


@pytest.fixture(scope="session")
def tools() -> Path:
    """Return the folder of psql, pg_dump and pgbench of the newest PostgreSQL installed."""
    return max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))


@pytest.fixture(scope="session")
def emulator15(tools: Path) -> Iterator[Emulator]:
    """Run an emulator with the tools' version of PostgreSQL: pg_dump rejects a newer server."""
    with Emulator(postgres=tools.parent) as emulator:
        yield emulator


@pytest.fixture
def azure15(emulator15: Emulator, tools: Path, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """Set the variables that lead to that emulator, and put its tools first on the PATH."""
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    for name, value in emulator15.env.items():
        monkeypatch.setenv(name, value)
    return emulator15
