"""Pools keep their deadlines, and programs end, while servers and endpoints do not answer."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg_pool
import pytest
from fix_pools import make, until

import azpg

if TYPE_CHECKING:
    from fix_api import Api
    from fix_subprocess import Program

    from azpg.emulator import Emulator

STALLS: list[Any] = [
    pytest.param({"connect": "stall"}, id="server"),
    pytest.param({"identity": "hang"}, id="identity"),
]
LATE = 1.0
"""seconds after its timeout at which a client must have its error, on a loaded machine"""


def null(api: Api) -> Any:
    """Return the null pool class of an API."""
    return azpg.NullConnectionPool if api.kind == "sync" else azpg.AsyncNullConnectionPool


@pytest.mark.parametrize("fault", STALLS)
def test_each_client_of_a_null_pool_has_its_own_timeout(
    api: Api, mortal: Emulator, fault: Any
) -> None:
    """Clients that connect and clients that wait for a slot end within their own timeouts."""
    pool = make(api, pool_class=null(api), max_size=2)
    api.run(pool.open())
    ended: dict[int, float] = {}

    def note_end(index: int, _: object) -> None:
        ended[index] = time.monotonic() - started

    timeouts = [0.3, 1.0, 1.5, 1.5, 1.5]
    with mortal.fault(**fault):
        if "identity" in fault:
            mortal.expire_tokens()
        started = time.monotonic()
        waiting = [api.begin(pool.getconn, timeout) for timeout in timeouts]
        for index, future in enumerate(waiting):
            future.add_done_callback(partial(note_end, index))
        errors = [future.exception(60) for future in waiting]
    assert all(isinstance(error, psycopg_pool.PoolTimeout) for error in errors)
    assert {getattr(error, "kind", "") for error in errors} == {"pool-timeout"}
    assert all(ended[index] < timeout + LATE for index, timeout in enumerate(timeouts)), ended
    assert pool.get_stats()["pool_size"] == 0
    api.run(pool.close())


def test_a_null_pool_retries_within_the_timeout(api: Api, mortal: Emulator) -> None:
    """A client gets its connection as soon as the server is back, after no error at all."""
    pool = make(api, pool_class=null(api), max_size=2)
    api.run(pool.open())
    with mortal.fault(connect="refuse"):
        waiting = [api.begin(pool.getconn, 60) for _ in range(4)]
        until(lambda: pool.get_stats()["requests_waiting"] == 2)
    for future in waiting:
        api.run(pool.putconn(future.result(60)))
    assert pool.get_stats()["pool_size"] == 0
    api.run(pool.close())


@pytest.mark.parametrize("fault", STALLS)
@pytest.mark.parametrize("kind", ["pool", "null"])
def test_close_ends_what_waits(api: Api, mortal: Emulator, fault: Any, kind: str) -> None:
    """close() ends connections that are being made; their clients get PoolClosed at once."""
    pool = make(api, pool_class=api.pool_class if kind == "pool" else null(api), max_size=4)
    threads = {thread for thread in threading.enumerate() if "azpg-token" not in thread.name}
    with mortal.fault(**fault):
        if "identity" in fault:
            mortal.expire_tokens()
        before = mortal.counts
        api.run(pool.open())
        waiting = [api.begin(pool.getconn, 60) for _ in range(5)]
        until(lambda: pool.get_stats().get("connections_num", 0))
        if "connect" in fault:
            until(lambda: mortal.counts.connections > before.connections)
        started = time.monotonic()
        api.run(pool.close())
        errors = [future.exception(60) for future in waiting]
        assert time.monotonic() - started < LATE
    assert all(isinstance(error, psycopg_pool.PoolClosed) for error in errors), errors
    left = {each for each in threading.enumerate() if each.name.startswith("pool-")} - threads
    until(lambda: not any(each.is_alive() for each in left))


@pytest.mark.parametrize("fault", STALLS)
def test_a_pool_ends_at_its_timeout(api: Api, mortal: Emulator, fault: Any) -> None:
    """create_pool(timeout=) ends within a second of the timeout."""
    with mortal.fault(**fault):
        if "identity" in fault:
            mortal.expire_tokens()
        started = time.monotonic()
        with pytest.raises(psycopg_pool.PoolTimeout):
            api.open_pool(min_size=2, timeout=1)
        assert time.monotonic() - started < 1 + LATE


@pytest.mark.parametrize("is_null", [False, True], ids=["pool", "null"])
def test_a_timeout_says_how_many_connections_are_in_use(
    api: Api, mortal: Emulator, *, is_null: bool
) -> None:
    """And for how long the oldest has been out."""
    options = {"pool_class": null(api)} if is_null else {"min_size": 2}
    with api.pool(max_size=2, **options) as pool:
        connections = [api.run(pool.getconn()) for _ in range(2)]
        with pytest.raises(psycopg_pool.PoolTimeout, match=r"in use: 2, the oldest for \d+ s"):
            api.run(pool.getconn(0.1))
        for conn in connections:
            api.run(pool.putconn(conn))


@pytest.mark.parametrize("is_null", [False, True], ids=["pool", "null"])
def test_a_timeout_says_which_token_it_waited_for(
    api: Api, mortal: Emulator, *, is_null: bool
) -> None:
    """It names the credential, and how long the request has taken."""
    options = {"pool_class": null(api)} if is_null else {"min_size": 1}
    with mortal.fault(identity="hang"):
        mortal.expire_tokens()
        pool = make(api, **options)
        api.run(pool.open())
        with pytest.raises(psycopg_pool.PoolTimeout, match="token from DefaultAzureCredential"):
            api.run(pool.getconn(1.2))
        api.run(pool.close())


@pytest.mark.parametrize("fault", STALLS)
def test_a_timeout_while_the_pool_connects_is_a_connect_error(
    api: Api, mortal: Emulator, fault: Any
) -> None:
    """`except azpg.ConnectError` catches it, although no connection has failed yet."""
    with mortal.fault(**fault):
        mortal.expire_tokens()
        pool = make(api, min_size=1)
        api.run(pool.open())
        for wait in (pool.getconn, pool.wait):
            with pytest.raises(azpg.ConnectError) as caught:
                api.run(wait(timeout=0.3))
            assert caught.value.kind == "pool-timeout"
            assert isinstance(caught.value, psycopg_pool.PoolTimeout)
            assert azpg.explain(caught.value).hint == caught.value.hint


@pytest.mark.parametrize("how", ["raise", "cancel"])
def test_a_program_whose_async_pool_connects_ends(
    program: Program, mortal: Emulator, how: str
) -> None:
    """A program that fails without closing its pool ends, with its own error."""

    def main(*, how: str) -> None:
        import asyncio
        import time

        import azpg

        async def run() -> None:
            pool = azpg.create_pool_async(min_size=2, open=False)
            await pool.open()
            await asyncio.sleep(0.3)  # the workers wait for the server
            assert pool.get_stats()["connections_num"]
            raise RuntimeError if how == "raise" else asyncio.CancelledError

        started = time.monotonic()
        try:
            asyncio.run(run())
        except (RuntimeError, asyncio.CancelledError) as error:
            seconds = time.monotonic() - started
            print(type(error).__name__, seconds < 3)  # noqa: T201

    with mortal.fault(connect="stall"):
        expected = "RuntimeError" if how == "raise" else "CancelledError"
        assert program(main, how=how) == [f"{expected} True"]


@pytest.mark.parametrize("how", ["interrupt", "terminate", "with"])
def test_a_stopped_program_ends_at_once(program: Program, mortal: Emulator, how: str) -> None:
    """Ctrl-C, SIGTERM and the end of a `with` block do not wait for a server that stalls."""

    def main(*, how: str) -> None:
        import os
        import signal
        import sys
        import threading
        import time

        import azpg

        stopped = 0.0

        def stop() -> None:
            nonlocal stopped
            time.sleep(0.5)
            stopped = time.monotonic()
            os.kill(os.getpid(), signal.SIGINT if how == "interrupt" else signal.SIGTERM)

        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            if how == "with":
                with azpg.create_pool(min_size=2, open=False):
                    time.sleep(0.5)
                    stopped = time.monotonic()
            else:
                threading.Thread(target=stop).start()
                azpg.create_pool(min_size=2)
        except (KeyboardInterrupt, SystemExit):
            pass
        left = [each.name for each in threading.enumerate() if each.name.startswith("pool-")]
        print(time.monotonic() - stopped < 1, left)  # noqa: T201

    with mortal.fault(connect="stall"):
        assert program(main, how=how) == ["True []"]
