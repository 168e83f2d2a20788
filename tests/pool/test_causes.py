"""When a pool tries again, and what it remembers of why."""

from __future__ import annotations

import psycopg
import pytest
from psycopg_pool import PoolTimeout

import azpg
from azpg.pool._failures import Attempt, Causes

REFUSED = azpg.UnreachableError("refused", kind="refused", transient=True)
FULL = azpg.ConnectError("too many", kind="too-many-connections", transient=True)
WRONG = azpg.LoginError("wrong", kind="login")


def delays(causes: Causes, failure: Exception, *, timeout: float, tries: int) -> list[float]:
    """Return the pauses of an attempt that fails at once each time, from second 1000 on."""
    attempt, now, pauses = Attempt(causes, timeout), 1000.0, []
    for _ in range(tries):
        causes.failed(failure, 0)
        if attempt.time_to_give_up(now):
            break
        attempt.update_delay(now)
        pauses.append(attempt.delay)
        now += attempt.delay
    return pauses


@pytest.fixture(autouse=True)
def longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let chance choose the longest pause."""
    monkeypatch.setattr("azpg.pool._failures.random.uniform", lambda _least, most: most)


def test_tries_come_fast_at_first_and_never_far_apart() -> None:
    """Pauses double from a quarter of a second to five, until the time is up."""
    pauses = delays(Causes(), REFUSED, timeout=30, tries=100)
    assert pauses[:7] == [0.25, 0.5, 1, 2, 4, 5, 5]
    assert sum(pauses) == 30


def test_the_pauses_of_a_thousand_pools_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pools that lost the same server do not come back to it together."""
    monkeypatch.undo()
    assert len({delays(Causes(), REFUSED, timeout=30, tries=1)[0] for _ in range(1000)}) > 900


def test_a_full_server_is_left_alone_for_a_second() -> None:
    """Where connections are used up no pause is shorter than a second."""
    assert delays(Causes(), FULL, timeout=30, tries=4) == [1, 1, 1, 2]


def test_what_no_try_can_mend_ends_them() -> None:
    """A refused sign-in is not tried again."""
    assert delays(Causes(), WRONG, timeout=30, tries=9) == []


def test_an_error_of_anything_else_may_mend_itself() -> None:
    """Only azpg's own errors of connecting are known to be final."""
    causes = Causes()
    for failure in (psycopg.OperationalError("configure failed"), ValueError(), REFUSED, FULL):
        causes.failed(failure, 0)
        assert causes.final() is None
    for failure in (WRONG, azpg.ConfigError("no host"), azpg.TLSError("expired", kind="expired")):
        causes.failed(failure, 0)
        assert type(causes.final()) is type(failure)


def test_each_is_told_in_an_error_of_its_own() -> None:
    """Raising what is remembered changes nothing for the next."""
    causes = Causes()
    causes.failed(WRONG, 0)
    first, second = causes.final(), causes.final()
    assert first is not second
    assert str(first) == str(second) == str(WRONG)


def test_a_success_is_forgetful() -> None:
    """What failed before the last success explains nothing."""
    causes, timeout = Causes(), PoolTimeout("late")
    causes.failed(REFUSED, 0)
    explained = causes.explained(timeout)
    assert (str(explained), explained.__cause__) == (
        f"late; the last connection failed: {REFUSED}",
        REFUSED,
    )
    causes.succeeded()
    assert causes.explained(timeout) is timeout
    assert causes.kind == ""


def test_a_failure_rests_for_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what no try can mend rests, and only so long."""
    now = 1000.0
    monkeypatch.setattr("azpg.pool._failures.time.monotonic", lambda: now)
    causes = Causes()
    causes.failed(REFUSED, 0)
    assert causes.resting() is None
    causes.failed(WRONG, 0)
    now += 0.99
    assert isinstance(causes.resting(), azpg.LoginError)
    now += 0.02
    assert causes.resting() is None
    assert causes.final() is not None


def test_a_failure_that_was_outrun_is_no_news() -> None:
    """A connect that began before another succeeded, and fails after it, stops nobody."""
    causes = Causes()
    causes.failed(WRONG, causes.successes)
    assert causes.resting() is not None
    since = causes.successes
    causes.succeeded()
    causes.failed(WRONG, since)
    assert causes.final() is causes.resting() is None
    causes.failed(WRONG, causes.successes)
    assert causes.resting() is not None
