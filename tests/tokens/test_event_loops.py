"""EntraPassword with an async credential: on which loop it is awaited, and when that one ends."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest
from azure.core.credentials import AccessToken
from fix_pools import until

import azpg

if TYPE_CHECKING:
    from fix_clock import Clock
    from fix_credentials import Credentials

pytestmark = pytest.mark.compat


def test_an_async_credential_that_hangs_is_left(clock: Clock) -> None:
    """A hanging async credential ends in time too, and leaves no task behind on the loop."""

    class Hanging:
        calls = 0

        async def get_token(self, *_scopes: str, **_options: Any) -> AccessToken:
            self.calls += 1
            if self.calls == 1:
                await asyncio.Event().wait()
            return AccessToken("late", 1 << 40)

    credential: Any = Hanging()
    impatient = azpg.EntraPassword(credential, timeout=0.2)
    password = azpg.EntraPassword(credential)

    async def main() -> str:
        with pytest.raises(azpg.CredentialError) as caught:
            await impatient.call_async()
        assert caught.value.kind == "credential-timeout"
        async with asyncio.timeout(60):
            left = asyncio.all_tasks() - {asyncio.current_task()}
            await asyncio.gather(*left, return_exceptions=True)
        # The request's thread notes the failure, which is kept for a moment
        await asyncio.to_thread(until, lambda: password.stats().failed)
        clock.goes_on(1.1)
        return await password.call_async()

    assert asyncio.run(main()) == "late"


def test_an_async_credential_without_a_loop_says_so(credentials: Credentials) -> None:
    """In the sync call an async credential fails with a clear error."""
    password = azpg.EntraPassword(credentials.async_with_get_token())
    with pytest.raises(azpg.CredentialError, match="no event loop is running to await it"):
        password()


def test_an_async_credential_works_on_the_next_loop(credentials: Credentials) -> None:
    """A loop that has ended is forgotten: the next one awaits the credential itself."""
    credential = credentials.async_with_get_token()
    password = azpg.EntraPassword(credential)
    for calls in (1, 2):
        assert asyncio.run(password.call_async()) == credentials.secret
        assert credential.calls == calls
        password.invalidate()


def test_a_second_loop_is_served_by_the_first(credentials: Credentials) -> None:
    """While its loop runs, an async credential is awaited there for callers on other loops too."""
    credential = credentials.async_with_get_token()
    password = azpg.EntraPassword(credential)

    async def main() -> None:
        await password.call_async()
        password.invalidate()
        other = asyncio.to_thread(asyncio.run, password.call_async())
        assert await other == credentials.secret

    asyncio.run(main())
    assert credential.calls == 2
    assert credential.threads == {threading.get_ident()}


def test_a_lost_loop_is_no_failure_to_others(credentials: Credentials) -> None:
    """When the loop that awaits an async credential ends, callers on other loops try again."""
    asked = threading.Event()

    class Slow(type(credentials.async_with_get_token())):  # type: ignore[misc]  # a fixture's class
        async def get_token(self, *scopes: str, **_options: Any) -> AccessToken:
            self.answer(scopes)
            if self.calls == 1:
                asked.set()
                await asyncio.Event().wait()
            return AccessToken("second", 1 << 40)

    credential = Slow()
    password = azpg.EntraPassword(credential)
    end = threading.Event()

    async def first() -> None:
        waiting = asyncio.create_task(password.call_async())
        await asyncio.to_thread(end.wait)
        waiting.cancel()

    async def second() -> str:
        waiting = asyncio.create_task(password.call_async())
        await asyncio.sleep(0)
        end.set()
        return await waiting

    other = threading.Thread(target=asyncio.run, args=(first(),))
    other.start()
    asked.wait()
    assert asyncio.run(second()) == "second"
    other.join()
    assert credential.calls == 2
