"""The emulator's process: serve requests from the parent process, and end when it ends.

Each line on the socket is a request in JSON. It is answered by one line of JSON.
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

Requests = asyncio.Queue[dict[str, Any]]


def main(*, descriptor: int, parent_pid: int) -> None:
    """Run one emulator until the parent process closes the socket or ends.

    Args:
        descriptor: The file descriptor of the socket on which requests arrive.
        parent_pid: The process ID of the parent process.
    """
    # Each connection needs two file descriptors, and the usual soft limit is 1,024.
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Some systems report a higher limit than they allow.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    # asyncio logs clients that disconnect during the handshake, which is normal here.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    asyncio.run(_supervise(socket.socket(fileno=descriptor), parent_pid))


async def _supervise(sock: socket.socket, parent_pid: int) -> None:
    """Serve requests until the first reason to end, then clean up."""
    reader, writer = await asyncio.open_connection(sock=sock, limit=_MAX_REQUEST_BYTES)
    requests = Requests()
    reasons_to_end = [
        asyncio.create_task(_read_requests(reader, requests)),
        asyncio.create_task(_wait_for_signal()),
        asyncio.create_task(_wait_for_parent_exit(parent_pid)),
    ]
    serving = asyncio.create_task(_serve_requests(requests, writer))
    await asyncio.wait([serving, *reasons_to_end], return_when=asyncio.FIRST_COMPLETED)
    for task in [serving, *reasons_to_end]:
        task.cancel()
    outcome, *_ = await asyncio.gather(serving, *reasons_to_end, return_exceptions=True)
    with contextlib.suppress(OSError):
        writer.close()
    if isinstance(outcome, Exception):
        raise outcome


async def _serve_requests(requests: Requests, writer: asyncio.StreamWriter) -> None:
    """Call the server's method for each request; remove everything when canceled."""
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
                method = getattr(server, request["method"])
                response = {"result": await method(**request["arguments"])}
            except EmulatorError as error:
                response = {"error": str(error)}
            writer.write(json.dumps(response).encode() + b"\n")
            await writer.drain()
    finally:
        if server is not None:
            await server.stop()
        for path in (certificate_folder, folder):
            if path is not None:
                shutil.rmtree(path, ignore_errors=True)


async def _read_requests(reader: asyncio.StreamReader, requests: Requests) -> None:
    """Queue requests until the parent process closes the socket."""
    with contextlib.suppress(OSError):
        while line := await reader.readline():
            requests.put_nowait(json.loads(line))


async def _wait_for_signal() -> None:
    """Wait for a signal that asks the process to end."""
    received = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, received.set)
    await received.wait()


async def _wait_for_parent_exit(parent_pid: int) -> None:
    """Wait until the parent process ends.

    The socket does not tell: a forked child of the parent process keeps it open.
    """
    if sys.platform != "linux":
        await asyncio.Event().wait()
    descriptor = os.pidfd_open(parent_pid)
    # If the parent process had ended before that call, its ID may be another process's by now.
    if os.getppid() != parent_pid:
        return
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(descriptor, ended.set)
    await ended.wait()
