"""Emulate Azure Database for PostgreSQL on this machine, for tests and first steps.

The emulator imports nothing from the rest of azpg and shares no constant with it. A mistake in
azpg, such as a wrong scope or port, is not repeated by the emulator and therefore fails a test.
"""

import sys

if sys.platform == "win32":
    raise ImportError("the emulator needs Linux or macOS: on Windows run it in WSL", name=__name__)

from ._counters import Counts
from ._emulator import Emulator
from ._entra.principals import Principal
from ._errors import EmulatorError

__all__ = ["Counts", "Emulator", "EmulatorError", "Principal"]

# Tracebacks and reprs show the public module, from which users import these names.
for _name in __all__:
    globals()[_name].__module__ = __name__
del _name
