"""Closing: whatever a pool is at, nothing of it is left behind, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING, Any

import psycopg_pool
import pytest
from fix_api import AsyncApi
from fix_pools import make, until

import azpg

if TYPE_CHECKING:
    from fix_api import Api
    from fix_program import Program

    from azpg.emulator import Emulator


class Slow:
    """A credential that answers once it may, and says when it is asked."""

    def __init__(self, token: str) -> None:
        self.asked, self.may = threading.Event(), threading.Event()
        self.token = token

    def get_token(self, *_scopes: str, **_options: object) -> object:
        """Return a token."""
        from azure.core.credentials import AccessToken

        self.asked.set()
        assert self.may.wait(60)
        return AccessToken(self.token, 1 << 40)


def descriptors() -> int:
    """Return how many files and sockets this process has open."""
    return len(os.listdir("/proc/self/fd"))


def test_what_is_out_is_closed_when_it_returns(api: Api, azure: Emulator) -> None:
    """A connection that is out when its pool closes works on, until it comes back."""
    with api.pool(min_size=2) as pool:
        conn = api.run(pool.getconn())
        api.run(pool.close())
        assert api.row(conn, "select 1") == (1,)
        api.run(pool.putconn(conn))
        assert conn.closed


def test_who_waits_is_told(api: Api, azure: Emulator) -> None:
    """A client that waits for a connection is told that the pool is closed."""
    with api.pool(min_size=1) as pool:
        conn = api.run(pool.getconn())
        waiting = api.begin(pool.getconn, 60)
        until(lambda: pool.get_stats()["requests_waiting"])
        api.run(pool.close())
        assert isinstance(waiting.exception(60), psycopg_pool.PoolClosed)
        api.run(pool.putconn(conn))


def test_a_pool_is_closed_while_it_connects(api: Api, mortal: Emulator) -> None:
    """A server that never answers keeps no close() waiting, and no thread for long."""
    threads = set(threading.enumerate())
    pool = make(api, kwargs={"connect_timeout": 2}, min_size=2)
    before = mortal.counts
    with mortal.fault(connect="stall"):
        api.run(pool.open())
        until(lambda: (mortal.counts - before).connections == 2)
        api.run(pool.close())
    assert pool.closed
    until(lambda: set(threading.enumerate()) <= threads)


def test_a_pool_is_closed_while_it_asks_for_a_token(api: Api, azure: Emulator) -> None:
    """What a slow credential leads to after close() is closed as well."""
    credential = Slow(azure.token())
    threads = set(threading.enumerate())
    open_before = descriptors()
    pool = make(api, kwargs={"credential": credential}, min_size=2)
    api.run(pool.open())
    assert credential.asked.wait(60)
    api.run(pool.close(timeout=0.1))
    credential.may.set()
    if isinstance(api, AsyncApi):
        until(lambda: not asyncio.all_tasks(api.loop))
    else:
        until(lambda: set(threading.enumerate()) <= threads)
        until(lambda: descriptors() <= open_before)
    assert not pool._pool


def test_a_pool_is_closed_while_it_tries_again(api: Api, mortal: Emulator) -> None:
    """Between two tries close() has nothing to wait for."""
    threads = set(threading.enumerate())
    pool = make(api, min_size=2)
    with mortal.fault(connect="refuse"):
        api.run(pool.open())
        until(lambda: pool.get_stats().get("connections_errors", 0) >= 4)
        api.run(pool.close())
    until(lambda: set(threading.enumerate()) <= threads)


def test_pools_come_and_go(api: Api, azure: Emulator) -> None:
    """Opening and closing leaves no descriptor and no thread."""
    with api.pool(min_size=2) as pool:
        api.row_of_pool(pool, "select 1")
    threads, open_before = set(threading.enumerate()), descriptors()
    for _ in range(10):
        with api.pool(min_size=2) as pool:
            api.row_of_pool(pool, "select 1")
    until(lambda: set(threading.enumerate()) <= threads)
    until(lambda: descriptors() <= open_before)


# Programs that end


@pytest.mark.parametrize("how", ["end", "exit", "global"])
def test_a_program_ends_with_its_pool_open(program: Program, azure: Emulator, how: str) -> None:
    """A pool that nobody closes delays no end of a program, and says nothing."""

    def main(*, how: str) -> None:
        import sys

        import azpg

        pool = azpg.create_pool(min_size=2)
        with pool.connection() as conn:
            conn.execute("select 1")
        if how == "global":
            globals()["pool"] = pool
        if how == "exit":
            sys.exit(0)

    program(main, how=how)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_ctrl_c_while_a_client_waits(program: Program, azure: Emulator, kind: str) -> None:
    """Ctrl-C ends the wait for a connection, and the pool closes in order."""

    def main(*, kind: str) -> None:
        import asyncio
        import os
        import signal
        import threading

        import azpg

        over = threading.Event()

        def interrupt(pool: Any) -> None:
            while not pool.get_stats()["requests_waiting"]:
                pass
            # Again, as Python misses one that comes just before a wait until it wakes
            while True:
                os.kill(os.getpid(), signal.SIGINT)
                if over.wait(1):
                    break

        def wait() -> None:
            with azpg.create_pool(min_size=1) as pool, pool.connection():
                threading.Thread(target=interrupt, args=(pool,)).start()
                try:
                    pool.getconn(timeout=60)
                finally:
                    over.set()

        async def wait_async() -> None:
            async with azpg.create_pool_async(min_size=1) as pool, pool.connection():
                threading.Thread(target=interrupt, args=(pool,)).start()
                try:
                    await pool.getconn(timeout=60)
                finally:
                    over.set()

        try:
            wait() if kind == "sync" else asyncio.run(wait_async())
        except KeyboardInterrupt:
            print("interrupted")  # noqa: T201

    assert program(main, kind=kind) == ["interrupted"]


def test_the_loop_that_psycopg_cannot_use_is_named() -> None:
    """Windows' default loop is told with what to type; others are fit."""
    from azpg._connect import event_loop_error

    windows: Any = type("ProactorEventLoop", (), {})
    said = event_loop_error(type("Own", (windows,), {}))
    assert said is not None
    assert "loop_factory=asyncio.SelectorEventLoop" in said
    assert event_loop_error(asyncio.SelectorEventLoop) is None


def test_a_pool_on_such_a_loop_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows an async pool says so when it opens, before it could hide the error."""
    import sys

    class ProactorEventLoop(asyncio.SelectorEventLoop):
        """What Windows has."""

    async def main() -> None:
        pool = azpg.AsyncConnectionPool("host=myserver.postgres.database.azure.com", open=False)
        monkeypatch.setattr(sys, "platform", "win32")
        try:
            with pytest.raises(azpg.ConfigError, match="ProactorEventLoop"):
                await pool.open()
        finally:
            monkeypatch.undo()
        assert pool.closed

    with asyncio.Runner(loop_factory=ProactorEventLoop) as runner:
        runner.run(main())
