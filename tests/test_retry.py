"""When a failed connect is tried again, and when not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azpg._retry import BUDGET, BUSY, CAP, FIRST, Retry, budget


def most(_least: float, most: float) -> float:
    """Draw the longest pause."""
    return most


def least(least: float, _most: float) -> float:
    """Draw the shortest pause."""
    return least


def test_pauses_double_up_to_a_cap() -> None:
    """Exponential, so that a server that is coming up is not stormed."""
    retry = Retry(1000.0, 0.0)
    pauses = [retry.pause("refused", 0.0, most) for _ in range(8)]
    assert pauses == [FIRST * 2**n for n in range(5)] + [CAP] * 3


def test_pauses_have_full_jitter() -> None:
    """Any pause from nothing up: clients that failed together do not come back together."""
    assert Retry(1000.0, 0.0).pause("refused", 0.0, least) == 0.0


def test_the_budget_ends_it() -> None:
    """No pause reaches over the end, and none begins behind it."""
    retry = Retry(10.0, 100.0)
    assert retry.pause("refused", 109.9, most) == pytest.approx(0.1)
    assert retry.pause("refused", 110.0, most) is None
    assert retry.pause("refused", 120.0, most) is None


def test_a_budget_of_nothing_never_tries_again() -> None:
    """A timeout of 0 turns it off."""
    assert Retry(0.0, 100.0).pause("refused", 100.0, most) is None


def test_a_full_server_is_left_alone_for_a_while() -> None:
    """Connections free themselves slowly."""
    assert Retry(10.0, 0.0).pause("too-many-connections", 0.0, least) == BUSY
    assert Retry(BUSY / 2, 0.0).pause("too-many-connections", 0.0, least) is None


@given(
    budget=st.floats(0, 1e4),
    steps=st.lists(st.floats(0, 60), max_size=30),
    chance=st.floats(0, 1),
    kind=st.sampled_from(["refused", "too-many-connections"]),
)
def test_every_pause_lies_within_the_budget(
    budget: float, steps: list[float], chance: float, kind: str
) -> None:
    """Whatever the clock and chance say."""
    retry, now = Retry(budget, 0.0), 0.0
    for step in steps:
        pause = retry.pause(kind, now, lambda low, high: low + (high - low) * chance)
        if pause is None:
            break
        assert 0 <= pause <= max(CAP, BUSY)
        assert now + pause <= budget + 1e-9
        now += pause + step


@pytest.mark.parametrize(
    ("connect_timeout", "seconds"),
    [(None, BUDGET), ("", BUDGET), ("0", BUDGET), ("-1", BUDGET), ("2", 2.0), ("300", BUDGET)],
)
def test_who_asks_for_less_is_not_kept_waiting(connect_timeout: str, seconds: float) -> None:
    """The connect_timeout of a caller, where it is less, is the budget of all tries together."""
    assert budget(connect_timeout) == seconds
