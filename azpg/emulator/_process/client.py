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

_STOP_TIMEOUT = 30
# The new interpreter finds modules where this one does, whatever the working directory. An empty
# package stands for azpg itself: no line of the library runs in the emulator's process.
_BOOT = """
import sys, types
sys.path[:] = {path!r}
azpg = sys.modules["azpg"] = types.ModuleType("azpg")
azpg.__path__ = [{package!r}]
from azpg.emulator._process import main
main.main(descriptor={descriptor}, owner={owner})
"""


class Child:
    """Start the process; it lives until `stop`, or until the process that made it ends."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair()
        with theirs:
            boot = _BOOT.format(
                package=str(Path(__file__).parents[2]),
                path=[os.path.abspath(place) for place in sys.path],
                descriptor=theirs.fileno(),
                owner=self._owner,
            )
            self._process = subprocess.Popen(
                [sys.executable, "-c", boot],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # Ctrl-C in a terminal is for the owner, who then ends it in good order.
                start_new_session=True,
                cwd="/",
            )

    def ask(self, what: str, **arguments: Any) -> Any:
        """Send one request and return what is answered."""
        if os.getpid() != self._owner:
            raise EmulatorError("Only the process that started an emulator can ask it things.")
        request = json.dumps({"do": what, "with": arguments}).encode() + b"\n"
        with self._lock:
            try:
                self._control.sendall(request)
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
        if os.getpid() != self._owner:
            return False
        # Closing alone is not seen by the other side while a forked child keeps a copy.
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._control.close()
        return True

    def _read_line(self) -> bytes:
        """Read one answer; there is only ever one under way."""
        line = b""
        while not line.endswith(b"\n"):
            part = self._control.recv(1 << 16)
            if not part:
                return b""
            line += part
        return line
