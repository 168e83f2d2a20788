"""The next token is fetched in the background: nobody waits, and a failure is borne with."""

from __future__ import annotations

import asyncio
import itertools
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from azure.core.credentials import AccessToken, AccessTokenInfo
from azure.identity import (
    ChainedTokenCredential,
    CredentialUnavailableError,
    DeviceCodeCredential,
    InteractiveBrowserCredential,
)

import azpg

if TYPE_CHECKING:
    from fix_api import Api
    from fix_clock import Clock
    from fix_credentials import Credentials
    from fix_refresh import Background

    from azpg.emulator import Emulator

HOUR, DAY = 3600.0, 86_400.0
DUE = 3370
"""seconds after which an hour's token is asked for anew, whatever the jitter"""


SAID = "CredentialUnavailableError: App Service managed identity configuration not found"
"""azure-identity's own words for an endpoint that answers 400"""


def ask(api: Api, password: azpg.EntraPassword) -> str:
    """Return a token by the API's own call."""
    token: str = password() if api.kind == "sync" else api.run(password.call_async())
    return token


def lines(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    """Return what azpg has logged at a level."""
    records = [record for record in caplog.records if record.name == "azpg"]
    return [record.getMessage() for record in records if record.levelno == level]


# Nobody waits


@pytest.mark.parametrize(
    ("lifetime", "early", "due"),
    [(HOUR, 3290, DUE), (DAY, 43_190, 47_510)],
    ids=["hour", "day"],
)
def test_in_the_window_the_token_in_hand_is_given_at_once(
    api: Api,
    azure: Emulator,
    clock: Clock,
    gated: Any,
    monkeypatch: pytest.MonkeyPatch,
    lifetime: float,
    early: float,
    due: float,
    background: Background,
) -> None:
    """Not before its time, and then without a wait, one refresh starts; no thread is left."""
    monkeypatch.setattr(azure, "token_lifetime", lifetime)
    password = azpg.EntraPassword(gated)
    first = ask(api, password)
    before = azure.counts
    clock.goes_on(early)
    assert ask(api, password) == first
    background.landed()
    assert gated.calls == 1
    gated.gate.clear()
    clock.goes_on(due - early)
    assert [ask(api, password) for _ in range(5)] == [first] * 5
    assert len(background.threads()) == 1
    gated.gate.set()
    background.landed()
    second = ask(api, password)
    assert second != first
    assert gated.calls == 2
    assert (azure.counts - before).token_requests == 1
    fetched, failed, left = password.stats()
    assert (fetched, failed) == (2, 0)
    assert left == pytest.approx(lifetime, abs=5)


def test_threads_and_loops_in_the_window_start_one_refresh(
    clock: Clock, gated: Any, background: Background
) -> None:
    """Of both APIs at once, none waits, and one request is made for all."""
    password = azpg.EntraPassword(gated)
    first = password()
    clock.goes_on(DUE)
    gated.gate.clear()

    async def tasks() -> list[str]:
        return await asyncio.gather(*(password.call_async() for _ in range(50)))

    with ThreadPoolExecutor(22) as pool:
        threads = [pool.submit(password) for _ in range(50)]
        loops = [pool.submit(asyncio.run, tasks()) for _ in range(2)]
        given = {each.result() for each in threads}
        given.update(token for loop in loops for token in loop.result())
    assert given == {first}
    assert len(background.threads()) == 1
    gated.gate.set()
    background.landed()
    assert gated.calls == 2
    assert password() != first


def test_connects_during_a_refresh_look_like_any_other(
    api: Api, azure: Emulator, clock: Clock, gated: Any, background: Background
) -> None:
    """Two hundred calls, and sign-ins among them, all end before the refresh does."""
    password = azpg.EntraPassword(gated)
    first = ask(api, password)
    clock.goes_on(DUE)
    gated.gate.clear()
    for turn in range(200):
        if turn % 20 == 0:
            with api.connect(password=password) as conn:
                assert conn.info.user == "myapp"
        assert ask(api, password) == first
    assert gated.was_asked(2)
    gated.gate.set()
    background.landed()
    assert ask(api, password) != first


def test_an_async_credential_is_renewed_by_a_task(clock: Clock, background: Background) -> None:
    """On the loop that owns it a task asks, while the callers are served; none is left."""

    class Slow:
        def __init__(self) -> None:
            self.calls = 0
            self.gate = asyncio.Event()
            self.asked = asyncio.Event()

        async def get_token(self, *_scopes: str, **_options: Any) -> AccessToken:
            self.calls += 1
            if self.calls > 1:
                self.asked.set()
                await self.gate.wait()
            return AccessToken(f"token {self.calls}", int(clock.time() + HOUR))

    async def main() -> None:
        credential: Any = Slow()
        password = azpg.EntraPassword(credential)
        assert await password.call_async() == "token 1"
        clock.goes_on(DUE)
        assert [await password.call_async() for _ in range(5)] == ["token 1"] * 5
        await credential.asked.wait()
        credential.gate.set()
        await asyncio.to_thread(background.landed)
        assert await password.call_async() == "token 2"
        assert credential.calls == 2
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_a_renewal_names_the_credential(
    api: Api,
    azure: Emulator,
    clock: Clock,
    gated: Any,
    caplog: pytest.LogCaptureFixture,
    background: Background,
) -> None:
    """One INFO line for each token says where it came from, for a chain which of it answered."""

    class Absent:
        def get_token_info(self, *_scopes: str, **_options: Any) -> AccessTokenInfo:
            raise CredentialUnavailableError("not here")

    caplog.set_level(logging.INFO, logger="azpg")
    chain = ChainedTokenCredential(Absent(), gated)  # type: ignore[arg-type]  # has the half it asks
    password = azpg.EntraPassword(chain)
    ask(api, password)
    clock.goes_on(DUE)
    ask(api, password)
    background.landed()
    said = "token from ChainedTokenCredential (Gated), good for 3"
    assert [line.startswith(said) for line in lines(caplog, logging.INFO)] == [True, True]


# Not yet


def test_the_same_token_again_is_not_yet_a_new_one(
    api: Api, clock: Clock, gated: Any, caplog: pytest.LogCaptureFixture, background: Background
) -> None:
    """azure-identity's own cache is neither failure nor refresh, and is asked again in 30 s."""
    caplog.set_level(logging.INFO, logger="azpg")
    password = azpg.EntraPassword(gated)
    first = ask(api, password)
    clock.is_set(-400)  # azure-identity goes by the wall clock, and sees time enough
    clock.goes_on(DUE)
    for _ in range(3):
        assert ask(api, password) == first
        background.landed()
    assert gated.calls == 2
    assert password.stats()[:2] == (1, 0)
    clock.goes_on(26)
    ask(api, password)
    background.landed()
    assert gated.calls == 2
    clock.goes_on(8)
    ask(api, password)
    background.landed()
    assert gated.calls == 3
    assert password.stats()[:2] == (1, 0)
    assert len(lines(caplog, logging.INFO)) == 1
    clock.is_set(400)
    clock.goes_on(34)
    ask(api, password)
    background.landed()
    assert ask(api, password) != first
    assert password.stats()[:2] == (2, 0)
    assert len(lines(caplog, logging.INFO)) == 2
    assert not lines(caplog, logging.WARNING)


def test_a_failure_that_azure_identity_hides_is_not_yet(
    api: Api,
    azure: Emulator,
    clock: Clock,
    gated: Any,
    monkeypatch: pytest.MonkeyPatch,
    background: Background,
) -> None:
    """At the half-life of a day it falls back on its cache: the next ask comes at 300 s left."""
    monkeypatch.setattr(azure, "token_lifetime", DAY)
    password = azpg.EntraPassword(gated)
    first = ask(api, password)
    before = azure.counts
    clock.goes_on(47_510)
    with azure.fault(identity=400):
        assert ask(api, password) == first
        background.landed()
    assert (azure.counts - before).token_requests == 1
    assert password.stats()[:2] == (1, 0)
    clock.goes_on(DAY - 47_510 - 310)
    assert ask(api, password) == first
    background.landed()
    assert gated.calls == 2
    clock.goes_on(80)
    assert ask(api, password) == first
    background.landed()
    assert ask(api, password) != first
    assert gated.calls == 3


# Failures


def test_a_refresh_that_fails_is_borne_with(
    api: Api,
    azure: Emulator,
    clock: Clock,
    gated: Any,
    caplog: pytest.LogCaptureFixture,
    background: Background,
) -> None:
    """The token in hand is served, one warning is logged, and the next try waits for its pause."""
    password = azpg.EntraPassword(gated)
    first = ask(api, password)
    clock.goes_on(DUE - 50)
    with azure.fault(identity=400):
        for pause, calls in ((50, 2), (0, 2), (2.4, 2), (2.7, 3), (4.8, 3), (5.3, 4)):
            clock.goes_on(pause)
            assert ask(api, password) == first
            background.landed()
            assert gated.calls == calls
        assert password.stats()[:2] == (1, 3)
        (warning,) = lines(caplog, logging.WARNING)
        assert warning.startswith("no new token yet, the last is good for 2")
        assert f"no token from Gated: {SAID}" in warning
    clock.goes_on(21)
    ask(api, password)
    background.landed()
    assert ask(api, password) != first
    assert password.stats()[:2] == (2, 3)
    clock.goes_on(DUE)
    with azure.fault(identity=400):
        ask(api, password)
        background.landed()
    assert len(lines(caplog, logging.WARNING)) == 2


def test_a_token_that_dies_unrenewed_is_an_error(
    api: Api, azure: Emulator, clock: Clock, credentials: Credentials, background: Background
) -> None:
    """Once there is no valid token left, the caller is told in the credential's own words."""
    clock.of(azure)
    password = azpg.EntraPassword(credentials.managed_identity())
    first = ask(api, password)
    with azure.fault(identity=400):
        clock.goes_on(HOUR - 25)
        assert ask(api, password) == first
        background.landed()
        clock.goes_on(5)
        with pytest.raises(azpg.CredentialError) as caught:
            ask(api, password)
    assert str(caught.value).startswith(f"no token from ManagedIdentityCredential: {SAID}")
    assert "ManagedIdentityCredential could not sign in" in caught.value.hint
    clock.goes_on(1.1)
    assert ask(api, password) != first


def test_a_refresh_that_hangs_is_given_up(
    api: Api, clock: Clock, gated: Any, caplog: pytest.LogCaptureFixture, background: Background
) -> None:
    """After the timeout it counts as failed, with a warning, and another starts in its time."""
    password = azpg.EntraPassword(gated, timeout=30)
    first = ask(api, password)
    clock.goes_on(DUE)
    gated.gate.clear()
    for pause, calls, failed in ((0, 2, 0), (29, 2, 0), (2, 2, 1), (2.4, 2, 1), (3, 3, 1)):
        clock.goes_on(pause)
        assert ask(api, password) == first
        assert gated.calls == calls
        assert password.stats().failed == failed
    (warning,) = lines(caplog, logging.WARNING)
    assert "no token from Gated within 30 s" in warning
    gated.gate.set()
    background.landed()
    assert ask(api, password) != first
    assert password.stats().failed == 1


# A person is not disturbed


class Person:
    """What a browser or a code brings, without either."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.calls = 0

    def get_token_info(self, *_scopes: str, **_options: Any) -> AccessTokenInfo:
        """Return a token of this hour."""
        self.calls += 1
        return AccessTokenInfo(f"token {self.calls}", int(self.clock.time() + HOUR))

    clock: Clock


class Browser(Person, InteractiveBrowserCredential):
    """Opens a browser."""


class Code(Person, DeviceCodeCredential):
    """Prints a code."""


@pytest.mark.parametrize("chained", [False, True], ids=["alone", "chained"])
@pytest.mark.parametrize("kind", [Browser, Code])
def test_nobody_is_asked_in_the_background(
    api: Api, clock: Clock, kind: type[Person], chained: bool, background: Background
) -> None:
    """A credential that asks a person is asked only when there is no token left."""
    person: Any = kind()
    person.clock = clock
    password = azpg.EntraPassword(ChainedTokenCredential(person) if chained else person)
    assert ask(api, password) == "token 1"
    clock.goes_on(HOUR - 25)
    assert ask(api, password) == "token 1"
    background.landed()
    assert person.calls == 1
    clock.goes_on(10)
    assert ask(api, password) == "token 2"
    assert person.calls == 2


def test_nobody_is_asked_in_the_background_of_a_child(
    api: Api, clock: Clock, background: Background
) -> None:
    """A forked child has its parent's token, and makes what asks a person when that has died."""
    person: Any = Browser()
    person.clock = clock
    made = itertools.count()
    password = azpg.EntraPassword(lambda: (next(made), person)[1])
    ask(api, password)
    password._entry.reset()  # as in a child
    clock.goes_on(HOUR - 25)
    ask(api, password)
    background.landed()
    assert person.calls == 1
    clock.goes_on(10)
    ask(api, password)
    assert (next(made), person.calls) == (2, 2)
