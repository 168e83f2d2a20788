"""Faults of psycopg_pool that azpg works around: a test fails here once its fault is fixed.

If one does, psycopg_pool is fixed: raise its lowest version and take azpg's way around it out.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg
import psycopg_pool
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fix_servers import Postgres


@pytest.fixture
def kwargs(postgres: Postgres) -> dict[str, Any]:
    """Return the arguments of psycopg's connections."""
    return {"host": postgres.socket, "user": "admin", "dbname": "postgres"}


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Listen on a port, accept every client and never answer."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    "pool_class", [psycopg_pool.AsyncNullConnectionPool, psycopg_pool.AsyncConnectionPool]
)
def test_an_async_pool_loses_the_slot_of_a_canceled_client(
    kwargs: dict[str, Any], pool_class: Any
) -> None:
    """A client that is canceled while it waits for the lock to return its connection loses it."""

    async def main() -> None:
        sizes = {"min_size": 1} if pool_class is psycopg_pool.AsyncConnectionPool else {}
        pool = pool_class(kwargs=kwargs, max_size=1, open=False, **sizes)
        await pool.open()
        conn = await pool.getconn()
        waiting = asyncio.create_task(pool.getconn(timeout=0.2))
        await asyncio.sleep(0)
        async with pool._lock:  # as another client does that is suspended for a moment
            returning = asyncio.create_task(pool.putconn(conn))
            await asyncio.sleep(0)
            returning.cancel()
            await asyncio.sleep(0)
        await asyncio.gather(returning, waiting, return_exceptions=True)
        with pytest.raises(psycopg_pool.PoolTimeout):
            await pool.getconn(timeout=0.5)
        assert pool.get_stats()["pool_size"] == 1
        await pool.close()
        await conn.close()

    asyncio.run(main())


def test_an_async_pool_loses_the_connection_of_a_canceled_check(kwargs: dict[str, Any]) -> None:
    """A check that is canceled while it waits for the lock to put a connection back loses it."""

    async def main() -> None:
        pool: Any = psycopg_pool.AsyncConnectionPool(kwargs=kwargs, min_size=1, open=False)
        await pool.open(wait=True)
        checking = asyncio.create_task(pool.check())
        while pool._pool:  # noqa: ASYNC110
            await asyncio.sleep(0)
        async with pool._lock:  # as another client does that is suspended for a moment
            while not pool._lock._waiters:  # noqa: ASYNC110
                await asyncio.sleep(0)
            checking.cancel()
            await asyncio.sleep(0)
        await asyncio.gather(checking, return_exceptions=True)
        with pytest.raises(psycopg_pool.PoolTimeout):
            await pool.getconn(timeout=0.5)
        assert pool.get_stats()["pool_size"] == 1
        await pool.close()

    asyncio.run(main())


def test_a_pool_gives_a_connection_to_an_interrupted_client(kwargs: dict[str, Any]) -> None:
    """A client that is interrupted by Ctrl-C stays in the queue, and loses a connection."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with psycopg_pool.ConnectionPool(kwargs=kwargs, min_size=1, open=False) as pool:
        with pool.connection():
            before = signal.signal(signal.SIGALRM, interrupt)
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            try:
                with pytest.raises(KeyboardInterrupt):
                    pool.getconn(timeout=20)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, before)
        with pytest.raises(psycopg_pool.PoolTimeout):
            pool.getconn(timeout=0.5)


def test_the_clients_of_a_null_pool_wait_for_one_another(silent_port: int) -> None:
    """The lock is held during a connect: the second client waits for the first one's timeout."""
    kwargs = {"host": "127.0.0.1", "port": silent_port, "user": "me", "dbname": "x"}
    pool = psycopg_pool.NullConnectionPool(kwargs=kwargs, max_size=2, open=True)
    ended: list[float] = []

    def connect() -> None:
        with pytest.raises(psycopg.OperationalError):
            pool.getconn(timeout=2)
        ended.append(time.monotonic() - started)

    started = time.monotonic()
    threads = [threading.Thread(target=connect) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pool.close()
    assert max(ended) > 3.5


def test_resize_exceeds_max_size(kwargs: dict[str, Any]) -> None:
    """resize() adds to a pool that has grown as if it had not."""
    with psycopg_pool.ConnectionPool(kwargs=kwargs, min_size=1, max_size=2, open=False) as pool:
        pool.wait()
        with pool.connection(), pool.connection():
            pool.resize(2, 2)
            assert pool.get_stats()["pool_size"] == 3


PROGRAM = """
import asyncio, psycopg_pool, sys

async def main():
    address = f"host=127.0.0.1 port={sys.argv[1]} user=me dbname=x"
    pool = psycopg_pool.AsyncConnectionPool(address, min_size=1, open=False)
    await pool.open()
    await asyncio.sleep(0.3)
    raise RuntimeError

asyncio.run(main())
"""


def test_a_program_whose_async_pool_connects_does_not_end(silent_port: int) -> None:
    """The worker takes its own cancellation for a failed connection, and goes on."""
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run([sys.executable, "-c", PROGRAM, str(silent_port)], check=False, timeout=4)
