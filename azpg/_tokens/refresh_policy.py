"""When a cached token is handed out, refreshed and given up. Pure.

received        refresh_after              300 s left        20 s left   expires
|--------------------|==============================|=================|----------|
        fresh                      stale: refreshed in the background     expired
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from .token import MIN_REMAINING_SECONDS, Token

if TYPE_CHECKING:
    from .token import ClockReading

Jitter: TypeAlias = Callable[[float, float], float]
"""returns a random number between two, as `random.uniform` does"""

REFRESH_THRESHOLD_SECONDS = 300.0
"""Remaining lifetime at which azure-identity refreshes a token that has no refresh time."""

UNCHANGED_TOKEN_RETRY_SECONDS = 30.0
"""Time between two requests while the credential keeps returning the same token."""

REFRESH_BACKOFF_INITIAL_SECONDS, REFRESH_BACKOFF_MAX_SECONDS = 5.0, 60.0
"""Delay after a refresh that failed; doubled each time, up to the maximum."""

REJECTION_COOLDOWN_SECONDS = 60.0
"""Time in which a token that the server rejected is replaced at most once."""

NEXT_REQUEST_AFTER_SECONDS = 5.0
"""Age of an unanswered request at which a caller that needs a token starts another one."""

MAX_REQUESTS = 3
"""Requests of one credential that are in progress at most: an identity endpoint of Azure takes
five at a time."""


class CachedToken(NamedTuple):
    """A token in the cache, and when it is refreshed."""

    token: Token
    refresh_after: float
    """seconds since the token was received"""
    failures: int = 0

    def state(self, now: ClockReading) -> Literal["fresh", "stale", "expired"]:
        """Return whether to hand the token out, to refresh it as well, or neither."""
        age = now.seconds_since(self.token.received)
        if self.token.ttl - age <= MIN_REMAINING_SECONDS:
            return "expired"
        return "stale" if age >= self.refresh_after else "fresh"

    def after_unchanged(self, now: ClockReading, jitter: Jitter) -> CachedToken:
        """Return the state after the credential returned a token that is no newer."""
        threshold = REFRESH_THRESHOLD_SECONDS
        last_minutes = self.token.ttl - threshold + jitter(0.0, threshold / 5)
        age = now.seconds_since(self.token.received)
        if age < last_minutes:
            return CachedToken(self.token, last_minutes)
        return CachedToken(self.token, age + UNCHANGED_TOKEN_RETRY_SECONDS * jitter(0.9, 1.1))

    def after_failure(self, now: ClockReading, jitter: Jitter) -> CachedToken:
        """Return the state after a refresh that failed."""
        doubled = REFRESH_BACKOFF_INITIAL_SECONDS * 2.0 ** min(self.failures, 8)
        delay = min(REFRESH_BACKOFF_MAX_SECONDS, doubled) * jitter(0.5, 1.0)
        age = now.seconds_since(self.token.received)
        return CachedToken(self.token, age + delay, self.failures + 1)


def next_request_delay(started: Sequence[float], now: float) -> float | None:
    """Return the seconds until another request may be started, or None if none may be.

    Args:
        started: When the requests that are in progress were started, the newest one last.
        now: The time of the same clock.
    """
    if len(started) >= MAX_REQUESTS:
        return None
    return max(0.0, started[-1] + NEXT_REQUEST_AFTER_SECONDS - now) if started else 0.0


def refresh_delay(token: Token, jitter: Jitter) -> float:
    """Return the seconds after which a new token is refreshed.

    The credential's own refresh time counts if it is early enough; otherwise a token is refreshed
    when azure-identity would do it too, and a short-lived one at half of its lifetime.
    """
    threshold = REFRESH_THRESHOLD_SECONDS
    if token.ttl > 2 * threshold:
        latest = token.ttl - threshold + jitter(0.0, threshold / 5)
    else:
        latest = token.ttl * jitter(0.5, 0.6)
    if token.refresh_in is not None and 0.0 < token.refresh_in < latest:
        return token.refresh_in + jitter(0.0, (latest - token.refresh_in) / 10)
    return latest


def after_response(
    cached: CachedToken | None, token: Token, now: ClockReading, jitter: Jitter
) -> CachedToken | None:
    """Return the state after the credential returned a token, or None if nothing is usable."""
    if cached is not None and cached.token.is_usable(now):
        if not token.is_newer_than(cached.token, now):
            return cached.after_unchanged(now, jitter)
    elif cached is not None and token.is_same_as(cached.token):
        return None
    return CachedToken(token, refresh_delay(token, jitter)) if token.is_usable(now) else None
