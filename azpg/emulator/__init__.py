"""A small Azure Database for PostgreSQL on this machine, for tests and first steps.

It imitates Azure, not azpg: it imports nothing of the library and shares no constant with it,
so that a mistake there meets a server that does not share it.
"""

from ._counters import Counts
from ._emulator import Emulator
from ._entra.principals import Principal
from ._errors import EmulatorError

__all__ = ["Counts", "Emulator", "EmulatorError", "Principal"]

# Tracebacks and reprs show where the names are meant to be imported from.
for _name in __all__:
    globals()[_name].__module__ = __name__
del _name
