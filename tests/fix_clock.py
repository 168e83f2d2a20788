"""The machine's clocks, moved as sleep, daylight saving and a wrong setting move them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from azpg._tokens.token import ClockReading

if TYPE_CHECKING:
    from collections.abc import Iterator

    from azpg.emulator import Emulator


class Clock:
    """Both clocks as azpg and azure-identity read them: the real ones, and how far they are off."""

    def __init__(self) -> None:
        self._time, self._monotonic = time.time, time.monotonic
        self._wall = self._running = 0.0
        self._azure: tuple[Emulator, float] | None = None

    def time(self) -> float:
        """Return the wall clock, as this process sees it."""
        return self._time() + self._wall

    def real_time(self) -> float:
        """Return the real time."""
        return self._time()

    def look(self) -> ClockReading:
        """Return both clocks."""
        return ClockReading(self._monotonic() + self._running, self.time())

    def of(self, azure: Emulator) -> None:
        """Let Azure's own clock go on with this one."""
        self._azure = azure, azure.clock_skew

    def leave(self) -> None:
        """Set Azure's clock back."""
        if self._azure is not None:
            azure, skew = self._azure
            azure.clock_skew = skew

    def goes_on(self, seconds: float) -> None:
        """Let time go by, for this machine and for Azure."""
        self._running += seconds
        self.sleeps(seconds)

    def sleeps(self, seconds: float) -> None:
        """Let the machine sleep: its monotonic clock stands still."""
        self._wall += seconds
        if self._azure is not None:
            self._azure[0].clock_skew += seconds

    def is_set(self, seconds: float) -> None:
        """Set the machine's clock forward, or back; Azure's stays."""
        self._wall += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """Move the clocks of this process, for one test."""
    clock = Clock()
    monkeypatch.setattr(time, "time", clock.time)
    monkeypatch.setattr("azpg._tokens.cache.read_clocks", clock.look)
    yield clock
    clock.leave()
