"""The emulator's process as its owner holds it: started, asked, ended."""

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
# The new interpreter finds modules where this one does, whatever the working directory. An empty
# package stands for azpg itself: no line of the library runs in the emulator's process.
_BOOT = """
import sys, types
sys.path[:] = {path!r}
azpg = sys.modules["azpg"] = types.ModuleType("azpg")
azpg.__path__ = [{package!r}]
from azpg.emulator._process import main
main.main(descriptor={descriptor}, parent_pid={parent_pid})
"""


class EmulatorProcess:
    """Start the process; it lives until `stop`, or until the process that made it ends."""

    def __init__(self) -> None:
        self._parent_pid = os.getpid()
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair()
        with theirs:
            boot = _BOOT.format(
                package=str(Path(__file__).parents[2]),
                path=[os.path.abspath(folder) for folder in sys.path],
                descriptor=theirs.fileno(),
                parent_pid=self._parent_pid,
            )
            self._popen = subprocess.Popen(
                [sys.executable, "-c", boot],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # Ctrl-C in a terminal is for the owner, who then ends it in good order.
                start_new_session=True,
                cwd="/",
            )

    def request(self, method: str, **arguments: Any) -> Any:
        """Send one request and return what is answered."""
        if os.getpid() != self._parent_pid:
            raise EmulatorError("Only the process that started an emulator can ask it things.")
        line = json.dumps({"method": method, "arguments": arguments}).encode() + b"\n"
        with self._lock:
            try:
                self._socket.sendall(line)
                line = self._read_line()
            except OSError:
                line = b""
        if not line:
            raise EmulatorError("The emulator's process has ended; what it wrote is above.")
        answer = json.loads(line)
        if "error" in answer:
            raise EmulatorError(answer["error"])
        return answer["result"]

    def stop(self) -> bool:
        """End the process and wait for it; a forked child, whose it is not, is told False."""
        if os.getpid() != self._parent_pid:
            return False
        # Closing alone is not seen by the other side while a forked child keeps a copy.
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
        """Read one answer; there is only ever one under way."""
        line = b""
        while not line.endswith(b"\n"):
            part = self._socket.recv(1 << 16)
            if not part:
                return b""
            line += part
        return line
