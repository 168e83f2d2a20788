"""Run functions of a test as a program of their own, which must end in time and in silence."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT = 120

# The watchdog's thread would be missing in a forked child, so it pauses for the fork. azpg warns
# that variables lead elsewhere: here they lead to the emulator.
_BEFORE = f"""
import faulthandler, logging, os

def watch():
    faulthandler.dump_traceback_later({TIMEOUT / 2}, exit=True)

os.register_at_fork(
    before=faulthandler.cancel_dump_traceback_later, after_in_parent=watch, after_in_child=watch
)
logging.getLogger("azpg").setLevel(logging.ERROR)
"""

Program: TypeAlias = Callable[..., list[str]]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Run the first of some functions as a program, with the others beside it.

    Return the lines it printed. Whatever it writes to stderr is a failure, warnings too; only the
    one of a fork beside threads is expected, from 3.12 on.
    """

    def run(main: Callable[..., object], *others: Callable[..., object], **options: Any) -> Any:
        sources = [textwrap.dedent(inspect.getsource(each)) for each in (*others, main)]
        asked = ", ".join(f"{name}={value!r}" for name, value in options.items())
        begin = f'if __name__ == "__main__":\n    watch()\n    {main.__name__}({asked})\n'
        path = tmp_path / "program.py"
        text = "\n".join(["from __future__ import annotations", _BEFORE, *sources, begin])
        path.write_text(text, encoding="utf-8")
        switches = ["-W", "error", "-W", "ignore:This process:DeprecationWarning"]
        started = subprocess.Popen(
            [sys.executable, *switches, path],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            printed, said = started.communicate(timeout=TIMEOUT)
        finally:
            with suppress(ProcessLookupError):  # its children are of its group
                os.killpg(started.pid, signal.SIGKILL)
        assert (said, started.returncode) == ("", 0)
        return printed.splitlines()

    return run
