"""What fails or is ended leaves no socket open, even if the program keeps the errors."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from typing import TYPE_CHECKING, Any

import psycopg
import psycopg_pool
import pytest
from fix_pools import make

import azpg

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fix_api import AsyncApi, SyncApi

    from azpg.emulator import Emulator

TIMES = 4


def sockets() -> set[str]:
    """Return the sockets of this process that are open."""
    found = set()
    for each in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{each}")
        except FileNotFoundError:  # that of the listing itself
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


@pytest.fixture
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def fail(api: SyncApi | AsyncApi, **options: Any) -> BaseException:
    """Connect and return the error."""
    with pytest.raises(azpg.ConnectError) as caught:
        api.open(server="myserver", **options)
    return caught.value


def interrupt(api: SyncApi | AsyncApi, connect: Callable[..., Any]) -> BaseException:
    """Interrupt a connect by Ctrl-C, or cancel its task; return the exception."""

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    async def canceled() -> BaseException:
        task = asyncio.create_task(connect())
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        return caught.value

    if api.kind == "async":
        error: BaseException = api.run(canceled())
        return error
    before = signal.signal(signal.SIGALRM, end)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt) as caught:
            connect()
        return caught.value
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("_no_collector")
@pytest.mark.parametrize("ended_by", ["error", "cut", "timeout", "interruption", "closing"])
def test_no_socket_is_left(api: SyncApi | AsyncApi, azure: Emulator, ended_by: str) -> None:
    """Whatever ends a connect, its socket is closed when the exception is raised."""
    with api.connect(server="myserver"):  # fetches the token and imports what is needed
        pass
    connect = azpg.connect if api.kind == "sync" else azpg.connect_async
    fault: dict[str, Any] = {"connect": "stall"}
    if ended_by == "error":
        fault = {"say": ("53300", "sorry, too many clients already")}
    elif ended_by == "cut":
        fault = {"connect": "cut-in-tls"}
    before, kept = sockets(), []
    with azure.fault(**fault):
        for _ in range(TIMES):
            if ended_by in {"error", "cut"}:
                kept.append(fail(api, retry_timeout=0))
            elif ended_by == "timeout":
                kept.append(fail(api, retry_timeout=0.3))
            elif ended_by == "interruption":
                kept.append(interrupt(api, lambda: connect(server="myserver")))
            else:
                kept.append(close_pool(api))
        assert sockets() <= before
    assert len(kept) == TIMES


def close_pool(api: SyncApi | AsyncApi) -> BaseException:
    """Close a null pool while a client connects; return the client's error."""
    pool_class = azpg.NullConnectionPool if api.kind == "sync" else azpg.AsyncNullConnectionPool
    pool = make(api, pool_class=pool_class, kwargs={"server": "myserver"}, max_size=1)
    api.run(pool.open())
    before = sockets()
    client = api.begin(pool.getconn, 20)
    while sockets() <= before:
        pass
    api.run(pool.close())
    error = client.exception(20)
    assert isinstance(error, psycopg_pool.PoolClosed)
    return error


def cancel(api: SyncApi | AsyncApi, conn: Any, failure: str) -> BaseException:
    """Try to cancel a query; return the error."""
    if failure == "interruption":
        return interrupt(api, conn.cancel_safe)
    with pytest.raises(psycopg.OperationalError) as caught:
        api.run(conn.cancel_safe(timeout=0.2 if failure == "stall" else 20))
    return caught.value


@pytest.mark.usefixtures("_no_collector")
@pytest.mark.parametrize("failure", ["stall", "cut-at-ssl-request", "interruption"])
def test_no_socket_of_a_cancel_request_is_left(
    api: SyncApi | AsyncApi, azure: Emulator, failure: str
) -> None:
    """A request that fails, takes too long or is canceled itself: psycopg logs its error."""
    with api.connect(server="myserver") as conn:
        query = api.begin(conn.execute, "select pg_sleep(60)")
        before = sockets()
        fault: Any = "stall" if failure == "interruption" else failure
        with azure.fault(connect=fault):
            kept = [cancel(api, conn, failure) for _ in range(TIMES)]
            assert sockets() <= before
        assert len(kept) == TIMES
        api.run(conn.cancel_safe())
        assert isinstance(query.exception(20), psycopg.errors.QueryCanceled)
