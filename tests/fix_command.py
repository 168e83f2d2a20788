"""The command `azpg` as a process of its own: plain, and in a terminal of a given width."""

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
    """What a command did."""

    status: int
    out: str
    err: str = ""


class Command(Protocol):
    """Run `azpg` with some arguments."""

    def __call__(self, *args: str, debug: bool = False, **env: str) -> Ran:
        """Take its arguments and more variables; `debug` logs all there is."""


class Screen(Protocol):
    """Return what something prints to a terminal."""

    def __call__(self, columns: int, show: Callable[[TextIO], object]) -> str:
        """Take the terminal's width, and what is handed the terminal as a stream."""


class Terminal(Protocol):
    """Run `azpg` in a terminal."""

    def __call__(self, columns: int, *args: str, **env: str) -> Ran:
        """Take the terminal's width, the arguments and more variables."""


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
        near, far = open_terminal(columns)
        with subprocess.Popen(
            [sys.executable, "-m", "azpg", *args],
            env={k: v for k, v in os.environ.items() if k != "COLUMNS"} | {"TERM": "xterm"} | env,
            stdin=far,
            stdout=far,
            stderr=far,
        ) as process:
            os.close(far)
            said = b"".join(_read(near))
            os.close(near)
            return Ran(process.wait(TIMEOUT), said.decode().replace("\r\n", "\n"))

    return run


def open_terminal(columns: int) -> tuple[int, int]:
    """Return both ends of a pseudo terminal of a width."""
    near, far = pty.openpty()
    fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    return near, far


def _read(near: int) -> Iterator[bytes]:
    while True:
        try:
            data = os.read(near, 1 << 16)
        except OSError:  # Linux says so when the last far end is closed
            return
        if not data:
            return
        yield data


@pytest.fixture
def screen() -> Screen:
    """Show something in a pseudo terminal, in this process."""

    def shown(columns: int, show: Callable[[TextIO], object]) -> str:
        near, far = open_terminal(columns)
        with ThreadPoolExecutor(1) as reader:
            said = reader.submit(lambda: b"".join(_read(near)))
            with open(far, "w", encoding="utf-8") as stream:
                show(stream)
            text = said.result().decode().replace("\r\n", "\n")
        os.close(near)
        return text

    return shown


@pytest.fixture(scope="session")
def tools() -> Path:
    """Return the folder of psql, pg_dump and pgbench: of the newest PostgreSQL installed."""
    return max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))


@pytest.fixture(scope="session")
def emulator15(tools: Path) -> Iterator[Emulator]:
    """Run an emulator with the tools' own PostgreSQL: pg_dump refuses a newer one."""
    with Emulator(postgres=tools.parent) as emulator:
        yield emulator


@pytest.fixture
def azure15(emulator15: Emulator, tools: Path, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """Export what leads to it, with its tools first on the PATH."""
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    for name, value in emulator15.env.items():
        monkeypatch.setenv(name, value)
    return emulator15
