"""Retry delays: exponential backoff with full jitter, within the retry timeout."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azpg._retry import (
    DEFAULT_RETRY_TIMEOUT_SECONDS,
    INITIAL_DELAY_SECONDS,
    LIBPQ_MIN_TIMEOUT_SECONDS,
    MAX_DELAY_SECONDS,
    TOO_MANY_CONNECTIONS_DELAY_SECONDS,
    Backoff,
    default_retry_timeout,
)


def highest(_low: float, high: float) -> float:
    """Return the longest delay."""
    return high


def lowest(low: float, _high: float) -> float:
    """Return the shortest delay."""
    return low


def test_delays_double_up_to_a_maximum() -> None:
    """The backoff is exponential, so that a server that is starting gets few connects."""
    backoff = Backoff(1000.0, 0.0)
    delays = [backoff.next_delay("refused", 0.0, highest) for _ in range(8)]
    doubling = [INITIAL_DELAY_SECONDS * 2**n for n in range(5)]
    assert delays == doubling + [MAX_DELAY_SECONDS] * 3


def test_delays_have_full_jitter() -> None:
    """A delay can be 0: clients that failed at the same time do not retry at the same time."""
    assert Backoff(1000.0, 0.0).next_delay("refused", 0.0, lowest) == 0.0


def test_no_delay_exceeds_the_retry_timeout() -> None:
    """The last one leaves some time for the last attempt, and without that time there is none."""
    backoff = Backoff(10.0, 100.0)
    assert backoff.next_delay("refused", 108.8, highest) == pytest.approx(0.2)
    assert backoff.next_delay("refused", 109.0, highest) is None
    assert backoff.next_delay("refused", 120.0, highest) is None
    assert Backoff(1000.0, 0.0).next_delay("refused", 998.9, highest) == pytest.approx(0.1)


def test_a_retry_timeout_of_zero_disables_retries() -> None:
    """There is no delay after the first attempt."""
    assert Backoff(0.0, 100.0).next_delay("refused", 100.0, highest) is None


def test_a_server_without_free_connections_gets_a_minimum_delay() -> None:
    """Its connections become free slowly."""
    minimum = TOO_MANY_CONNECTIONS_DELAY_SECONDS
    assert Backoff(10.0, 0.0).next_delay("too-many-connections", 0.0, lowest) == minimum
    assert Backoff(minimum / 2, 0.0).next_delay("too-many-connections", 0.0, lowest) is None


@given(
    retry_timeout=st.floats(0, 1e4),
    attempt_seconds=st.lists(st.floats(0, 60), max_size=30),
    fraction=st.floats(0, 1),
    kind=st.sampled_from(["refused", "too-many-connections"]),
)
def test_every_delay_is_within_the_retry_timeout(
    retry_timeout: float, attempt_seconds: list[float], fraction: float, kind: str
) -> None:
    """Whatever the clock and the random numbers are."""
    backoff, now = Backoff(retry_timeout, 0.0), 0.0
    for seconds in attempt_seconds:
        delay = backoff.next_delay(kind, now, lambda low, high: low + (high - low) * fraction)
        if delay is None:
            break
        assert 0 <= delay <= max(MAX_DELAY_SECONDS, TOO_MANY_CONNECTIONS_DELAY_SECONDS)
        assert now + delay <= retry_timeout + 1e-9
        now += delay + seconds


@pytest.mark.parametrize(
    ("connect_timeout", "remaining", "expected"),
    [
        ("15", 30.0, "15"),
        ("15", 15.0, "15"),
        ("15", 6.3, "7"),
        ("15", 2.0, "2"),
        ("15", 0.1, "2"),
        ("15", -5.0, "2"),
        ("1", 0.1, "1"),
        (" 3.5 ", 6.0, " 3.5 "),
        ("0", 30.0, "30"),
        ("-1", 30.0, "30"),
        ("0", float("inf"), "0"),
        ("15", float("inf"), "15"),
    ],
)
def test_an_attempt_takes_no_longer_than_what_remains(
    connect_timeout: str, remaining: float, expected: str
) -> None:
    """Its connect_timeout is reduced to the time that remains, but to no less than 2 s."""
    assert Backoff(remaining, 100.0).attempt_timeout(connect_timeout, 100.0) == expected


@given(
    retry_timeout=st.floats(0, 1e6),
    now=st.floats(0, 1e6),
    connect_timeout=st.integers(-1, 1000),
)
def test_an_attempt_ends_with_the_retry_timeout(
    retry_timeout: float, now: float, connect_timeout: int
) -> None:
    """Or after libpq's minimum, whatever the connect_timeout is."""
    given = int(Backoff(retry_timeout, 0.0).attempt_timeout(str(connect_timeout), now))
    # libpq, and psycopg with it, reads 0 and less as 130, and 1 as 2
    seconds = given if given > 0 else 130
    assert seconds <= max(LIBPQ_MIN_TIMEOUT_SECONDS, retry_timeout - now) + 1
    assert connect_timeout <= 0 or given <= connect_timeout


@pytest.mark.parametrize(
    ("connect_timeout", "seconds"),
    [
        *((each, DEFAULT_RETRY_TIMEOUT_SECONDS) for each in (None, "", "0", "-1", "300", "x")),
        ("2", 2.0),
    ],
)
def test_the_default_retry_timeout_is_at_most_the_connect_timeout(
    connect_timeout: str, seconds: float
) -> None:
    """Retries take no longer than the caller lets one attempt take."""
    assert default_retry_timeout(connect_timeout) == seconds
