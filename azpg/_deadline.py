"""The deadline of a connect: of the wait for a token, of each address and of the retries."""

from __future__ import annotations

import asyncio
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STOP_CHECK_SECONDS = 0.1
"""How often a wait checks whether it must stop; psycopg checks its own waits as often."""


class Stopped(Exception):  # noqa: N818  # not an error: nobody waits for the connection any more
    """The connect ended early, because its pool is closing."""


class Deadline(NamedTuple):
    """The moment at which a caller stops waiting, and the option that sets it."""

    at: float
    """of time.monotonic()"""
    seconds: float
    """the value of the option, for messages"""
    source: str
    """the option as the caller wrote it: `connect_timeout=3`, `PGCONNECT_TIMEOUT=3`,
    `retry_timeout=0`"""
    stopped: Callable[[], bool] | None = None
    """returns whether to stop before that moment"""

    def check_stopped(self) -> None:
        """Raise `Stopped` if the caller no longer waits."""
        if self.stopped is not None and self.stopped():
            raise Stopped


CURRENT: ContextVar[Deadline | None] = ContextVar("azpg_deadline", default=None)
"""The deadline that a pool sets for the connects it makes."""


def sleep(seconds: float) -> None:
    """Sleep, or raise `Stopped` as soon as the current deadline says so."""
    for part in _parts(seconds):
        time.sleep(part)


async def sleep_async(seconds: float) -> None:
    """Do the same without blocking the event loop."""
    for part in _parts(seconds):
        await asyncio.sleep(part)


def _parts(seconds: float) -> Iterator[float]:
    """Yield how long to sleep between two checks of the current deadline."""
    deadline = CURRENT.get()
    if deadline is None or deadline.stopped is None:
        yield seconds
        return
    end = time.monotonic() + seconds
    while (remaining := end - time.monotonic()) > 0:
        deadline.check_stopped()
        yield min(remaining, STOP_CHECK_SECONDS)
    deadline.check_stopped()
