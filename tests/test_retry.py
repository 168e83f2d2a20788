"""When a failed connect is tried again, and when not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azpg._retry import BUDGET, BUSY, CAP, FIRST, LEAST, Retry, budget


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
    ("asked", "left", "given"),
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
def test_a_try_takes_no_longer_than_what_is_left(asked: str, left: float, given: str) -> None:
    """It has its connect_timeout, shrunk to what is left of the budget, but to no less than 2 s."""
    assert Retry(left, 100.0).timeout(asked, 100.0) == given


@given(budget=st.floats(0, 1e6), now=st.floats(0, 1e6), asked=st.integers(-1, 1000))
def test_no_try_outlives_the_budget_by_much(budget: float, now: float, asked: int) -> None:
    """Whatever was asked, a try ends with the budget, or after libpq's least."""
    given = int(Retry(budget, 0.0).timeout(str(asked), now))
    # libpq, and psycopg with it, reads less than nothing as 130 and 1 as 2
    takes = given if given > 0 else 130
    assert takes <= max(LEAST, budget - now) + 1
    assert asked <= 0 or given <= asked


@pytest.mark.parametrize(
    ("connect_timeout", "seconds"),
    [(None, BUDGET), ("", BUDGET), ("0", BUDGET), ("-1", BUDGET), ("2", 2.0), ("300", BUDGET)],
)
def test_who_asks_for_less_is_not_kept_waiting(connect_timeout: str, seconds: float) -> None:
    """The connect_timeout of a caller, where it is less, is the budget of all tries together."""
    assert budget(connect_timeout) == seconds
