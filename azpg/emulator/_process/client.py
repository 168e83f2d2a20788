"""Start the emulator's process, send it requests and stop it."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from azpg.emulator._errors import EmulatorError

_STOP_TIMEOUT_SECONDS = 30
_CHUNK_BYTES = 1 << 16
# The new interpreter gets this one's import path, so that it finds the same modules in any working
# directory. An empty module replaces azpg itself, so that no code of the library runs in it.
_BOOTSTRAP = """
import sys, types
sys.path[:] = {path!r}
azpg = sys.modules["azpg"] = types.ModuleType("azpg")
azpg.__path__ = [{package!r}]
from azpg.emulator._process import main
main.main(descriptor={descriptor}, parent_pid={parent_pid})
"""


class EmulatorProcess:
    """A running process; it ends at `stop`, or when the process that started it ends."""

    def __init__(self) -> None:
        self._parent_pid = os.getpid()
        self._lock = threading.Lock()
        self._socket, child_socket = socket.socketpair()
        with child_socket:
            bootstrap = _BOOTSTRAP.format(
                package=str(Path(__file__).parents[2]),
                path=[os.path.abspath(folder) for folder in sys.path],
                descriptor=child_socket.fileno(),
                parent_pid=self._parent_pid,
            )
            self._popen = subprocess.Popen(
                [sys.executable, "-c", bootstrap],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[child_socket.fileno()],
                # In a session of its own it does not receive Ctrl-C from the terminal. This
                # process does, and then stops it in an orderly way.
                start_new_session=True,
                cwd="/",
            )

    def request(self, method: str, **arguments: Any) -> Any:
        """Call a method of `EmulatorServer` in the process and return its result.

        Raises:
            EmulatorError: If the method raises one, or the process has ended.
        """
        if os.getpid() != self._parent_pid:
            raise EmulatorError("Only the process that started an emulator can ask it things.")
        request = json.dumps({"method": method, "arguments": arguments}).encode() + b"\n"
        with self._lock:
            try:
                self._socket.sendall(request)
                line = self._read_line()
            except OSError:
                line = b""
        if not line:
            raise EmulatorError("The emulator's process has ended; what it wrote is above.")
        response = json.loads(line)
        if "error" in response:
            raise EmulatorError(response["error"])
        return response["result"]

    def stop(self) -> bool:
        """Stop the process and wait until it has ended.

        Returns:
            False in a forked child, which cannot stop it; otherwise True.
        """
        if os.getpid() != self._parent_pid:
            return False
        # `close` would not be noticed while a forked child has a copy of the socket.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        try:
            self._popen.wait(_STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        self._socket.close()
        return True

    def _read_line(self) -> bytes:
        """Return one response, or no bytes if the process has closed the socket.

        Only one request is sent at a time, so nothing follows the line.
        """
        line = b""
        while not line.endswith(b"\n"):
            part = self._socket.recv(_CHUNK_BYTES)
            if not part:
                return b""
            line += part
        return line
