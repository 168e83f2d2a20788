"""When a cached token is handed out, refreshed and given up. Pure.

received        refresh_after              300 s left        20 s left   expires
|--------------------|==============================|=================|----------|
        fresh                      stale: refreshed in the background     expired
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias

from .token import MIN_REMAINING_SECONDS, ClockReading, Token

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
"""Requests of one credential that are in progress at most. The identity endpoint of a virtual
machine allows five a second (learn.microsoft.com/azure/virtual-machines/
instance-metadata-service#rate-limiting, copy of 07/2026)."""


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
        """Return the state after the credential returned a token that is not newer."""
        threshold = REFRESH_THRESHOLD_SECONDS
        last_minutes = self.token.ttl - threshold + jitter(0.0, threshold / 5)
        age = now.seconds_since(self.token.received)
        if age < last_minutes:
            return CachedToken(self.token, last_minutes)
        return CachedToken(self.token, age + UNCHANGED_TOKEN_RETRY_SECONDS * jitter(0.9, 1.1))

    def after_failure(
        self, now: ClockReading, jitter: Jitter, retry_after: float | None = None
    ) -> CachedToken:
        """Return the state after a refresh that failed, and after which it is tried again."""
        doubled = REFRESH_BACKOFF_INITIAL_SECONDS * 2.0 ** min(self.failures, 8)
        delay = min(REFRESH_BACKOFF_MAX_SECONDS, doubled) * jitter(0.5, 1.0)
        asked = min(MAX_RETRY_AFTER_SECONDS, retry_after or 0.0)
        age = now.seconds_since(self.token.received)
        return CachedToken(self.token, age + max(delay, asked), self.failures + 1)


REQUEST_BACKOFF_INITIAL_SECONDS, REQUEST_BACKOFF_MAX_SECONDS = 1.0, 30.0
"""Delay after a failed request while no token is usable; doubled each time, up to the maximum."""

FORGET_FAILURES_AFTER_SECONDS = 60.0
"""Time without a request after which the delay starts at its initial value again."""

MAX_RETRY_AFTER_SECONDS = 600.0
"""Longest Retry-After header that is respected: the header may hold any number."""


class RequestBackoff(NamedTuple):
    """Failed requests in a row, and how long callers are told of the last one without another."""

    failed_at: ClockReading
    """when the last one ended"""
    delay: float
    """seconds until the next request"""
    failures: int

    def remaining(self, now: ClockReading) -> float:
        """Return the seconds until the next request; zero or less if it may be sent."""
        return self.delay - now.seconds_since(self.failed_at)


def after_failed_request(
    before: RequestBackoff | None,
    started: float,
    now: ClockReading,
    jitter: Jitter,
    *,
    retry_after: float | None,
) -> RequestBackoff:
    """Return the state after a request failed while no token is usable.

    Args:
        before: The state before.
        started: When the request was started, on the monotonic clock.
        now: Both clocks.
        jitter: Draws the delay between half of it and all, so that processes spread.
        retry_after: Seconds that the endpoint asked to wait.
    """
    failures = 0
    if before is not None:
        idle = started - before.failed_at.monotonic
        failures = before.failures if idle <= FORGET_FAILURES_AFTER_SECONDS else 0
    doubled = REQUEST_BACKOFF_INITIAL_SECONDS * 2.0 ** min(failures, 8)
    delay = min(REQUEST_BACKOFF_MAX_SECONDS, doubled) * jitter(0.5, 1.0)
    asked = min(MAX_RETRY_AFTER_SECONDS, retry_after or 0.0)
    if asked > delay:
        delay = asked * jitter(1.0, 1.1)  # not all processes at the same moment
    return RequestBackoff(now, delay, failures + 1)


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
