"""What waits for one token request in several contexts: who is given its token, and its failure."""

from __future__ import annotations

import decimal
import logging
import math
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from azure.identity import ManagedIdentityCredential

import azpg
from azpg._attempt import Attempt
from azpg._deadline import CURRENT, Deadline

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_api import Api
    from fix_clock import Clock
    from fix_credentials import Credentials
    from fix_refresh import Background
    from fix_users import Users

    from azpg.emulator import Emulator

pytestmark = pytest.mark.compat


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what azpg has warned of."""
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def test_one_users_contexts_share_the_token(
    api: Api, users: Users, caplog: pytest.LogCaptureFixture, clock: Clock, background: Background
) -> None:
    """A user in several contexts has one cached token, and it is refreshed in its time."""
    credential = users.per_user(lambda _user: users.unsigned("alice"))
    credential.lifetime, credential.refresh_in = 86_400, 43_200
    credential.gate.clear()
    password = azpg.EntraPassword(credential)
    asking = [users.begin(api, "one tab", password)]
    users.wait(password, 1)
    asking.append(users.begin(api, "another tab", password))
    users.wait(password, 2)
    credential.gate.set()
    assert {each.result(30) for each in asking} == {users.unsigned("alice")}
    assert credential.asked == ["one tab", "another tab"]
    for seconds, asked in ((43_000, 2), (4_700, 3)):
        clock.goes_on(seconds)
        assert users.ask(api, "one tab", password) == users.unsigned("alice")
        background.landed()
        assert len(credential.asked) == asked
    assert password.stats()[:2] == (2, 0)
    assert warnings(caplog) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda: decimal.setcontext(decimal.Context()),
        lambda: CURRENT.set(Deadline(math.inf, math.inf, "")),
        lambda: Attempt().__enter__(),
    ],
    ids=["decimal", "deadline", "attempt"],
)
def test_contexts_that_differ_in_no_user_share_one_request(
    api: Api, users: Users, change: Callable[[], object]
) -> None:
    """A thread that calculates, a pool and a connect each set variables of their own."""
    credential = users.per_user(users.unsigned)
    credential.gate.clear()
    password = azpg.EntraPassword(credential)

    def ask() -> str:
        change()
        return password()

    async def ask_async() -> str:
        change()
        return await password.call_async()

    asking = [api.begin(ask if api.kind == "sync" else ask_async) for _ in range(5)]
    users.wait(password, 5)
    credential.gate.set()
    assert {each.result(30) for each in asking} == {users.unsigned("nobody")}
    assert len(credential.asked) == 1


def test_azure_identitys_own_credentials_are_asked_once_for_all_contexts(
    api: Api,
    azure: Emulator,
    users: Users,
    credentials: Credentials,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They look at no context variable, so requests of a web server share one token request."""
    gate = users.per_user(users.unsigned)
    gate.gate.clear()
    ask = ManagedIdentityCredential.get_token_info

    def counted(self: Any, *scopes: str, **options: Any) -> Any:
        gate.get_token_info()
        return ask(self, *scopes, **options)

    monkeypatch.setattr(ManagedIdentityCredential, "get_token_info", counted)
    password = azpg.EntraPassword(credentials.managed_identity())
    asking = [users.begin(api, f"user {n}", password) for n in range(10)]
    users.wait(password, 10)
    gate.gate.set()
    assert len({each.result(30) for each in asking}) == 1
    assert len(gate.asked) == 1


def test_a_failure_is_shared_by_all_contexts(api: Api, users: Users) -> None:
    """A credential that fails is asked once for all that wait, whatever their contexts."""

    def fail(_user: str) -> str:
        raise ConnectionError("no metadata service")

    credential = users.per_user(fail)
    credential.gate.clear()
    password = azpg.EntraPassword(credential)
    asking = [users.begin(api, f"user {n}", password) for n in range(3)]
    users.wait(password, 3)
    credential.gate.set()
    for each in asking:
        with pytest.raises(azpg.CredentialError, match="no metadata service"):
            each.result(30)
    assert len(credential.asked) == 1
    assert password.stats() == (0, 1, None)


def test_a_wait_for_another_users_request_counts_in_the_timeout(
    api: Api, users: Users, background: Background
) -> None:
    """Who waits for another user's token and then asks for his own waits `timeout` in all."""
    answers = threading.Event()
    asked: list[float] = []

    def answer(user: str) -> str:
        if user == "bob":
            asked.append(time.monotonic())
        assert not answers.wait(1.6 if user == "alice" else 30) or user == "bob"
        return users.unsigned(user)

    credential = users.per_user(answer)
    password = azpg.EntraPassword(credential)
    first = users.begin(api, "alice", password)
    users.wait(password, 1)
    with pytest.raises(azpg.CredentialError) as caught:
        users.ask(api, "bob", azpg.EntraPassword(credential, timeout=2.0))
    ended = time.monotonic()
    assert ended - min(asked, default=ended) < 2.0
    assert caught.value.kind == "credential-timeout"
    assert first.result(30) == users.unsigned("alice")
    answers.set()
    background.landed()  # or its warning is another test's


def test_a_second_users_failure_leaves_the_cached_token_alone(
    api: Api, users: Users, caplog: pytest.LogCaptureFixture
) -> None:
    """The failure of one who asks for himself is no failed refresh of another's token."""

    def answer(user: str) -> str:
        if user == "bob":
            raise ConnectionError("bob has to sign in")
        return users.unsigned(user)

    credential = users.per_user(answer)
    credential.gate.clear()
    password = azpg.EntraPassword(credential)
    asking = [users.begin(api, "alice", password)]
    users.wait(password, 1)
    asking.append(users.begin(api, "bob", password))
    users.wait(password, 2)
    credential.gate.set()
    assert asking[0].result(30) == users.unsigned("alice")
    with pytest.raises(azpg.CredentialError, match="bob has to sign in"):
        asking[1].result(30)
    assert users.ask(api, "alice", password) == users.unsigned("alice")
    assert len(credential.asked) == 2
    assert warnings(caplog) == []
