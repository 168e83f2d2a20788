"""How long a caller waits for a token, and what becomes of a request that nobody waits for."""

from __future__ import annotations

import itertools
import re
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import azure.identity
import pytest
from azure.core.credentials import AccessTokenInfo
from azure.identity import InteractiveBrowserCredential

import azpg
from azpg._deadline import Deadline
from azpg._tokens import refresh_policy
from azpg._tokens.credentials import DefaultCredential
from azpg._tokens.refresh_policy import next_request_delay

if TYPE_CHECKING:
    from fix_api import Api
    from fix_clock import Clock
    from fix_credentials import Credentials
    from fix_refresh import Background

    from azpg.emulator import Emulator

pytestmark = pytest.mark.compat


def ask(api: Api, password: azpg.EntraPassword, seconds: float | None = None) -> str:
    """Return a token by the API's own call, with a deadline or without."""
    deadline = None
    if seconds is not None:
        deadline = Deadline(time.monotonic() + seconds, seconds, f"connect_timeout={seconds:g}")
    if api.kind == "sync":
        return password.token(deadline).text
    token = api.run(password.token_async(deadline))
    return str(token.text)


def timed_out(api: Api, password: azpg.EntraPassword, seconds: float) -> azpg.CredentialError:
    """Return the error of a caller that stops waiting."""
    with pytest.raises(azpg.CredentialError) as caught:
        ask(api, password, seconds)
    assert caught.value.kind == "credential-timeout"
    return caught.value


# The deadline


def test_a_deadline_ends_the_wait(api: Api, azure: Emulator, credentials: Credentials) -> None:
    """The error is transient, and says how long was waited and where the deadline comes from."""
    password = azpg.EntraPassword(credentials.managed_identity())
    begun = time.monotonic()
    with azure.fault(identity="hang"):
        error = timed_out(api, password, 0.3)
    assert time.monotonic() - begun < 5
    # A busy machine takes some of it before the wait begins
    waited = r"no token from ManagedIdentityCredential within 0\.\d+ s \(connect_timeout=0\.3\)"
    assert re.search(waited, str(error))
    assert error.transient


class SlowImport:
    """A finder of modules that takes its time over azure.identity, as a loaded machine does."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def find_spec(self, name: str, *_: object) -> None:
        """Wait, and leave the finding to the others."""
        if name == "azure.identity":
            time.sleep(self._seconds)


def importing_slowly(monkeypatch: pytest.MonkeyPatch, seconds: float) -> Any:
    """Return a new default credential, which imports azure.identity again, slowly."""
    monkeypatch.setattr(azure, "identity", azure.identity)  # which the new import replaces
    monkeypatch.delitem(sys.modules, "azure.identity")
    monkeypatch.setattr(sys, "meta_path", [SlowImport(seconds), *sys.meta_path])
    return DefaultCredential("https://login.microsoftonline.com", None)


def test_the_import_of_azure_identity_is_not_part_of_the_timeout(
    api: Api, azure: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The endpoint has all of the time, however long Python took before it was asked."""
    credential = importing_slowly(monkeypatch, 1.5)
    assert ask(api, azpg.EntraPassword(credential, timeout=1.0))


def test_the_callers_own_deadline_holds_during_the_import(
    api: Api, azure: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connect_timeout is the caller's wish for the whole; the error says what it went into."""
    password = azpg.EntraPassword(importing_slowly(monkeypatch, 2.0))
    error = timed_out(api, password, 1.3)
    assert "the import of azure.identity took 1 s" in str(error)
    assert "azpg.EntraPassword(timeout=" in error.hint
    assert ask(api, password)  # so that the import has ended


def test_the_timeout_counts_where_it_is_shorter(api: Api, gated: Any) -> None:
    """EntraPassword(timeout=) ends the wait before a later deadline, which is not named then."""
    password = azpg.EntraPassword(gated, timeout=0.2)
    gated.gate.clear()
    error = timed_out(api, password, 30)
    gated.gate.set()
    assert str(error).startswith("no token from Gated within 0.2 s\n")


def test_a_deadline_ends_the_wait_alone(api: Api, gated: Any, background: Background) -> None:
    """30 callers that stop waiting leave one request, whose token serves the next one."""
    password = azpg.EntraPassword(gated)
    gated.gate.clear()
    for _ in range(30):
        timed_out(api, password, 0.01)
    assert len(background.threads()) == 1
    gated.gate.set()
    background.landed()
    assert password.stats()[:2] == (1, 0)
    assert ask(api, password, 0.0)
    assert gated.calls == 1


def test_an_old_request_is_told(api: Api, clock: Clock, gated: Any) -> None:
    """A caller that joined a request learns for how long that has been in progress."""
    password = azpg.EntraPassword(gated)
    gated.gate.clear()
    timed_out(api, password, 0.01)
    clock.goes_on(4)
    assert "awaited for 4 s" in str(timed_out(api, password, 0.01))
    gated.gate.set()


class Person(InteractiveBrowserCredential):
    """Signs in when told to."""

    def __init__(self, gated: Any) -> None:
        super().__init__()
        self.gated = gated

    def get_token_info(self, *scopes: str, **_options: Any) -> AccessTokenInfo:
        """Wait for the person."""
        token: AccessTokenInfo = self.gated.get_token_info(*scopes)
        return token


@pytest.mark.parametrize("factory", [False, True], ids=["object", "function"])
def test_a_person_is_given_the_time(
    api: Api, clock: Clock, gated: Any, background: Background, factory: bool
) -> None:
    """Only EntraPassword(timeout=) ends the wait for a person, and nobody is asked twice."""
    person = Person(gated)
    password = azpg.EntraPassword((lambda: person) if factory else person, timeout=0.5)
    gated.gate.clear()
    begun = time.monotonic()
    error = timed_out(api, password, 0.1)
    assert time.monotonic() - begun >= 0.5
    assert "connect_timeout" not in str(error)
    clock.goes_on(100)
    timed_out(api, password, 0.1)
    assert gated.calls == 1
    gated.gate.set()
    background.landed()
    assert ask(api, password)


# Further requests


def test_a_second_request_starts_when_the_first_is_old(
    api: Api, clock: Clock, gated: Any, background: Background
) -> None:
    """After 5 s another is started, three at most, and one answer serves all who wait."""
    password = azpg.EntraPassword(gated)
    gated.gate.clear()
    for seconds, requests in ((0, 1), (4.9, 1), (0.2, 2), (4.7, 2), (0.4, 3), (60, 3), (60, 3)):
        clock.goes_on(seconds)
        timed_out(api, password, 0.01)
        assert gated.was_asked(requests)
    gated.gate.set()
    background.landed()
    assert ask(api, password)
    assert gated.calls == 3


def test_a_caller_that_waits_starts_the_second_request(
    api: Api, credentials: Credentials, monkeypatch: pytest.MonkeyPatch, background: Background
) -> None:
    """A lost request costs a caller 5 s: the second one serves it, and none has failed."""
    monkeypatch.setattr(refresh_policy, "NEXT_REQUEST_AFTER_SECONDS", 0.1)
    answers = itertools.chain(["lost"], itertools.repeat("second"))
    lost = threading.Event()

    def answer() -> str:
        text = next(answers)
        assert text == "second" or lost.wait(30)
        return text

    password = azpg.EntraPassword(credentials.with_get_token(answer))
    assert ask(api, password, 20) == "second"
    lost.set()
    background.landed()
    assert password.stats().failed == 0


def test_the_first_answer_serves_all(
    api: Api, credentials: Credentials, monkeypatch: pytest.MonkeyPatch, background: Background
) -> None:
    """A caller that started the second request is given the token of the first, if it is first."""
    monkeypatch.setattr(refresh_policy, "NEXT_REQUEST_AFTER_SECONDS", 0.1)
    first, second = threading.Event(), threading.Event()
    answers = itertools.chain([("first", first)], itertools.repeat(("second", second)))

    def answer() -> str:
        text, may = next(answers)
        if text == "second":
            first.set()
        assert may.wait(30)
        return text

    password = azpg.EntraPassword(credentials.with_get_token(answer))
    assert ask(api, password, 20) == "first"
    second.set()
    background.landed()


def test_a_failure_waits_for_a_newer_request(
    api: Api, credentials: Credentials, monkeypatch: pytest.MonkeyPatch, background: Background
) -> None:
    """A request that times out fails nobody while a newer one is in progress."""
    monkeypatch.setattr(refresh_policy, "NEXT_REQUEST_AFTER_SECONDS", 0.1)
    second = threading.Event()
    answers = itertools.chain(["first"], itertools.repeat("second"))

    def answer() -> str:
        if next(answers) == "first":
            assert second.wait(30)
            raise TimeoutError
        second.set()
        for thread in background.threads():
            if thread is not threading.current_thread():
                thread.join(30)
        return "token"

    password = azpg.EntraPassword(credentials.with_get_token(answer))
    assert ask(api, password, 20) == "token"
    assert password.stats()[:2] == (1, 1)


@pytest.mark.parametrize(
    ("started", "delay"),
    [([], 0), ([100], 5), ([97], 2), ([95], 0), ([80, 99], 4), ([80, 90], 0), ([1, 2, 3], None)],
)
def test_when_another_request_may_start(started: list[float], delay: float | None) -> None:
    """At once if none is out, 5 s after the newest, and never a fourth."""
    assert next_request_delay(started, 100) == delay
