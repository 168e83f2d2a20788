"""Retry delays: exponential backoff with full jitter, limited by a retry timeout.

Nothing here reads the clock or draws random numbers: both are arguments.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_RETRY_TIMEOUT_SECONDS = 30.0
"""The retry timeout of a connect, if the caller set none."""

INITIAL_DELAY_SECONDS = 0.25
"""The longest delay before the second attempt; it doubles with each further one."""

MAX_DELAY_SECONDS = 8.0
"""The longest delay before any attempt of a connect."""

POOL_MAX_DELAY_SECONDS = 5.0
"""The longest delay before any attempt of a pool, where clients wait."""

TOO_MANY_CONNECTIONS_DELAY_SECONDS = 1.0
"""The shortest delay if the server has no free connections: they become free slowly."""

LAST_ATTEMPT_SHARE = 0.1
"""The part of the retry timeout that is left for the last attempt."""

MAX_LAST_ATTEMPT_SECONDS = 1.0
"""The most that is left for the last attempt."""

LIBPQ_MIN_TIMEOUT_SECONDS = 2
"""libpq reads a smaller connect_timeout as this."""

PSYCOPG_DEFAULT_TIMEOUT_SECONDS = 130
"""psycopg's own timeout of an attempt, which it uses if connect_timeout is 0."""


def default_retry_timeout(connect_timeout: str | None) -> float:
    """Return the retry timeout in seconds, if the caller set none.

    It is no longer than `connect_timeout`: a caller who limits one attempt to a few seconds would
    not expect the retries to take longer.
    """
    try:
        seconds = float(connect_timeout or 0)
    except ValueError:  # reported with the other invalid arguments
        return DEFAULT_RETRY_TIMEOUT_SECONDS
    if seconds > 0:
        return min(seconds, DEFAULT_RETRY_TIMEOUT_SECONDS)
    return DEFAULT_RETRY_TIMEOUT_SECONDS


def psycopg_timeout(connect_timeout: str) -> int:
    """Return the seconds that psycopg lets one address take with this connect_timeout."""
    seconds = int(float(connect_timeout))
    if seconds <= 0:
        return PSYCOPG_DEFAULT_TIMEOUT_SECONDS
    return max(seconds, LIBPQ_MIN_TIMEOUT_SECONDS)


class Backoff:
    """The delays between the attempts of one connect.

    Args:
        retry_timeout: seconds after `started` at which the last attempt must end.
        started: the moment of the first attempt, of the same clock as `now` below.
        max_delay: the longest delay, in seconds.
    """

    def __init__(
        self, retry_timeout: float, started: float, max_delay: float = MAX_DELAY_SECONDS
    ) -> None:
        self.retry_timeout = retry_timeout
        self.started = started
        self.max_delay = max_delay
        self.attempts = 0

    def next_delay(
        self,
        kind: str,
        now: float,
        uniform: Callable[[float, float], float],
        not_before: float | None = None,
    ) -> float | None:
        """Return the seconds to wait before the next attempt, or None if no time is left.

        Args:
            kind: the kind of the error that the last attempt ended with.
            now: the time.
            uniform: returns a random number between two others, as `random.uniform` does.
            not_before: the time before which another attempt is useless, if that is known.
        """
        remaining = self.remaining(now) - min(
            MAX_LAST_ATTEMPT_SECONDS, LAST_ATTEMPT_SHARE * self.retry_timeout
        )
        min_delay = TOO_MANY_CONNECTIONS_DELAY_SECONDS if kind == "too-many-connections" else 0.0
        if not_before is not None:
            min_delay = max(min_delay, not_before - now)
        if remaining <= min_delay:
            return None
        max_delay = min(self.max_delay, INITIAL_DELAY_SECONDS * 2**self.attempts)
        self.attempts += 1
        return min(remaining, max(min_delay, uniform(0.0, max_delay)))

    def attempt_timeout(self, connect_timeout: str, now: float) -> str:
        """Return the connect_timeout of the next attempt: the caller's, or what time remains."""
        remaining = max(LIBPQ_MIN_TIMEOUT_SECONDS, self.remaining(now))
        return (
            connect_timeout
            if psycopg_timeout(connect_timeout) <= remaining
            else str(math.ceil(remaining))
        )

    def remaining(self, now: float) -> float:
        """Return the seconds until the retry timeout is over."""
        return self.started + self.retry_timeout - now
