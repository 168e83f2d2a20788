"""FailureHistory and PoolAttempt: which failures a pool remembers, and when it retries."""

from __future__ import annotations

import psycopg
import pytest
from psycopg_pool import PoolTimeout

import azpg
from azpg.pool._failures import FailureHistory, PoolAttempt

REFUSED = azpg.UnreachableError("refused", kind="refused", transient=True)
FULL = azpg.ConnectError("too many", kind="too-many-connections", transient=True)
WRONG = azpg.LoginError("wrong", kind="login")


def delays(failure: Exception, *, timeout: float, attempts: int) -> list[float]:
    """Return the delays between attempts that fail at once, from second 1000 on."""
    history = FailureHistory()
    attempt, now, found = PoolAttempt(history, timeout), 1000.0, []
    for _ in range(attempts):
        history.record_failure(failure, 0)
        if attempt.time_to_give_up(now):
            break
        attempt.update_delay(now)
        found.append(attempt.delay)
        now += attempt.delay
    return found


@pytest.fixture(autouse=True)
def longest_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the jitter choose the longest delay."""
    monkeypatch.setattr("azpg.pool._failures.random.uniform", lambda _min, max_: max_)


def test_delays_double_up_to_a_maximum() -> None:
    """Delays double from 0.25 s to 5 s, until the timeout is over."""
    found = delays(REFUSED, timeout=30, attempts=100)
    assert found[:7] == [0.25, 0.5, 1, 2, 4, 5, 5]
    assert sum(found) == 30


def test_delays_have_full_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many pools that lost the same server do not reconnect at the same moment."""
    monkeypatch.undo()
    assert len({delays(REFUSED, timeout=30, attempts=1)[0] for _ in range(1000)}) > 900


def test_too_many_connections_delays_at_least_a_second() -> None:
    """If the server has no free connection slot, no delay is shorter than a second."""
    assert delays(FULL, timeout=30, attempts=4) == [1, 1, 1, 2]


def test_a_permanent_failure_is_not_retried() -> None:
    """A failed authentication ends the attempts."""
    assert delays(WRONG, timeout=30, attempts=9) == []


def test_only_azpgs_own_errors_are_permanent() -> None:
    """A ConfigError and an azpg error that is not transient are permanent, any other is not."""
    history = FailureHistory()
    for failure in (psycopg.OperationalError("configure failed"), ValueError(), REFUSED, FULL):
        history.record_failure(failure, 0)
        assert history.permanent() is None
    for failure in (WRONG, azpg.ConfigError("no host"), azpg.TLSError("expired", kind="expired")):
        history.record_failure(failure, 0)
        assert type(history.permanent()) is type(failure)


def test_permanent_returns_a_copy() -> None:
    """Each call returns another instance, so that raising one does not change the others."""
    history = FailureHistory()
    history.record_failure(WRONG, 0)
    first, second = history.permanent(), history.permanent()
    assert first is not second
    assert str(first) == str(second) == str(WRONG)


def test_a_success_clears_the_history() -> None:
    """A failure before the latest success is not the cause of a timeout."""
    history, timeout = FailureHistory(), PoolTimeout("late")
    history.record_failure(REFUSED, 0)
    error = history.error_of_timeout(timeout, is_connecting=True)
    assert error.__cause__ is REFUSED
    history.record_success()
    assert history.error_of_timeout(timeout, is_connecting=False) is timeout
    assert history.kind == ""


def test_a_permanent_failure_has_a_cooldown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a permanent failure has a cooldown, of one second."""
    now = 1000.0
    monkeypatch.setattr("azpg.pool._failures.time.monotonic", lambda: now)
    history = FailureHistory()
    history.record_failure(REFUSED, 0)
    assert not history.cooling_down()
    history.record_failure(WRONG, 0)
    now += 0.99
    assert history.cooling_down()
    now += 0.02
    assert not history.cooling_down()
    assert history.permanent() is not None


def test_an_outdated_failure_is_ignored() -> None:
    """An attempt that began before another one succeeded, and fails after it, does not count."""
    history = FailureHistory()
    history.record_failure(WRONG, history.changes)
    assert history.cooling_down()
    changes_before = history.changes
    history.record_success()
    history.record_failure(WRONG, changes_before)
    assert history.permanent() is None
    assert not history.cooling_down()
    history.record_failure(WRONG, history.changes)
    assert history.cooling_down()
    changes_before = history.changes
    history.restart()  # the arguments have changed
    history.record_failure(WRONG, changes_before)
    assert history.permanent() is None
    assert history.successes == 1
