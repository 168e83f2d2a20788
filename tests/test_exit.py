"""Exit: an interpreter that goes down during a refresh neither hangs nor says a word; gevent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from fix_subprocess import Program

    from azpg.emulator import Emulator

pytestmark = pytest.mark.compat

# What the programs below are made of. Each stands alone, with the imports it needs.


class Slow:
    """A credential that answers so many times, and is still at work when the interpreter ends."""

    def __init__(self, answers: int = 0) -> None:
        import threading

        self.answers = answers
        self.asked = threading.Event()

    def get_token(self, *_scopes: str, **_options: object) -> object:
        """Return a token, or take longer than the program lives."""
        import threading

        from azure.core.credentials import AccessToken

        if self.answers:
            self.answers -= 1
            return AccessToken("token", 1 << 40)
        self.asked.set()
        threading.Event().wait(60)
        raise AssertionError


class SlowAsync(Slow):
    """The same, awaited."""

    async def get_token(self, *_scopes: str, **_options: object) -> object:
        """Return a token, or take longer than the program lives."""
        import asyncio

        if self.answers:
            return super().get_token()
        self.asked.set()
        await asyncio.sleep(60)
        raise AssertionError


@pytest.mark.parametrize("how", ["end", "exit", "os-exit", "error in a worker"])
def test_the_end_during_a_request(program: Program, how: str) -> None:
    """While a credential is at work in its thread the program ends as ever, at once."""

    def main(*, how: str) -> None:
        import os
        import sys
        import threading

        import azpg

        credential = Slow()
        threading.Thread(target=azpg.EntraPassword(credential), daemon=True).start()  # type: ignore[arg-type]  # enough of one
        credential.asked.wait()
        if how == "exit":
            sys.exit(0)
        if how == "os-exit":
            os._exit(0)
        if how == "error in a worker":
            worker = threading.Thread(target=sys.exit, args=(3,))
            worker.start()
            worker.join()

    program(main, Slow, how=how)


@pytest.mark.parametrize("kind", ["sync", "async", "sync on a loop"])
def test_the_end_during_a_refresh(program: Program, kind: str) -> None:
    """A renewal in the background, in a thread or on a loop, keeps no program from ending."""

    def main(*, kind: str) -> None:
        import asyncio

        import azpg

        credential = (SlowAsync if kind == "async" else Slow)(answers=1)
        password = azpg.EntraPassword(credential)  # type: ignore[arg-type]  # as above

        def renew() -> None:
            assert password._entry.cached is not None
            password._entry.cached = password._entry.cached._replace(refresh_after=0.0)

        async def ask() -> None:
            assert await password.call_async() == "token"
            renew()
            assert await password.call_async() == "token"
            await asyncio.to_thread(credential.asked.wait)

        if kind == "sync":
            assert password() == "token"
            renew()
            assert password() == "token"
            credential.asked.wait()
        else:
            asyncio.run(ask())

    program(main, Slow, SlowAsync, kind=kind)


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("used", [False, True], ids=["first", "again"])
def test_a_connection_made_at_exit(
    program: Program, azure: Emulator, kind: str, used: bool
) -> None:
    """A function of atexit connects, with a new token, though no thread can be started there."""

    def main(*, kind: str, used: bool) -> None:
        import asyncio
        import atexit

        import azpg

        async def connect_async() -> None:
            async with await azpg.connect_async() as conn:
                print(conn.info.user, flush=True)  # noqa: T201

        def connect() -> None:
            azpg.EntraPassword().invalidate()
            if kind == "async":
                return asyncio.run(connect_async())
            with azpg.connect() as conn:
                print(conn.info.user, flush=True)  # noqa: T201
            return None

        atexit.register(connect)
        if used:
            connect()

    assert program(main, kind=kind, used=used) == ["myapp"] * (1 + used)


def test_a_token_asked_for_in_the_last_moment(program: Program) -> None:
    """When modules are torn down already, and no thread starts, the caller asks by itself."""

    def main() -> None:
        import sys

        from azure.core.credentials import AccessToken

        import azpg

        class Ready:
            token = AccessToken("token", 1 << 40)

            def get_token(self, *_scopes: str, **_options: object) -> AccessToken:
                return self.token

        class Last:
            def __init__(self) -> None:
                self.password = azpg.EntraPassword(Ready())

            def __del__(self) -> None:
                assert sys.is_finalizing()
                print(self.password(), flush=True)  # noqa: T201

        sys.modules["last"] = Last()  # type: ignore[assignment]  # let go of at the very end

    assert program(main) == ["token"]


def test_gevent(program: Program, azure: Emulator) -> None:
    """Under gevent's patches many greenlets connect with one request, and the others go on."""

    def main(*, greenlets: int) -> None:
        from gevent import monkey  # type: ignore[import-untyped]

        monkey.patch_all()

        import gevent

        import azpg

        def connect() -> str:
            with azpg.connect() as conn:
                return conn.info.user

        asking = [gevent.spawn(connect) for _ in range(greenlets)]
        gevent.joinall(asking, raise_error=True)
        assert [each.value for each in asking] == ["myapp"] * greenlets

    before = azure.counts
    program(main, greenlets=10)
    assert (azure.counts - before).token_requests == 1
