"""The emulator's own process: serves its owner over a socket, and ends when the owner does.

Each line on the socket is one request in JSON, each answered by one line.
"""

import asyncio
import contextlib
import json
import logging
import os
import resource
import shutil
import signal
import socket
import sys
from typing import Any

from azpg.emulator import _os_user
from azpg.emulator._errors import EmulatorError
from azpg.emulator._server import EmulatorServer

from .certificate_folder import make_certificate_folder

_MAX_REQUEST_BYTES = 1 << 20


def main(*, descriptor: int, parent_pid: int) -> None:
    """Run one emulator, asked over a socket's descriptor, until its owner's process ends."""
    # Each connection through a door takes two descriptors, and the usual limit is 1,024.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # some systems call more than they allow
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # Clients that hang up in the middle of a handshake are part of the job, not worth a line.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    asyncio.run(_supervise(socket.socket(fileno=descriptor), parent_pid))


async def _supervise(sock: socket.socket, parent_pid: int) -> None:
    reader, writer = await asyncio.open_connection(sock=sock, limit=_MAX_REQUEST_BYTES)
    requests = asyncio.Queue[dict[str, Any]]()
    ends = [
        asyncio.create_task(_read_requests(reader, requests)),
        asyncio.create_task(_wait_for_signal()),
        asyncio.create_task(_wait_for_parent_exit(parent_pid)),
    ]
    work = asyncio.create_task(_serve_requests(requests, writer))
    await asyncio.wait([work, *ends], return_when=asyncio.FIRST_COMPLETED)
    for task in [work, *ends]:
        task.cancel()
    outcome, *_ = await asyncio.gather(work, *ends, return_exceptions=True)
    with contextlib.suppress(OSError):
        writer.close()
    if isinstance(outcome, Exception):
        raise outcome


async def _serve_requests(
    requests: asyncio.Queue[dict[str, Any]], writer: asyncio.StreamWriter
) -> None:
    """Start the servers as the first request says, answer the others, and clean up."""
    folder = certificate_folder = server = None
    try:
        while True:
            request = await requests.get()
            try:
                if server is None:
                    os_user = _os_user.server_os_user()
                    folder = _os_user.make_runtime_folder(os_user)
                    certificate_folder = make_certificate_folder(folder)
                    server = EmulatorServer(folder, certificate_folder, os_user)
                result = await getattr(server, request["method"])(**request["arguments"])
            except EmulatorError as problem:
                answer = {"error": str(problem)}
            else:
                answer = {"result": result}
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
    finally:
        if server is not None:
            await server.stop()
        for made in (certificate_folder, folder):
            if made is not None:
                shutil.rmtree(made, ignore_errors=True)


async def _read_requests(
    reader: asyncio.StreamReader, requests: asyncio.Queue[dict[str, Any]]
) -> None:
    """Queue requests until the owner closes the socket, or has gone."""
    with contextlib.suppress(OSError):
        while line := await reader.readline():
            requests.put_nowait(json.loads(line))


async def _wait_for_signal() -> None:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, told.set)
    await told.wait()


async def _wait_for_parent_exit(pid: int) -> None:
    """Wait for the owner's end: a child that it forked keeps the socket open beyond it."""
    if sys.platform != "linux":
        await asyncio.Event().wait()
    descriptor = os.pidfd_open(pid)
    if os.getppid() != pid:  # it ended before we looked, and the number may be another's by now
        return
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(descriptor, ended.set)
    await ended.wait()
