"""EntraPassword under many callers at once: one request, whoever they are and however it ends."""

from __future__ import annotations

import asyncio
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import azpg

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_credentials import Credentials

    from azpg.emulator import Emulator

pytestmark = pytest.mark.compat

THREADS, LOOPS, TASKS = 250, 5, 50


class Gate:
    """An answer that waits until every caller is aboard."""

    def __init__(self, answer: Callable[[], str]) -> None:
        self.opened = threading.Event()
        self._answer = answer

    def __call__(self) -> str:
        assert self.opened.wait(30)
        return self._answer()


def all_wait(threads: list[threading.Thread]) -> bool:
    """Tell whether every thread is blocked in a wait."""
    frames = sys._current_frames()
    at = [frames[thread.ident] for thread in threads if thread.ident in frames]
    return len(at) == len(threads) and all(frame.f_code.co_name == "wait" for frame in at)


def outcome(call: Callable[[], str]) -> str | azpg.CredentialError:
    """Return what a call returned or raised."""
    try:
        return call()
    except azpg.CredentialError as error:
        return error


def crowd(password: Callable[[], azpg.EntraPassword], gate: Gate) -> list[Any]:
    """Ask for a token in many threads and in the tasks of several loops, all at once."""
    found: list[Any] = []
    aboard: list[asyncio.Task[Any]] = []

    async def task() -> str | azpg.CredentialError:
        try:
            return await password().call_async()
        except azpg.CredentialError as error:
            return error

    async def tasks() -> None:
        waiting = [asyncio.create_task(task()) for _ in range(TASKS)]
        await asyncio.sleep(0)
        aboard.extend(waiting)
        found.extend(await asyncio.gather(*waiting))

    threads = [
        threading.Thread(target=lambda: found.append(outcome(password()))) for _ in range(THREADS)
    ]
    loops = [threading.Thread(target=asyncio.run, args=(tasks(),)) for _ in range(LOOPS)]
    for thread in threads + loops:
        thread.start()
    while len(aboard) < LOOPS * TASKS or not all_wait(threads):
        pass
    gate.opened.set()
    for thread in threads + loops:
        thread.join()
    assert len(found) == THREADS + LOOPS * TASKS
    return found


def test_threads_and_loops_share_one_request(credentials: Credentials) -> None:
    """250 threads and 250 tasks in five event loops cause one call of the credential."""
    gate = Gate(lambda: "token")
    credential = credentials.with_get_token(gate)
    found = crowd(lambda: azpg.EntraPassword(credential), gate)
    assert set(found) == {"token"}
    assert credential.calls == 1


def test_a_failure_is_shared_and_raised_to_each_anew(credentials: Credentials) -> None:
    """When the one request fails, all hear of it, each in an exception of its own."""

    def fail() -> str:
        raise ConnectionError("no metadata service")

    gate = Gate(fail)
    credential = credentials.with_get_token(gate)
    found = crowd(lambda: azpg.EntraPassword(credential), gate)
    assert credential.calls == 1
    assert {str(error).split("\n")[0] for error in found} == {
        "no token from WithGetToken: ConnectionError: no metadata service"
    }
    assert len({id(error) for error in found}) == len(found)


def test_the_real_credential_asks_once_for_all(azure: Emulator, credentials: Credentials) -> None:
    """Many threads and tasks that connect at once send one request to the identity endpoint."""
    credential = credentials.managed_identity()
    before = azure.counts

    def connect() -> str:
        with azpg.connect(credential=credential) as conn:
            return conn.info.user

    async def connect_async() -> str:
        async with await azpg.connect_async(credential=credential) as conn:
            return conn.info.user

    async def tasks() -> list[str]:
        return await asyncio.gather(*(connect_async() for _ in range(10)))

    with ThreadPoolExecutor(12) as pool:
        threads = [pool.submit(connect) for _ in range(10)]
        loops = [pool.submit(asyncio.run, tasks()) for _ in range(2)]
        users = [each.result() for each in threads]
        users += [user for loop in loops for user in loop.result()]
    assert users == ["myapp"] * 30
    assert (azure.counts - before).token_requests == 1
    assert (azure.counts - before).sign_ins == 30


def test_a_failing_endpoint_is_asked_once_for_all(
    azure: Emulator, credentials: Credentials
) -> None:
    """A hundred tasks of one loop that wait for the same refusal cause one request."""
    real = credentials.managed_identity()
    gate = Gate(lambda: real.get_token(azpg.AZURE_PUBLIC.scope).token)
    password = azpg.EntraPassword(credentials.with_get_token(gate))
    before = azure.counts

    async def tasks() -> list[Any]:
        asked = [asyncio.create_task(password.call_async()) for _ in range(100)]
        await asyncio.sleep(0)
        gate.opened.set()
        return await asyncio.gather(*asked, return_exceptions=True)

    with azure.fault(identity=400):
        errors = asyncio.run(tasks())
    assert (azure.counts - before).token_requests == 1
    assert {type(error) for error in errors} == {azpg.CredentialError}
    assert len({str(error) for error in errors}) == 1
    assert len({id(error) for error in errors}) == 100


def test_who_is_cancelled_disturbs_nobody(credentials: Credentials) -> None:
    """Of many waiting tasks all but one are cancelled, the first among them: that one is served."""
    gate = Gate(lambda: "token")
    credential = credentials.with_get_token(gate)
    password = azpg.EntraPassword(credential)

    async def main() -> str:
        tasks = [asyncio.create_task(password.call_async()) for _ in range(50)]
        await asyncio.sleep(0)
        for task in tasks[:-1]:
            task.cancel()
        ended = await asyncio.gather(*tasks[:-1], return_exceptions=True)
        assert {type(error) for error in ended} == {asyncio.CancelledError}
        gate.opened.set()
        return await tasks[-1]

    assert asyncio.run(main()) == "token"
    assert credential.calls == 1


def test_when_all_are_cancelled_the_token_is_kept(credentials: Credentials) -> None:
    """A request whose every caller has gone still ends, and its token serves the next."""
    gate = Gate(lambda: "token")
    credential = credentials.with_get_token(gate)
    password = azpg.EntraPassword(credential)

    async def main() -> None:
        task = asyncio.create_task(password.call_async())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    waiting = threading.Thread(target=password)
    waiting.start()
    while not all_wait([waiting]):
        pass
    gate.opened.set()
    waiting.join()
    assert password() == "token"
    assert credential.calls == 1


def test_an_impatient_caller_does_not_end_the_others_wait(credentials: Credentials) -> None:
    """Each caller waits for its own timeout; who is late is told, and the others are served."""
    gate = Gate(lambda: "token")
    credential = credentials.with_get_token(gate)
    patient = azpg.EntraPassword(credential)
    impatient = azpg.EntraPassword(credential, timeout=0.05)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(patient)
        while not credential.calls:
            pass
        with pytest.raises(azpg.CredentialError, match=r"within 0\.05 s"):
            impatient()
        gate.opened.set()
        assert waiting.result() == "token"
