"""Start the real servers, wait until they are ready, and stop them with the emulator."""

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
_LOG_LINES_IN_ERROR = 12
_CHUNK_BYTES = 1 << 16


class ServerProcess:
    """A running server.

    Args:
        process: The operating system process.
        stop_signal: The signal that makes the server end at once.
    """

    def __init__(self, process: asyncio.subprocess.Process, stop_signal: signal.Signals) -> None:
        self._process = process
        self._stop_signal = stop_signal
        self._drain_task: asyncio.Task[None] | None = None

    async def wait_until_ready(self, *messages: str) -> None:
        """Wait until the server has logged each of the messages.

        Raises:
            EmulatorError: If it ends or takes too long; the message has the end of its log.
        """
        log = self._process.stderr
        assert log is not None  # noqa: S101  # `start_server` requests the pipe
        last_lines = deque[str](maxlen=_LOG_LINES_IN_ERROR)
        pending = set(messages)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_TIMEOUT_SECONDS):
                while line := (await log.readline()).decode(errors="replace"):
                    last_lines.append(line)
                    pending -= {message for message in pending if message in line}
                    if not pending:
                        # The log may contain what clients sent, so nothing more of it is kept.
                        self._drain_task = asyncio.create_task(_discard_output(log))
                        return
        raise EmulatorError("A server did not start:\n" + "".join(last_lines))

    async def stop(self, stop_signal: signal.Signals | None = None) -> None:
        """Stop the server, and kill it if it does not end in time.

        Args:
            stop_signal: Another signal than the one that makes the server end at once.
        """
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(stop_signal or self._stop_signal)
        try:
            async with asyncio.timeout(_STOP_TIMEOUT_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        if self._drain_task is not None:
            await self._drain_task


async def start_server(
    argv: Sequence[str | Path],
    *,
    os_user: OSUser,
    folder: Path,
    ready_messages: Sequence[str],
    stop_signal: signal.Signals,
) -> ServerProcess:
    """Start a server as a foreground process in a session of its own.

    Args:
        argv: The program and its arguments.
        os_user: The user to run it as.
        folder: Its working directory.
        ready_messages: What it logs when it is ready; returns when it has logged all of them.
        stop_signal: The signal that makes it end at once.
    """
    process = await asyncio.create_subprocess_exec(
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
    server = ServerProcess(process, stop_signal)
    try:
        await server.wait_until_ready(*ready_messages)
    except BaseException:
        await server.stop()
        raise
    return server


async def run_program(argv: Sequence[str | Path], *, os_user: OSUser, folder: Path) -> str:
    """Run a program until it ends and return its error output.

    Raises:
        EmulatorError: If it fails; the message has its error output.
    """
    process = await asyncio.create_subprocess_exec(
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
        _, stderr = await process.communicate()
    except asyncio.CancelledError:
        # Its children have to end too, because they write into a folder that is removed next.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise
    output = stderr.decode(errors="replace")
    if process.returncode:
        raise EmulatorError(f"{Path(argv[0]).name} failed:\n{output.strip()}")
    return output


def server_environment() -> dict[str, str]:
    """Return the servers' environment: without the caller's PG* variables, in English.

    TZ is set because without it initdb searches all time zones for the machine's.
    """
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def _pdeathsig_prefix(stop_signal: signal.Signals) -> list[str]:
    """Return the command prefix that makes Linux stop a server if its parent is killed."""
    setpriv = shutil.which("setpriv") if sys.platform == "linux" else None
    if setpriv is None or "busybox" in os.path.realpath(setpriv):
        return []
    return [setpriv, "--pdeathsig", stop_signal.name.removeprefix("SIG"), "--"]


async def _discard_output(log: asyncio.StreamReader) -> None:
    while await log.read(_CHUNK_BYTES):
        pass
