"""Closing a pool in any state: no thread, task, descriptor or waiting client is left."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg_pool
import pytest
from fix_api import AsyncApi
from fix_pools import make, until

import azpg

if TYPE_CHECKING:
    from fix_api import Api
    from fix_subprocess import Program

    from azpg.emulator import Emulator

pytestmark = pytest.mark.compat


class SlowCredential:
    """A credential that waits for an event before it returns its token."""

    def __init__(self, token: str) -> None:
        self.requested, self.proceed = threading.Event(), threading.Event()
        self.token = token

    def get_token(self, *_scopes: str, **_options: object) -> object:
        """Return a token."""
        from azure.core.credentials import AccessToken

        self.requested.set()
        assert self.proceed.wait(60)
        return AccessToken(self.token, 1 << 40)


def descriptors() -> int:
    """Return the number of open descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


def test_a_connection_in_use_is_closed_when_it_is_returned(api: Api, azure: Emulator) -> None:
    """A connection that a client uses when the pool closes works until it is returned."""
    with api.pool(min_size=2) as pool:
        conn = api.run(pool.getconn())
        api.run(pool.close())
        assert api.row(conn, "select 1") == (1,)
        api.run(pool.putconn(conn))
        assert conn.closed


def test_waiting_clients_get_pool_closed(api: Api, azure: Emulator) -> None:
    """A client that waits for a connection gets PoolClosed when the pool closes."""
    with api.pool(min_size=1) as pool:
        conn = api.run(pool.getconn())
        waiting = api.begin(pool.getconn, 60)
        until(lambda: pool.get_stats()["requests_waiting"])
        api.run(pool.close())
        assert isinstance(waiting.exception(60), psycopg_pool.PoolClosed)
        api.run(pool.putconn(conn))


def test_all_waits_end_with_the_first_that_is_over(api: Api, mortal: Emulator) -> None:
    """A wait() that times out closes the pool, and the others say so at once."""
    with mortal.fault(connect="stall"):
        pool = make(api, min_size=1)
        api.run(pool.open())
        longer = api.begin(pool.wait, 60)
        until(lambda: pool._full_waiters)
        with pytest.raises(psycopg_pool.PoolTimeout):
            api.run(pool.wait(0.3))
        started = time.monotonic()
        with pytest.raises(psycopg_pool.PoolClosed):
            longer.result(60)
    assert time.monotonic() - started < 5
    assert pool._pool_full_event is None


def test_closing_while_a_connection_stalls(api: Api, mortal: Emulator) -> None:
    """close() does not wait for a server that never answers, and the worker threads end."""
    threads = set(threading.enumerate())
    pool = make(api, kwargs={"connect_timeout": 2}, min_size=2)
    before = mortal.counts
    with mortal.fault(connect="stall"):
        api.run(pool.open())
        until(lambda: (mortal.counts - before).connections == 2)
        api.run(pool.close())
    assert pool.closed
    until(lambda: set(threading.enumerate()) <= threads)


def test_closing_while_a_token_is_requested(api: Api, azure: Emulator) -> None:
    """A connection whose token arrives after close() is closed too."""
    credential = SlowCredential(azure.token())
    threads = set(threading.enumerate())
    open_before = descriptors()
    pool = make(api, kwargs={"credential": credential}, min_size=2)
    api.run(pool.open())
    assert credential.requested.wait(60)
    api.run(pool.close(timeout=0.1))
    credential.proceed.set()
    if isinstance(api, AsyncApi):
        until(lambda: not asyncio.all_tasks(api.loop))
    else:
        until(lambda: set(threading.enumerate()) <= threads)
        until(lambda: descriptors() <= open_before)
    assert not pool._pool


def test_closing_between_two_attempts(api: Api, mortal: Emulator) -> None:
    """close() does not wait for the delay before the next attempt."""
    threads = set(threading.enumerate())
    pool = make(api, min_size=2)
    with mortal.fault(connect="refuse"):
        api.run(pool.open())
        until(lambda: pool.get_stats().get("connections_errors", 0) >= 4)
        api.run(pool.close())
    until(lambda: set(threading.enumerate()) <= threads)


def test_closing_releases_threads_and_descriptors(api: Api, azure: Emulator) -> None:
    """Opening and closing pools repeatedly leaves no descriptor and no thread."""
    with api.pool(min_size=2) as pool:
        api.row_of_pool(pool, "select 1")
    threads, open_before = set(threading.enumerate()), descriptors()
    for _ in range(10):
        with api.pool(min_size=2) as pool:
            api.row_of_pool(pool, "select 1")
    until(lambda: set(threading.enumerate()) <= threads)
    until(lambda: descriptors() <= open_before)


# At the end of a program


@pytest.mark.parametrize("how", ["end", "exit", "global"])
def test_a_program_exits_with_an_open_pool(program: Program, azure: Emulator, how: str) -> None:
    """A pool that is not closed does not delay the exit, and prints nothing."""

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
def test_ctrl_c_ends_the_wait_for_a_connection(
    program: Program, azure: Emulator, kind: str
) -> None:
    """Ctrl-C raises KeyboardInterrupt in getconn(), and the pool closes normally."""

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
            # Repeated: Python handles a signal just before a wait only when the wait ends
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


def test_another_event_loop_library_is_told_to_use_threads() -> None:
    """Without asyncio's event loop, as in trio, the async API raises a ConfigError that says so."""

    async def connect() -> None:
        await azpg.connect_async(host="db.example", user="me", password="x")

    async def pool() -> None:
        await azpg.create_pool_async(host="db.example", user="me", password="x")

    for steps in (connect(), pool()):
        with pytest.raises(azpg.ConfigError, match=r"needs asyncio.*trio\.to_thread"):
            steps.send(None)  # as another event loop does
