"""One credential object that answers for many users: no token reaches another user unseen."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from fix_users import CURRENT

import azpg

if TYPE_CHECKING:
    from fix_api import Api
    from fix_clock import Clock
    from fix_refresh import Background
    from fix_subprocess import Program
    from fix_users import Users

    from azpg.emulator import Emulator

pytestmark = pytest.mark.compat

DUE = 3370
"""seconds after which an hour's token is refreshed, whatever the jitter"""


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what azpg has warned of."""
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


# After the first token


def test_another_users_refreshed_token_is_not_shared(
    api: Api, users: Users, clock: Clock, background: Background, caplog: pytest.LogCaptureFixture
) -> None:
    """The background refresh runs in the context of who caused it: its token is not cached."""
    credential = users.per_user(users.unsigned)
    password = azpg.EntraPassword(credential)
    assert users.ask(api, "alice", password) == users.unsigned("alice")
    clock.goes_on(DUE)
    users.ask(api, "bob", password)
    background.landed()
    for name in ("alice", "carol", "bob", "alice"):
        assert users.ask(api, name, password) == users.unsigned(name)
    assert credential.asked == ["alice", "bob", "alice", "carol", "bob", "alice"]
    (warning,) = warnings(caplog)
    assert "token of another user" in warning
    assert "one credential object per user" in warning


@pytest.mark.parametrize("how", ["invalidated", "expired", "rejected"])
def test_the_first_user_is_remembered_when_the_token_has_gone(
    api: Api, users: Users, clock: Clock, how: str
) -> None:
    """Without a cached token too, the next one of another user is his alone."""
    password = azpg.EntraPassword(users.per_user(users.unsigned))
    first = users.ask(api, "alice", password)
    if how == "invalidated":
        password.invalidate()
    elif how == "expired":
        clock.goes_on(3600)
    else:
        password.reject(first)
    for name in ("bob", "alice", "bob"):
        assert users.ask(api, name, password) == users.unsigned(name)


def test_who_waited_for_another_users_request_asks_for_himself(api: Api, users: Users) -> None:
    """Of those who wait for one request, only the one who started it is given its token."""
    credential = users.per_user(users.unsigned)
    password = azpg.EntraPassword(credential)
    users.ask(api, "alice", password)
    password.invalidate()
    credential.gate.clear()
    asking = {"bob": users.begin(api, "bob", password)}
    users.wait(password, 1)
    asking |= {name: users.begin(api, name, password) for name in ("alice", "carol")}
    users.wait(password, 3)
    credential.gate.set()
    assert {name: each.result(30) for name, each in asking.items()} == {
        name: users.unsigned(name) for name in ("alice", "bob", "carol")
    }


def test_a_credential_of_changing_users_is_seen_in_one_context_too(
    api: Api, users: Users, caplog: pytest.LogCaptureFixture
) -> None:
    """Once another user's token was seen, nobody is given what another caller asked for."""
    names = iter(["alice", "bob", "carol", "dave"])
    credential = users.per_user(lambda _user: users.unsigned(next(names)))
    password = azpg.EntraPassword(credential)
    users.ask(api, "x", password)
    password.invalidate()
    credential.gate.clear()
    asking = [users.begin(api, "x", password)]
    users.wait(password, 1)
    asking.append(users.begin(api, "x", password))
    users.wait(password, 2)
    credential.gate.set()
    assert {each.result(30) for each in asking} == set(map(users.unsigned, ("bob", "carol")))
    assert users.ask(api, "x", password) == users.unsigned("dave")
    assert len(warnings(caplog)) == 1


def test_a_token_that_arrives_late_is_not_cached_either(
    users: Users, background: Background
) -> None:
    """A request that nobody waits for any more brings another user's token: it is discarded."""
    credential = users.per_user(users.unsigned)
    password = azpg.EntraPassword(credential)

    def late() -> None:
        CURRENT.set("bob")
        credential.gate.clear()
        password.timeout = 0.05
        with pytest.raises(azpg.CredentialError, match="within"):
            password()

    def first() -> str:
        CURRENT.set("alice")
        credential.gate.set()
        password.timeout = 30
        return password()

    contextvars.copy_context().run(late)
    assert contextvars.copy_context().run(first) == users.unsigned("alice")
    background.landed()
    assert contextvars.copy_context().run(first) == users.unsigned("alice")
    assert credential.asked == ["bob", "alice", "alice"]


# The first tokens


def test_first_requests_that_race_are_each_users_own(api: Api, users: Users) -> None:
    """Who waits for the first token in another context than its request's asks for himself."""
    credential = users.per_user(users.unsigned)
    credential.gate.clear()
    password = azpg.EntraPassword(credential)
    names = ["alice", "bob", "carol"]
    asking = []
    for name in names:
        asking.append(users.begin(api, name, password))
        users.wait(password, len(asking))
    assert credential.asked == ["alice"]
    credential.gate.set()
    assert [each.result(30) for each in asking] == list(map(users.unsigned, names))


def test_threads_and_tasks_of_many_users_never_mix(users: Users) -> None:
    """Forty users at once, in threads and in the tasks of two loops, ask three times each."""
    credential = users.per_user(users.unsigned)
    credential.gate.clear()
    password = azpg.EntraPassword(credential)

    def thread(name: str) -> list[str]:
        CURRENT.set(name)
        return [password() for _ in range(3)]

    async def task(name: str) -> list[str]:
        CURRENT.set(name)
        return [await password.call_async() for _ in range(3)]

    async def tasks(names: list[str]) -> list[list[str]]:
        return await asyncio.gather(*map(task, names))

    groups = [[f"{loop} {n}" for n in range(10)] for loop in ("first", "second")]
    names = [f"thread {n}" for n in range(20)]
    with ThreadPoolExecutor(22) as pool:
        loops = [pool.submit(asyncio.run, tasks(group)) for group in groups]
        threads = [pool.submit(thread, name) for name in names]
        users.wait(password, 40)
        credential.gate.set()
        given = [each.result() for each in threads]
        given += [tokens for loop in loops for tokens in loop.result()]
    assert given == [[users.unsigned(name)] * 3 for name in [*names, *groups[0], *groups[1]]]


def test_an_async_credential_is_awaited_in_the_callers_context(users: Users) -> None:
    """Tasks of several users whose first requests race are each given their own token."""
    credential = users.async_per_user(users.unsigned)
    password = azpg.EntraPassword(credential)

    async def task(name: str) -> str:
        CURRENT.set(name)
        return await password.call_async()

    async def main() -> None:
        names = ["alice", "bob", "carol"]
        for _ in range(2):
            given = await asyncio.gather(*map(task, names))
            assert given == list(map(users.unsigned, names))

    asyncio.run(main())


def test_each_connection_is_its_users_own(api: Api, azure: Emulator, users: Users) -> None:
    """Two users who connect at once with one credential object sign in as themselves."""
    credential = users.per_user(users.token)
    credential.gate.clear()
    names = [f"{api.kind}-alice", f"{api.kind}-bob"]

    def connect(name: str) -> str:
        CURRENT.set(name)
        with azpg.connect(credential=credential) as conn:
            return conn.info.user

    async def connect_async(name: str) -> str:
        CURRENT.set(name)
        async with await azpg.connect_async(credential=credential) as conn:
            return conn.info.user

    function = connect if api.kind == "sync" else connect_async
    asking = [api.begin(function, name) for name in names]
    users.wait(azpg.EntraPassword(credential), 2)
    credential.gate.set()
    assert [each.result(30) for each in asking] == names


# Each for himself


def test_each_callers_own_failure_is_told_to_him(
    api: Api, users: Users, caplog: pytest.LogCaptureFixture
) -> None:
    """Once each caller asks for himself, one user's failure is no other's."""

    def answer(user: str) -> str:
        if user == "carol":
            raise ConnectionError("carol has to sign in")
        return users.unsigned(user)

    password = azpg.EntraPassword(users.per_user(answer))
    users.ask(api, "alice", password)
    password.invalidate()
    users.ask(api, "bob", password)
    with pytest.raises(azpg.CredentialError, match="carol has to sign in"):
        users.ask(api, "carol", password)
    assert users.ask(api, "bob", password) == users.unsigned("bob")
    assert password.stats() == (3, 1, None)
    assert len(warnings(caplog)) == 1


def test_a_fork_waits_for_the_requests_of_each_user(program: Program) -> None:
    """Requests that serve one caller each are over before the child begins."""

    def main() -> None:
        import base64
        import json
        import os
        import threading

        from azure.core.credentials import AccessToken

        import azpg

        class Gate:
            def __init__(self) -> None:
                self.calls = self.answered = 0
                self.may = threading.Event()

            def get_token(self, *_scopes: str, **_options: object) -> AccessToken:
                self.calls += 1
                number = self.calls
                if number > 2:
                    assert self.may.wait(30)
                self.answered += 1
                claims = base64.b64encode(json.dumps({"oid": str(number)}).encode()).decode()
                return AccessToken(f"e30.{claims}.x", 1 << 40)

        credential = Gate()
        password = azpg.EntraPassword(credential)
        password()
        password.invalidate()
        password()
        asking = [threading.Thread(target=password) for _ in range(3)]
        for each in asking:
            each.start()
        while credential.calls < 5:
            pass
        os.register_at_fork(before=credential.may.set)  # runs before azpg's own

        def work() -> None:
            assert credential.answered == 5

        ended_well(forked(work))
        for each in asking:
            each.join()

    from fix_fork import ended_well, forked

    program(main, forked, ended_well)
