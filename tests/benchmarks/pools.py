"""Checkout and return of a pooled connection, with the liveness check and without."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg_pool

import azpg

from .measure import by_turns, by_turns_async, median, more, ratio
from .results import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .measure import Costs
    from .servers import Servers

CALLS = 500


def rows(servers: Servers, turns: int) -> Iterator[Row]:
    """Measure, and yield the rows of the table."""
    final = servers.final()
    ours = servers.keywords()
    with ExitStack() as opened:
        pools: dict[str, psycopg_pool.ConnectionPool[Any]] = {
            "azpg": azpg.create_pool(**ours, min_size=2),
            "no check": psycopg_pool.ConnectionPool(kwargs=final, min_size=2, open=True),
            "check": psycopg_pool.ConnectionPool(
                kwargs=final,
                min_size=2,
                open=True,
                check=psycopg_pool.ConnectionPool.check_connection,
            ),
        }
        for pool in pools.values():
            opened.enter_context(pool)
            pool.wait()
        costs = by_turns(
            {name: partial(_out_and_back, pool) for name, pool in pools.items()},
            turns=turns,
            calls=CALLS,
        )
    yield from _judged("a checkout and return", costs)
    yield from _judged("an async checkout and return", asyncio.run(_async(ours, final, turns)))


def _out_and_back(pool: psycopg_pool.ConnectionPool[Any]) -> None:
    pool.putconn(pool.getconn())


async def _out_and_back_async(pool: psycopg_pool.AsyncConnectionPool[Any]) -> None:
    await pool.putconn(await pool.getconn())


async def _async(ours: Any, final: Any, turns: int) -> Costs:
    async with AsyncExitStack() as opened:
        pools: dict[str, psycopg_pool.AsyncConnectionPool[Any]] = {
            "azpg": await azpg.create_pool_async(**ours, min_size=2),
            "no check": psycopg_pool.AsyncConnectionPool(kwargs=final, min_size=2, open=False),
            "check": psycopg_pool.AsyncConnectionPool(
                kwargs=final,
                min_size=2,
                open=False,
                check=psycopg_pool.AsyncConnectionPool.check_connection,
            ),
        }
        for pool in pools.values():
            await opened.enter_async_context(pool)
            await pool.wait()

        contenders = {name: partial(_out_and_back_async, pool) for name, pool in pools.items()}
        return await by_turns_async(contenders, turns=turns, calls=CALLS)


def _judged(what: str, costs: Costs) -> Iterator[Row]:
    yield Row(
        f"CPU time of {what} with the liveness check",
        "µs",
        median(costs, "azpg") * 1e6,
        "psycopg_pool without a check",
        median(costs, "no check") * 1e6,
        "more",
        3.0,
        more(costs, "azpg", "no check") * 1e6,
    )
    yield Row(
        f"wall time of {what} with the liveness check",
        "µs",
        median(costs, "azpg", "wall") * 1e6,
        "psycopg_pool with `check_connection`",
        median(costs, "check", "wall") * 1e6,
        "times",
        10.0,
        ratio(costs, "azpg", "check", "wall"),
    )
