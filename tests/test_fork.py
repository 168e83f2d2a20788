"""Fork at any moment: the child gets tokens and connects, and the parent is not disturbed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fix_fork import connect, connect_in_both_ways, ended_well, forked

if TYPE_CHECKING:
    from fix_authority import Authority
    from fix_subprocess import Program

    from azpg.emulator import Emulator

pytestmark = pytest.mark.compat


class BlockedCredential:
    """A credential that waits for an event before it returns its token."""

    def __init__(self) -> None:
        import threading

        self.asked, self.may = threading.Event(), threading.Event()
        self.calls = 0

    def get_token(self, *_scopes: str, **_options: object) -> object:
        """Return a token."""
        from azure.core.credentials import AccessToken

        self.calls += 1
        self.asked.set()
        assert self.may.wait(30)
        return AccessToken(f"token {self.calls}", 1 << 40)


# A fork at any moment


def test_a_fork_waits_for_a_pending_token_request(program: Program) -> None:
    """The token arrives before the fork: the child has it without a request."""

    def main() -> None:
        import os
        import threading

        import azpg

        credential = BlockedCredential()
        password = azpg.EntraPassword(credential)  # type: ignore[arg-type]  # has the method that is called
        asking = threading.Thread(target=password)
        asking.start()
        credential.asked.wait()
        os.register_at_fork(before=credential.may.set)  # runs before azpg's own

        def work() -> None:
            assert password() == "token 1"
            assert credential.calls == 1

        ended_well(forked(work))
        asking.join()
        assert password() == "token 1"

    program(main, forked, ended_well, BlockedCredential)


def test_a_fork_on_a_loop_waits_for_a_thread(program: Program) -> None:
    """The same on a running event loop, if a sync credential runs in a thread."""

    def main() -> None:
        import asyncio
        import os

        import azpg

        credential = BlockedCredential()
        password = azpg.EntraPassword(credential)  # type: ignore[arg-type]  # as above

        def work() -> None:
            assert password() == asyncio.run(password.call_async()) == "token 1"
            assert credential.calls == 1

        async def fork() -> None:
            asking = asyncio.create_task(password.call_async())
            await asyncio.to_thread(credential.asked.wait)
            os.register_at_fork(before=credential.may.set)
            ended_well(forked(work))
            assert await asking == "token 1"

        asyncio.run(fork())

    program(main, forked, ended_well, BlockedCredential)


def test_a_fork_on_a_loop_does_not_wait_for_its_tasks(program: Program) -> None:
    """Only this loop could complete the request; the child requests a token itself."""

    def main() -> None:
        import asyncio
        import time

        from azure.core.credentials import AccessToken

        import azpg
        from azpg._tokens import cache

        class Waiting:
            may: asyncio.Event
            asked: asyncio.Event

            async def get_token(self, *_scopes: str, **_options: object) -> AccessToken:
                self.asked.set()
                await self.may.wait()
                return AccessToken("token", 1 << 40)

        credential = Waiting()
        password = azpg.EntraPassword(credential)  # type: ignore[arg-type]  # as above

        async def ask() -> str:
            credential.may, credential.asked = asyncio.Event(), asyncio.Event()
            credential.may.set()
            return await password.call_async()

        def work() -> None:
            assert asyncio.run(ask()) == "token"

        async def fork() -> None:
            credential.may, credential.asked = asyncio.Event(), asyncio.Event()
            asking = asyncio.create_task(password.call_async())
            await credential.asked.wait()
            cache.FORK_TIMEOUT_SECONDS = 25.0
            begun = time.monotonic()
            pid = forked(work)
            assert time.monotonic() - begun < 20
            ended_well(pid)
            credential.may.set()
            assert await asking == "token"

        asyncio.run(fork())

    program(main, forked, ended_well)


def test_a_fork_waits_for_the_thread_of_a_token_request(program: Program) -> None:
    """The thread that brought a token is wholly gone before the fork, with all the locks it takes.

    OpenSSL frees what it keeps for a thread under a lock, which a child would inherit locked.
    """

    def main() -> None:
        import threading
        import time

        from azure.core.credentials import AccessToken

        import azpg

        ended = []

        class Kept:
            def __del__(self) -> None:
                time.sleep(0.2)
                ended.append(True)

        class Keeping:
            own = threading.local()

            def get_token(self, *_scopes: str, **_options: object) -> AccessToken:
                self.own.kept = Kept()
                return AccessToken("token", 1 << 40)

        def work() -> None:
            assert ended

        password = azpg.EntraPassword(Keeping())
        password()
        ended_well(forked(work))

    program(main, forked, ended_well)


def test_a_hanging_credential_delays_a_fork_briefly(program: Program) -> None:
    """A fork waits a limited time for a credential that never returns."""

    def main() -> None:
        import os
        import threading
        import time

        import azpg
        from azpg._tokens import cache

        cache.FORK_TIMEOUT_SECONDS = 1.0
        parent = os.getpid()
        hanging = BlockedCredential()

        def factory() -> object:
            if os.getpid() == parent:
                return hanging
            answering = BlockedCredential()
            answering.may.set()
            return answering

        password = azpg.EntraPassword(factory)  # type: ignore[arg-type]  # as above
        threading.Thread(target=password, daemon=True).start()
        hanging.asked.wait()

        def work() -> None:
            assert password() == "token 1"

        begun = time.monotonic()
        pid = forked(work)
        assert 0.9 < time.monotonic() - begun < 9
        ended_well(pid)
        hanging.may.set()
        assert password() == "token 1"

    program(main, forked, ended_well, BlockedCredential)


@pytest.mark.parametrize("gevent", [False, True], ids=["threads", "gevent"])
@pytest.mark.parametrize("how", ["fork", "preexec_fn"])
def test_a_credential_that_forks_is_not_waited_for(
    program: Program, how: str, gevent: bool
) -> None:
    """A fork inside of the token request does not wait for that request, which cannot end first."""

    def main(*, how: str, gevent: bool) -> None:
        if gevent:
            from gevent import monkey  # type: ignore[import-untyped]

            monkey.patch_all()
        import os
        import subprocess
        import time

        from azure.core.credentials import AccessToken

        import azpg
        from azpg._tokens import cache

        class Forking:
            def get_token(self, *_scopes: str, **_options: object) -> AccessToken:
                if how == "fork":
                    ended_well(forked(lambda: None))
                else:
                    subprocess.run(["true"], check=True, preexec_fn=os.getpid)
                return AccessToken("token", 1 << 40)

        cache.FORK_TIMEOUT_SECONDS = 25.0
        password = azpg.EntraPassword(Forking())
        begun = time.monotonic()
        assert password() == "token"
        ended_well(forked(lambda: None))  # nor is a fork held up by its thread afterwards
        assert time.monotonic() - begun < 20

    program(main, forked, ended_well, how=how, gevent=gevent)


def test_a_lock_held_by_another_thread_is_no_deadlock(program: Program, azure: Emulator) -> None:
    """If another thread holds the lock of a cache entry at the fork, the child has a new lock."""

    def main() -> None:
        import threading

        import azpg

        connect()
        password = azpg.EntraPassword()
        held, end = threading.Event(), threading.Event()

        def hold() -> None:
            with password._entry.lock:
                held.set()
                end.wait()

        holding = threading.Thread(target=hold)
        holding.start()
        held.wait()
        pid = forked(connect_in_both_ways)
        end.set()
        holding.join()
        ended_well(pid)
        connect_in_both_ways()

    program(main, forked, ended_well, connect, connect_in_both_ways)


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])
def test_a_fork_with_a_running_event_loop(program: Program, azure: Emulator, inside: bool) -> None:
    """The child connects if the process forks inside of an event loop, or while one runs."""

    def main(*, inside: bool) -> None:
        import asyncio

        import azpg

        async def fork() -> None:
            # Only a token: libpq does not support a fork while another thread connects
            asking = asyncio.create_task(azpg.EntraPassword().call_async())
            await asyncio.sleep(0)
            if inside:
                ended_well(forked(connect_in_both_ways))
            else:
                pid = await asyncio.to_thread(forked, connect_in_both_ways)
                await asyncio.to_thread(ended_well, pid)
            assert await asking

        asyncio.run(fork())
        connect_in_both_ways()

    program(main, forked, ended_well, connect, connect_in_both_ways, inside=inside)


def test_many_forks_under_load(program: Program, azure: Emulator) -> None:
    """Threads request tokens repeatedly while the process forks: no child hangs."""

    def main(*, forks: int) -> None:
        import threading

        import azpg

        connect()
        end = threading.Event()

        def ask() -> None:
            password = azpg.EntraPassword()
            while not end.is_set():
                password.invalidate()
                assert password()

        def work() -> None:
            password = azpg.EntraPassword()
            password.invalidate()
            assert password.user() == "myapp"

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(forks):
            ended_well(forked(work))
        end.set()
        for thread in threads:
            thread.join()
        connect_in_both_ways()

    program(main, forked, ended_well, connect, connect_in_both_ways, forks=30)


# Connections and credentials of the child


@pytest.mark.parametrize("given", ["default", "factory"])
def test_a_child_makes_its_own_credential(
    program: Program, authority: Authority, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    """The child makes the default credential and a factory's again, and shares no socket."""

    def main(*, given: str) -> None:
        import azure.identity

        import azpg

        factory = None if given == "default" else azure.identity.EnvironmentCredential

        def ask() -> None:
            password = azpg.EntraPassword(factory)
            password.invalidate()
            assert password.user() == "myapp"

        ask()
        ended_well(forked(ask))
        ask()

    authority.lifetime = 0  # azure-identity does not cache such a token
    monkeypatch.setenv("AZURE_TENANT_ID", "11111111-2222-4333-8444-555555555555")
    monkeypatch.setenv("AZURE_CLIENT_ID", "app")
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "secret")
    program(main, forked, ended_well, given=given)
    before, child, after = (form["port"] for form in authority.forms)
    assert before == after != child


def test_the_token_of_a_credential_object_is_inherited(program: Program, azure: Emulator) -> None:
    """The child uses the parent's token of a credential object without a request."""

    def main() -> None:
        from azure.identity import ManagedIdentityCredential

        import azpg

        credential = ManagedIdentityCredential()

        def work() -> None:
            with azpg.connect(credential=credential) as conn:
                assert conn.info.user == "myapp"

        work()
        ended_well(forked(work))
        work()

    before = azure.counts
    program(main, forked, ended_well)
    assert (azure.counts - before).token_requests == 1
    assert (azure.counts - before).sign_ins == 3
