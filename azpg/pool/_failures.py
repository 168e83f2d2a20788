"""Why a pool could not connect, and when it tries again."""

from __future__ import annotations

import copy
import math
import random
import time
from typing import TYPE_CHECKING, TypeVar

from psycopg_pool.base import AttemptWithBackoff

from azpg import _retry
from azpg.errors import ConfigError, ConnectError, clean

if TYPE_CHECKING:
    import psycopg
    from psycopg_pool import PoolTimeout

E = TypeVar("E", bound=BaseException)

REST = 1.0
"""Seconds that a pool does not try again after a failure that no further try can mend."""


def own(error: E) -> E:
    """Return the same error as an exception of its own, for one more who is to be told."""
    return clean(copy.copy(error))


class Causes:
    """What a pool remembers of its connects. It waits for nothing and locks nothing."""

    successes = 0

    def __init__(self) -> None:
        self._failure: Exception | None = None
        self._failed_at = -math.inf

    def succeeded(self) -> None:
        """Forget what went before."""
        self.forget()
        self.successes += 1

    def forget(self) -> None:
        """Give what failed another chance."""
        self._failure = None

    def failed(self, failure: Exception, since: int) -> None:
        """Remember the latest failure, unless another connect has succeeded since it began."""
        if self.successes > since:
            return
        # Its frames hold the pool's own options: they do not live as long as the pool.
        self._failure = failure.with_traceback(None)
        self._failed_at = time.monotonic()

    @property
    def kind(self) -> str:
        """What the latest failure was."""
        return getattr(self._failure, "kind", "")

    def final(self) -> psycopg.Error | None:
        """Return the failure that no further try can mend, as an exception of its own."""
        failure = self._failure
        if isinstance(failure, ConfigError) or (
            isinstance(failure, ConnectError) and not failure.transient
        ):
            return own(failure)
        return None

    def resting(self) -> psycopg.Error | None:
        """Return the same while it is too early to try again."""
        if self._failure is None or time.monotonic() - self._failed_at >= REST:
            return None
        return self.final()

    def explained(self, timeout: PoolTimeout) -> PoolTimeout:
        """Return a pool's timeout with the reason why no connection could be made, if any."""
        if self._failure is None:
            return timeout.with_traceback(None)
        explained = type(timeout)(f"{timeout}; the last connection failed: {self._failure}")
        explained.__cause__ = self._failure
        return explained


class Attempt(AttemptWithBackoff):
    """The tries at one connection of a pool: as connect() tries, but for where and how long."""

    def __init__(self, causes: Causes, timeout: float) -> None:
        super().__init__(timeout=timeout)
        self._causes = causes
        self._retry: _retry.Backoff | None = None

    def update_delay(self, now: float) -> None:
        """Set the seconds to the next try."""
        if self._retry is None:
            self._retry = _retry.Backoff(self.timeout, now, max_delay=_retry.POOL_MAX_DELAY_SECONDS)
            self.give_up_at = now + self.timeout
        pause = self._retry.next_delay(self._causes.kind, now, random.uniform)
        self.delay = max(0.0, self.give_up_at - now) if pause is None else pause

    def time_to_give_up(self, now: float) -> bool:
        """Tell whether the time is up, or no further try can help."""
        return self._causes.final() is not None or super().time_to_give_up(now)
