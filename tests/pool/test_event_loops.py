"""An async pool that is used from another event loop than the one that opened it."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import azpg

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fix_servers import Postgres

null = azpg.AsyncNullConnectionPool


@pytest.fixture
def kwargs(postgres: Postgres) -> dict[str, Any]:
    """Return the arguments of connections."""
    return {"host": postgres.socket, "user": "admin", "password": "x", "dbname": "postgres"}


@pytest.fixture
def other_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Run an event loop in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


async def open_pool(kwargs: dict[str, Any], pool_class: Any = azpg.AsyncConnectionPool) -> Any:
    """Open a pool of one connection."""
    sizes = {"max_size": 1} if pool_class is null else {"min_size": 1}
    pool = pool_class(kwargs=kwargs, open=False, **sizes)
    await pool.open(wait=True)
    return pool


async def select(pool: Any) -> Any:
    """Return a row of a pool."""
    async with pool.connection(timeout=10) as conn:
        return await (await conn.execute("select 1")).fetchone()


@pytest.mark.parametrize("pool_class", [azpg.AsyncConnectionPool, null])
def test_a_connection_works_on_another_loop(kwargs: dict[str, Any], pool_class: Any) -> None:
    """asyncio.run() for each request works, as long as no client has to wait."""
    pool = asyncio.run(open_pool(kwargs, pool_class))
    for _ in range(3):
        assert asyncio.run(select(pool)) == (1,)
    asyncio.run(pool.close())
    assert pool.closed


def test_a_client_does_not_wait_for_a_loop_that_has_ended(kwargs: dict[str, Any]) -> None:
    """If the connection is in use or broken, the error is raised at once and says what to do."""

    async def use() -> None:
        conn = await pool.getconn()
        started = time.monotonic()
        with pytest.raises(azpg.ConfigError, match="event loop"):
            await pool.getconn(timeout=30)
        await conn.close()
        await pool.putconn(conn)
        with pytest.raises(azpg.ConfigError, match=r"asyncio\.run"):
            await pool.getconn(timeout=30)
        with pytest.raises(azpg.ConfigError, match="event loop"):
            await pool.wait(timeout=30)
        assert time.monotonic() - started < 5
        await pool.close()

    pool = asyncio.run(open_pool(kwargs))
    asyncio.run(use())
    assert pool.closed


def test_the_own_loop_replaces_a_broken_connection(
    kwargs: dict[str, Any], other_loop: asyncio.AbstractEventLoop
) -> None:
    """A broken connection that another loop returns is replaced by the pool's own loop."""
    pool = asyncio.run_coroutine_threadsafe(open_pool(kwargs), other_loop).result(30)

    async def use() -> None:
        conn = await pool.getconn()
        await conn.close()
        await pool.putconn(conn)
        deadline = time.monotonic() + 30
        while not pool.get_stats()["pool_available"]:
            assert time.monotonic() < deadline
        assert await select(pool) == (1,)
        await pool.close()

    asyncio.run(use())
    assert pool.closed
    assert not asyncio.all_tasks(other_loop)
