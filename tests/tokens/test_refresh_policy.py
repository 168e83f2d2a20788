"""How long a token is used and when the next is asked for: every rule, by clocks of the test's."""

from __future__ import annotations

import base64
import json
import random
from collections import Counter
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from azpg import _jwt
from azpg._tokens.refresh_policy import CachedToken, Jitter, after_response, refresh_delay
from azpg._tokens.token import MIN_REMAINING_SECONDS, ClockReading, Token, lifetime

HOUR, DAY = 3600.0, 86_400.0
NOON = ClockReading(50.0, 1_800_000_000.0)
ANSWER = 60.0
"""seconds that an answer may take"""


def at(seconds: float, slept: float = 0.0, set_by: float = 0.0) -> ClockReading:
    """Return both clocks some time after noon."""
    return ClockReading(NOON.monotonic + seconds - slept, NOON.wall + seconds + set_by)


def lowest(low: float, _high: float) -> float:
    """Be lucky: no jitter."""
    return low


def highest(_low: float, high: float) -> float:
    """Be unlucky: all the jitter there may be."""
    return high


def jwt(issued: float, expires: float, number: int = 0) -> str:
    """Write a token with these times, unsigned."""
    claims = json.dumps({"iat": int(issued), "exp": int(expires), "uti": number})
    return f"e30.{base64.urlsafe_b64encode(claims.encode()).decode().rstrip('=')}.signature"


def opaque(life: float, refresh: float | None = None, text: str = "text") -> Token:
    """Return a token that was received at noon, without claims."""
    refresh_on = None if refresh is None else NOON.wall + refresh
    return Token.from_response(text, NOON.wall + life, refresh_on, NOON)


def cache(token: Token, jitter: Jitter = lowest) -> CachedToken:
    """Return the state right after a token was received."""
    cached = after_response(None, token, token.received, jitter)
    assert cached is not None
    return cached


# Handed out


def test_a_token_is_handed_out_until_its_margin() -> None:
    """A connect takes time: with less than the margin left a token is not handed out."""
    token = opaque(600)
    assert token.is_usable(NOON)
    assert token.is_usable(at(579.99))
    assert not token.is_usable(at(580))
    assert (cache(token).state(at(579.99)), cache(token).state(at(580))) == ("stale", "expired")
    assert token.remaining(at(100)) == 500
    assert MIN_REMAINING_SECONDS >= 15  # what a connect may take, by the connect_timeout filled in


@pytest.mark.parametrize("life", [-3600, 0, 19, 20])
def test_a_token_that_comes_late_is_never_handed_out(life: float) -> None:
    """With a life no longer than the margin it is not usable, and not cached."""
    assert not opaque(life).is_usable(NOON)
    assert after_response(None, opaque(life), NOON, lowest) is None


def test_a_tokens_text_is_in_no_repr() -> None:
    """Its length and its end are enough to tell one from another."""
    token = Token.from_response("s3cret", 1_000_600.0, None, NOON)
    assert repr(token) == "<Token of 6 characters, expires_on=1000600>"
    assert "s3cret" not in f"{token} {[token]} {CachedToken(token=token, refresh_after=1.0)}"


# Asked ahead


@pytest.mark.parametrize(
    ("life", "refresh", "first", "last"),
    [
        (HOUR, None, 3300, 3360),
        (DAY, None, DAY - 300, DAY - 240),
        (DAY, DAY / 2, DAY / 2, DAY / 2 + (DAY / 2 - 240) / 10),
        (2 * HOUR, HOUR, HOUR, HOUR + 336),
        (601, None, 301, 361),
        (600, None, 300, 360),
        (100, None, 50, 60),
        (30, None, 15, 18),
        (HOUR, 0, 3300, 3360),
        (HOUR, -10, 3300, 3360),
        (HOUR, 3600, 3300, 3360),
        (HOUR, 3590, 3300, 3360),
        (HOUR, 7200, 3300, 3360),
        (100, 90, 50, 60),
    ],
)
def test_when_the_next_is_asked_for(
    life: float, refresh: float | None, first: float, last: float
) -> None:
    """At the credential's own refresh time, else at 300 s left, a short one's at half; jittered."""
    assert cache(opaque(life, refresh), lowest).refresh_after == first
    assert cache(opaque(life, refresh), highest).refresh_after == pytest.approx(last)


def test_due_is_told_by_the_time_gone() -> None:
    """The next token is due from `refresh_after` on, not a moment earlier."""
    cached = cache(opaque(HOUR))
    assert cached.state(NOON) == cached.state(at(3299.9)) == "fresh"
    assert cached.state(at(3300)) == "stale"


@given(
    life=st.floats(200, 2 * DAY),
    refresh=st.none() | st.floats(-DAY, 3 * DAY),
    luck=st.sampled_from([lowest, highest]),
)
def test_the_answer_comes_in_time(life: float, refresh: float | None, luck: Jitter) -> None:
    """However late the jitter puts it, an answer that takes a minute comes before the margin."""
    assert cache(opaque(life, refresh), luck).refresh_after + ANSWER <= life - MIN_REMAINING_SECONDS


def test_processes_started_together_do_not_ask_together() -> None:
    """Of 10,000 processes with a token of the same second few ask in any one second."""
    chance = random.Random(1).uniform
    for life, refresh, most in ((HOUR, None, 250), (DAY, DAY / 2, 10), (300.0, None, 450)):
        helds = [cache(opaque(life, refresh), chance) for _ in range(10_000)]
        seconds = Counter(int(cached.refresh_after) for cached in helds)
        assert max(seconds.values()) <= most
        again = Counter(int(h.after_unchanged(at(life - 200), chance).refresh_after) for h in helds)
        assert max(again.values()) <= 2200


# Not yet


def test_not_yet_is_asked_again_late() -> None:
    """After an answer no newer the next ask comes at 300 s left, and then every 30 s."""
    cached = cache(opaque(DAY, DAY / 2))
    early, unlucky = (
        cached.after_unchanged(at(DAY / 2), lowest),
        cached.after_unchanged(at(DAY / 2), highest),
    )
    assert (early.refresh_after, unlucky.refresh_after) == (DAY - 300, DAY - 240)
    later = early.after_unchanged(at(DAY - 300), lowest)
    assert later.refresh_after == DAY - 300 + 27
    assert later.after_unchanged(at(DAY - 273), highest).refresh_after == DAY - 273 + 33


def test_the_same_token_is_not_yet_a_new_one() -> None:
    """The bytes in hand, from the credential's cache, are no refresh, an expiry off by one too."""
    cached = cache(opaque(HOUR))
    for off in (-1, 0, 1):
        same = Token.from_response("text", NOON.wall + HOUR + off, None, at(3300))
        state = after_response(cached, same, at(3300), lowest)
        assert state is not None
        assert state.token is cached.token
        assert state.refresh_after == 3327
        assert state.failures == 0


def test_another_token_that_ends_no_later_is_not_yet_a_new_one() -> None:
    """Of two caches the older one's answer does not replace what is in hand."""
    cached = cache(opaque(HOUR))
    for left in (10.0, 300.0):
        other = Token.from_response("other", NOON.wall + 3300 + left, None, at(3300))
        state = after_response(cached, other, at(3300), lowest)
        assert state is not None
        assert state.token is cached.token


def test_a_newer_token_takes_its_place() -> None:
    """A token that lives longer is cached from then on, with no failure to its name."""
    cached = cache(opaque(HOUR)).after_failure(at(3300), lowest)
    newer = Token.from_response("new", NOON.wall + 2 * HOUR, None, at(3310))
    assert after_response(cached, newer, at(3310), lowest) == CachedToken(
        token=newer, refresh_after=refresh_delay(newer, lowest)
    )


def test_a_dead_token_is_not_revived_by_its_own_bytes() -> None:
    """A credential that still gives the token that has run out has given nothing."""
    text = jwt(NOON.wall, NOON.wall + HOUR)
    cached = cache(Token.from_response(text, NOON.wall + HOUR, None, NOON))
    late = at(HOUR - 10)
    again = Token.from_response(text, NOON.wall + HOUR, None, late)
    assert after_response(cached, again, late, lowest) is None
    dead = at(HOUR + 10)
    again = Token.from_response(text, NOON.wall + HOUR, None, dead)
    assert after_response(cached, again, dead, lowest) is None


def test_an_opaque_token_may_be_prolonged() -> None:
    """A text that tells nothing of itself, given with a later end, lives until then."""
    late = at(HOUR)
    again = Token.from_response("text", late.wall + HOUR, None, late)
    assert after_response(cache(opaque(HOUR)), again, late, lowest) == CachedToken(
        token=again, refresh_after=3300
    )


# Failures


def test_failures_pause_longer_and_longer() -> None:
    """The pause doubles from 5 s to a minute, half of it by chance, from the moment it failed."""
    for chance, share in ((lowest, 0.5), (highest, 1.0)):
        cached, pauses = cache(opaque(HOUR)), []
        for _ in range(6):
            cached = cached.after_failure(at(3300), chance)
            pauses.append(cached.refresh_after - 3300)
        assert pauses == [share * most for most in (5, 10, 20, 40, 60, 60)]


def test_failures_without_end_are_borne() -> None:
    """A day of failures, ten years of them: the pause stays the longest."""
    assert (
        CachedToken(token=opaque(DAY), refresh_after=0, failures=1_000_000)
        .after_failure(NOON, highest)
        .refresh_after
        == 60
    )


def test_a_token_or_a_not_yet_ends_a_series() -> None:
    """After an answer the next failure pauses as the first did."""
    failed = cache(opaque(HOUR)).after_failure(at(3300), highest).after_failure(at(3310), highest)
    assert failed.failures == 2
    assert (
        failed.after_unchanged(at(3330), highest).after_failure(at(3360), highest).refresh_after
        == 3365
    )


# The machine's clock


@pytest.mark.parametrize(
    ("issued", "exp", "expected"),
    [(0, HOUR, HOUR), (-300, HOUR, HOUR + 300), (5, 6, 1.0), (5, 5, None), (6, 5, None)],
)
def test_a_token_says_how_long_it_was_given(
    issued: float, exp: float, expected: float | None
) -> None:
    """Its lifetime is `exp` less `iat`, where that is any."""
    assert lifetime(_jwt.claims(jwt(issued, exp))) == expected


@pytest.mark.parametrize("claims", [{}, {"iat": 1}, {"exp": 1}, {"iat": "1", "exp": "2"}])
def test_a_token_may_not_say(claims: _jwt.Claims) -> None:
    """Without both times, as numbers, no lifetime is known."""
    assert lifetime(claims) is None


@pytest.mark.parametrize("backdated", [0, 300], ids=["to-the-second", "dated-back"])
@pytest.mark.parametrize("given", [HOUR, 1.5 * HOUR, DAY], ids=str)
@pytest.mark.parametrize("off", [-DAY, -HOUR, -600, 0, 600, HOUR, DAY], ids=str)
@pytest.mark.parametrize("relative", [False, True], ids=["absolute", "relative"])
def test_a_clock_that_is_wrong_is_seen_through(
    backdated: float, given: float, off: float, relative: bool
) -> None:
    """However wrong the wall clock, a token just issued is used, and never after its true end."""
    true = NOON.wall - off
    text = jwt(true - backdated, true + given)
    expires_on = NOON.wall + given if relative else true + given
    token = Token.from_response(text, expires_on, None, NOON)
    assert token.is_usable(NOON)
    assert not token.is_usable(at(given - MIN_REMAINING_SECONDS))
    assert token.remaining(NOON) >= min(given, given - off if off < given else DAY) - 600


@pytest.mark.parametrize(("given", "taken"), [(300, 300), (600, 600), (601, 301), (900, 600)])
def test_a_short_token_that_came_in_dead_keeps_a_life(given: int, taken: int) -> None:
    """What a token may be dated back by is not taken from one that has no more than twice that."""
    text = jwt(NOON.wall - HOUR - given, NOON.wall - HOUR)
    token = Token.from_response(text, NOON.wall - HOUR, None, NOON)
    assert token.remaining(NOON) == taken


@pytest.mark.parametrize("off", [-HOUR, HOUR], ids=["back", "forward"])
def test_a_clock_set_while_running(off: float) -> None:
    """Set back, the other clock tells the time gone; set forward, the token is taken for older."""
    token = opaque(2 * HOUR)
    assert token.remaining(at(HOUR, set_by=off)) == (HOUR if off < 0 else 0)
    assert token.is_usable(at(10, set_by=off))
    assert not token.is_usable(at(2 * HOUR, set_by=off))


def test_a_new_token_after_the_clock_was_set_back_is_new() -> None:
    """Though by its date it ends before the one in hand, whose date was a wrong clock's."""
    cached = cache(opaque(HOUR))  # relative: an hour from a noon that was an hour ahead
    now = at(3400, set_by=-HOUR)
    text = jwt(now.wall, now.wall + HOUR)
    other = Token.from_response(text, now.wall + HOUR, None, now)
    assert other.expires_on < cached.token.expires_on
    assert after_response(cached, other, now, lowest) == CachedToken(
        token=other, refresh_after=3300
    )


def test_a_machine_that_slept() -> None:
    """While the monotonic clock stands still, the wall clock tells the time gone."""
    cached = cache(opaque(HOUR))
    assert cached.state(at(3000, slept=2900)) == "fresh"
    assert cached.state(at(3300, slept=3200)) == "stale"
    assert cached.state(at(HOUR, slept=3500)) == "expired"


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_the_time_gone_is_the_longer(monotonic: float, wall: float) -> None:
    """Of two clocks the one that has gone on further is believed."""
    before = ClockReading(0.0, 0.0)
    assert ClockReading(monotonic, wall).seconds_since(before) == max(monotonic, wall)


# A day in the life, whatever the credential does

Deed = Literal["new", "same", "older", "fails"]


class Life:
    """One process that asks for a token over and over, and a credential that does as it is told."""

    def __init__(self, given: float, luck: random.Random) -> None:
        self.given, self.chance = given, luck.uniform
        self.asks = 0
        self.ends: dict[str, float] = {}
        self.cached: CachedToken | None = None

    def call(self, time: float, deed: Deed) -> str | None:
        """Return the token that a caller gets, or None where it is told of a failure."""
        cached, now = self.cached, at(time)
        if cached is not None and (state := cached.state(now)) != "expired":
            if state == "stale":
                self.ask(cached, time, deed)
            return cached.token.text
        self.ask(cached, time, deed)
        ready = self.cached is not None and self.cached.token.is_usable(now)
        return self.cached.token.text if self.cached is not None and ready else None

    def ask(self, cached: CachedToken | None, time: float, deed: Deed) -> None:
        """Ask the credential, in the foreground or the background."""
        self.asks += 1
        now = at(time)
        if deed == "fails":
            if cached is not None and cached.token.is_usable(now):
                self.cached = cached.after_failure(now, self.chance)
            return
        if deed == "same" and cached is not None:
            text = cached.token.text
        else:
            text = jwt(now.wall - 300, now.wall + self.given, self.asks)
            self.ends[text] = time + self.given - (600 if deed == "older" else 0)
        expires_on = NOON.wall + self.ends[text]
        token = Token.from_response(text, expires_on, None, now)
        self.cached = after_response(cached, token, now, self.chance) or self.cached


@settings(max_examples=60)
@given(
    given_life=st.floats(700, DAY),
    deeds=st.lists(st.sampled_from(["new", "same", "older", "fails"]), min_size=1, max_size=40),
    steps=st.lists(st.floats(0.1, 2000), min_size=1, max_size=40),
    seed=st.integers(0, 1000),
)
def test_no_token_is_handed_out_dead(
    given_life: float, deeds: list[Deed], steps: list[float], seed: int
) -> None:
    """By a clock that is right every token handed out has the margin left."""
    life, time = Life(given_life, random.Random(seed)), 0.0
    for turn in range(200):
        time += steps[turn % len(steps)]
        token = life.call(time, deeds[turn % len(deeds)])
        assert token is None or life.ends[token] - time > MIN_REMAINING_SECONDS - 0.01


@settings(max_examples=8)
@given(
    given_life=st.sampled_from([60.0, 300.0, 601.0, HOUR, DAY]),
    deeds=st.lists(st.sampled_from(["new", "same", "fails"]), min_size=1, max_size=5),
    seed=st.integers(0, 1000),
)
def test_no_credential_is_asked_without_end(
    given_life: float, deeds: list[Deed], seed: int
) -> None:
    """A process that connects twice a second for hours asks, while it holds a token, seldom."""
    life, hours = Life(given_life, random.Random(seed)), 2
    life.call(0.0, "new")
    held_asks = 0
    for turn in range(1, hours * 7200):
        before = life.asks
        usable = life.cached is not None and life.cached.token.is_usable(at(turn / 2))
        life.call(turn / 2, deeds[life.asks % len(deeds)] if usable else "new")
        held_asks += usable and life.asks > before
    assert held_asks <= hours * 250  # 6,000 a day
