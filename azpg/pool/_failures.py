"""Which connection attempts of a pool failed and why, and when the pool tries again."""

from __future__ import annotations

import copy
import math
import random
import time
from typing import TYPE_CHECKING, TypeVar, cast

from psycopg_pool.base import AttemptWithBackoff

from azpg import _retry
from azpg.errors import ConfigError, ConnectError

from ._errors import connecting_error, timeout_error

if TYPE_CHECKING:
    import psycopg
    from psycopg_pool import PoolTimeout

E = TypeVar("E", bound=BaseException)

PERMANENT_FAILURE_COOLDOWN_SECONDS = 1.0
"""How long a pool does not connect after a permanent failure, however many clients ask."""

SAME_FAILURE_SECONDS = 0.2
"""How long after a failure the same one counts as another worker's."""


def copy_error(error: E) -> E:
    """Return a copy of an error, so that each waiting client raises its own instance."""
    copied = copy.copy(error)
    copied.__cause__ = error.__cause__
    copied.__context__ = error.__context__
    copied.__suppress_context__ = error.__suppress_context__
    return copied


def is_permanent(failure: BaseException | None) -> bool:
    """Return whether the same attempt cannot succeed later without a change."""
    return isinstance(failure, ConfigError) or (
        isinstance(failure, ConnectError) and not failure.transient
    )


class FailureHistory:
    """The latest failure of a pool, and how many connections it made. No I/O, no locks.

    A failure is permanent if it is an azpg error and is not transient. Any other
    error, such as one that the caller's `configure` raised, may not occur again.
    """

    def __init__(self) -> None:
        self.successes = 0
        self._restarts = 0
        self._failure: Exception | None = None
        self._failed_at = -math.inf
        self._logged = ("", -math.inf)
        """the text and the time of the last failure that was logged"""

    def record_success(self) -> None:
        """Count a connection, and forget the failures before it."""
        self.forget()
        self.successes += 1

    @property
    def changes(self) -> int:
        """How often a connection was made, or the arguments of the connections have changed."""
        return self.successes + self._restarts

    def record_failure(self, failure: Exception, changes_before: int) -> None:
        """Remember a failure, unless it is out of date.

        Args:
            failure: The error of the attempt.
            changes_before: The value of `changes` when the attempt began. If it has grown, another
                attempt has succeeded since, or this one had arguments that have changed.
        """
        if self.changes > changes_before:
            return
        # The frames of the traceback hold the pool's options, and must not live as long as it
        self._failure = failure.with_traceback(None)
        self._failed_at = time.monotonic()

    def is_news(self, failure: BaseException) -> bool:
        """Return whether to log a failure: several workers fail alike at the same time."""
        text, now = str(failure), time.monotonic()
        last_text, last_at = self._logged
        self._logged = text, now
        return text != last_text or now - last_at >= SAME_FAILURE_SECONDS

    def forget(self) -> None:
        """Forget the latest failure, so that the pool connects again."""
        self._failure = None

    def restart(self) -> None:
        """Forget the failures of the arguments that have changed, also those that follow."""
        self.forget()
        self._restarts += 1

    @property
    def kind(self) -> str:
        """The error kind of the latest failure, or "" if there is none."""
        return getattr(self._failure, "kind", "")

    def permanent(self) -> psycopg.Error | None:
        """Return a copy of the latest failure if it is permanent, otherwise None."""
        failure = self._failure
        if failure is None or not is_permanent(failure):
            return None
        return copy_error(cast("psycopg.Error", failure))

    def cooling_down(self) -> bool:
        """Return whether it is too early to connect again after a permanent failure."""
        return self.remaining_cooldown() > 0

    def remaining_cooldown(self) -> float:
        """Return the seconds until the pool connects again after a permanent failure, or 0."""
        if self._failure is None:
            return 0.0
        remaining = self._failed_at + PERMANENT_FAILURE_COOLDOWN_SECONDS - time.monotonic()
        return remaining if remaining > 0 and self.permanent() is not None else 0.0

    def error_of_timeout(self, timeout: PoolTimeout, *, is_connecting: bool) -> psycopg.Error:
        """Return the error to raise for a pool's timeout; the latest failure is its cause.

        Args:
            timeout: The timeout.
            is_connecting: Whether a connection attempt is in progress.
        """
        if self._failure is not None:
            return timeout_error(timeout, self._failure)
        return connecting_error(timeout) if is_connecting else timeout.with_traceback(None)


class PoolAttempt(AttemptWithBackoff):
    """psycopg_pool's attempts to make one connection, with the delays that `connect` has."""

    def __init__(self, history: FailureHistory, timeout: float) -> None:
        super().__init__(timeout=timeout)
        self._history = history
        self._backoff: _retry.Backoff | None = None

    def update_delay(self, now: float) -> None:
        """Set the seconds to wait before the next attempt."""
        if self._backoff is None:
            self._backoff = _retry.Backoff(
                self.timeout, now, max_delay=_retry.POOL_MAX_DELAY_SECONDS
            )
            self.give_up_at = now + self.timeout
        delay = self._backoff.next_delay(self._history.kind, now, random.uniform)
        self.delay = max(0.0, self.give_up_at - now) if delay is None else delay

    def time_to_give_up(self, now: float) -> bool:
        """Return whether `timeout` is over, or the latest failure is permanent."""
        return self._history.permanent() is not None or super().time_to_give_up(now)
