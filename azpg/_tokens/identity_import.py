"""Import azure.identity, which has taken 27 s on a loaded machine, and measure how long it takes.

The wait for a token does not count the import against the credential.
"""

from __future__ import annotations

import importlib
import sys
import time

_MODULE = "azure.identity"


class _Import:
    """When the import began and ended, on the monotonic clock; None if it has not yet."""

    began: float | None = None
    ended: float | None = None


def load() -> None:
    """Import azure.identity, if it is not imported yet."""
    if _MODULE in sys.modules:
        return
    _Import.began, _Import.ended = time.monotonic(), None
    try:
        importlib.import_module(_MODULE)
    finally:
        _Import.ended = time.monotonic()


def seconds_since(begun: float) -> float:
    """Return the seconds that the import has taken since a moment of the monotonic clock."""
    began, ended = _Import.began, _Import.ended
    if began is None:
        return 0.0
    end = time.monotonic() if ended is None else ended
    return max(0.0, end - max(began, begun))
