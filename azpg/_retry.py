"""When a failed connect is tried again, and when not. Pure: clock and chance come in."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

BUDGET = 30.0
"""Seconds that a connect tries again, where nobody said how long."""

FIRST, CAP = 0.25, 8.0
"""Seconds that the first pause, and any, may last at most."""

POOL_CAP = 5.0
"""The same for a pool, where clients wait."""

BUSY = 1.0
"""Seconds that a server without free connections is left alone at least."""

LEAST, MOST = 2, 130
"""Seconds that libpq waits for an address at least, and psycopg where connect_timeout is 0."""


def budget(connect_timeout: str | None) -> float:
    """Return the seconds for tries: who asked to wait less for one is not kept waiting by all."""
    try:
        asked = float(connect_timeout or 0)
    except ValueError:  # told with the call's other problems
        return BUDGET
    return min(asked, BUDGET) if asked > 0 else BUDGET


class Deadline(NamedTuple):
    """The moment at which a caller stops waiting, and who set it."""

    at: float
    """of time.monotonic()"""
    seconds: float
    """what was asked for, for messages"""
    source: str
    """as a person typed it: `connect_timeout=3`, `PGCONNECT_TIMEOUT=3`, `retry_timeout=0`"""


class Retry:
    """The pauses of one connect: exponential with full jitter, within a budget of seconds."""

    def __init__(self, budget: float, started: float, cap: float = CAP) -> None:
        self.budget = budget
        self.started = started
        self.cap = cap
        self.tries = 0

    def pause(self, kind: str, now: float, chance: Callable[[float, float], float]) -> float | None:
        """Return the seconds to wait before the next try, or None when the budget is spent."""
        left = self._left(now)
        at_least = BUSY if kind == "too-many-connections" else 0.0
        if left <= at_least:
            return None
        most = min(self.cap, FIRST * 2**self.tries)
        self.tries += 1
        return min(left, max(at_least, chance(0.0, most)))

    def timeout(self, asked: str, now: float) -> str:
        """Return the connect_timeout of the next try: what was asked, or what is left if less."""
        seconds = float(asked)
        left = max(LEAST, self._left(now))
        return asked if (seconds if seconds > 0 else MOST) <= left else str(math.ceil(left))

    def _left(self, now: float) -> float:
        return self.started + self.budget - now
