"""Days of connecting through outages of the identity service, by injected clocks."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from azure.core.credentials import AccessTokenInfo

import azpg
from azpg._tokens.refresh_policy import RequestBackoff, after_failed_request
from azpg._tokens.token import ClockReading

if TYPE_CHECKING:
    from fix_clock import Clock
    from fix_refresh import Background

HOUR, DAY = 3600.0, 86_400.0
STEP = 20.0
"""seconds between two connects"""
LONGEST_DELAY = 30.0 + STEP
"""seconds after an outage in which the last failure may still be told"""


class Identity:
    """An identity service with outages, behind a credential that caches as azure-identity does."""

    def __init__(self, clock: Clock, lifetime: float, outages: list[tuple[float, float]]) -> None:
        self._clock = clock
        self._begun = clock.time()
        self._lifetime = lifetime
        self._outages = outages
        self._cached: AccessTokenInfo | None = None
        self.requests: list[float] = []

    def now(self) -> float:
        """Return the seconds since the first moment."""
        return self._clock.time() - self._begun

    def is_away(self, now: float) -> bool:
        """Return whether it answers nobody."""
        return any(begin <= now < end for begin, end in self._outages)

    def get_token_info(self, *_scopes: str, **_options: Any) -> AccessTokenInfo:
        """Return the cached token, or ask for a new one when it is time to."""
        cached, time = self._cached, self._clock.time()
        if cached is not None and time < (cached.refresh_on or cached.expires_on - 300):
            return cached
        self.requests.append(self.now())
        if not self.is_away(self.now()):
            refresh_on = int(time + self._lifetime / 2) if self._lifetime > 2 * HOUR else None
            self._cached = AccessTokenInfo(
                f"token {len(self.requests)}", int(time + self._lifetime), refresh_on=refresh_on
            )
            return self._cached
        if cached is not None and time < cached.expires_on - 300:
            return cached
        raise ConnectionError("the service is away")


@pytest.mark.parametrize(
    ("lifetime", "outages"),
    [
        (HOUR, []),
        (DAY, []),
        (HOUR, [(2.9 * HOUR, 5.9 * HOUR)]),
        (HOUR, [(at, at + 40) for at in range(3000, int(2 * DAY), 1700)]),
        (DAY, [(10 * HOUR, 13 * HOUR), (22 * HOUR, 27 * HOUR)]),
        (DAY, [(at, at + 600) for at in range(6000, int(2 * DAY), 3500)]),
        (HOUR, [(0, 900)]),
    ],
    ids=["hour", "day", "3 h away", "often away", "renewals missed", "flaky", "away at the start"],
)
def test_days_of_connecting(
    clock: Clock, background: Background, lifetime: float, outages: list[tuple[float, float]]
) -> None:
    """No connect fails while a token can be had, and no service is asked without end."""
    identity: Any = Identity(clock, lifetime, outages)
    password = azpg.EntraPassword(identity)
    failed = Counter[int]()
    expires = 0.0
    while (now := identity.now()) < 2 * DAY:
        try:
            password()
        except azpg.CredentialError:
            # Only in an outage or a moment after it, and never while the last token was good
            assert identity.is_away(now) or identity.is_away(now - LONGEST_DELAY)
            assert now > expires - 20 - STEP
            failed[int(now // HOUR)] += 1
        else:
            expires = now + (password.stats().seconds_to_expiry or 0.0)
        background.landed()
        clock.goes_on(STEP)
    away = sum(end - begin for begin, end in outages)
    lives = 2 * DAY / (lifetime if lifetime <= 2 * HOUR else lifetime / 2)
    in_vain = [at for at in identity.requests if identity.is_away(at)]
    assert len(identity.requests) - len(in_vain) <= 1.2 * lives + 2
    assert len(in_vain) <= away / 15 + 4 * len(outages)
    if not outages:
        assert not failed
        assert password.stats().failed == 0


def test_a_fleet_comes_back_spread() -> None:
    """2,000 processes that fail together ask in different seconds soon, and so they come back."""
    draw = random.Random(1)  # the same day each time
    asked = Counter[int]()
    for _ in range(2000):
        state: RequestBackoff | None = None
        now = 0.0
        while now < 600:
            asked[int(now)] += 1
            clocks = ClockReading(now, now)
            state = after_failed_request(state, now, clocks, draw.uniform, retry_after=None)
            now += state.delay
    assert max(asked[second] for second in range(60, 600)) <= 200
    assert sum(asked[second] for second in range(60, 600)) <= 2000 * 540 / 20
