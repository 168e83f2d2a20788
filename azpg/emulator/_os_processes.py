"""Run a real server: wait until it says it is ready, stop it, never outlive us."""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from ._errors import EmulatorError
from ._os_user import OSUser

_START_TIMEOUT_SECONDS = 60
_STOP_TIMEOUT_SECONDS = 10


class ServerProcess:
    """Hold a running server and the signal that ends it at once."""

    def __init__(self, running: asyncio.subprocess.Process, stop_signal: signal.Signals) -> None:
        self._running = running
        self._stop_signal = stop_signal
        self._drain: asyncio.Task[None] | None = None

    async def wait_until_ready(self, *lines: str) -> None:
        """Wait until each of the texts was in a line of the server's log."""
        log = self._running.stderr
        assert log is not None  # noqa: S101  # `start` asks for the pipe
        last = deque[str](maxlen=12)
        pending = set(lines)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_TIMEOUT_SECONDS):
                while said := (await log.readline()).decode(errors="replace"):
                    last.append(said)
                    pending -= {line for line in pending if line in said}
                    if not pending:
                        # From here on nothing that the server writes is kept.
                        self._drain = asyncio.create_task(_discard_output(log))
                        return
        raise EmulatorError("A server did not start:\n" + "".join(last))

    async def ended(self) -> None:
        await self._running.wait()

    async def stop(self, stop_signal: signal.Signals | None = None) -> None:
        """End the server at once, or in the way that another signal asks for."""
        with contextlib.suppress(ProcessLookupError):
            self._running.send_signal(stop_signal or self._stop_signal)
        try:
            async with asyncio.timeout(_STOP_TIMEOUT_SECONDS):
                await self._running.wait()
        except TimeoutError:
            self._running.kill()
            await self._running.wait()
        if self._drain is not None:
            await self._drain


async def start_server(
    argv: Sequence[str | Path],
    *,
    os_user: OSUser,
    folder: Path,
    ready_messages: Sequence[str],
    stop_signal: signal.Signals,
) -> ServerProcess:
    """Start a server in the foreground of a session of its own."""
    running = await asyncio.create_subprocess_exec(
        *_pdeathsig_prefix(stop_signal),
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        cwd=folder,
        env=server_environment(),
        start_new_session=True,
        **os_user.popen_options,
    )
    process = ServerProcess(running, stop_signal)
    try:
        await process.wait_until_ready(*ready_messages)
    except BaseException:
        await process.stop()
        raise
    return process


async def run_program(argv: Sequence[str | Path], *, os_user: OSUser, folder: Path) -> None:
    """Run a program to its end; a failure carries its own words."""
    running = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        cwd=folder,
        env=server_environment(),
        start_new_session=True,
        **os_user.popen_options,
    )
    try:
        _, said = await running.communicate()
    except asyncio.CancelledError:
        # Its own children must not write into a folder that is about to be removed.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        await running.wait()
        raise
    if running.returncode:
        name = Path(argv[0]).name
        raise EmulatorError(f"{name} failed:\n{said.decode(errors='replace').strip()}")


def server_environment() -> dict[str, str]:
    """Return the servers' environment: none of the caller's PG* variables, English messages.

    A TZ spares initdb the search through all time zones for the machine's own.
    """
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def _pdeathsig_prefix(stop_signal: signal.Signals) -> list[str]:
    """Return the prefix by which Linux ends a server whose parent was killed outright."""
    setpriv = shutil.which("setpriv") if sys.platform == "linux" else None
    if setpriv is None or "busybox" in os.path.realpath(setpriv):
        return []
    return [setpriv, "--pdeathsig", stop_signal.name.removeprefix("SIG"), "--"]


async def _discard_output(log: asyncio.StreamReader) -> None:
    while await log.read(1 << 16):
        pass
