"""Many connects: as many as go through PgBouncer, and ten thousand one after the other."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

import azpg

from .measure import by_turns, median, ratio
from .results import Row

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from .servers import Servers

THREADS, TASKS, CONNECTS = 64, 500, 1000
MANY, FIRST = 1_000, 100


def rows(servers: Servers, turns: int) -> Iterator[Row]:
    """Measure, and yield what there is to show."""
    ours = servers.keywords(pgbouncer=True)
    final = servers.final(pgbouncer=True) | {"prepare_threshold": None}
    threads = by_turns(
        {
            "azpg": lambda: _in_threads(lambda: azpg.connect(**ours)),
            "psycopg": lambda: _in_threads(lambda: psycopg.connect(**final)),
        },
        turns=turns,
    )
    tasks = by_turns(
        {
            "azpg": lambda: asyncio.run(_in_tasks(lambda: azpg.connect_async(**ours))),
            "psycopg": lambda: asyncio.run(
                _in_tasks(lambda: psycopg.AsyncConnection.connect(**final))
            ),
        },
        turns=turns,
    )
    for what, costs in ((f"{THREADS} threads", threads), (f"{TASKS} tasks", tasks)):
        yield Row(
            f"wall time of {CONNECTS} connects through PgBouncer, {what}",
            "ms",
            median(costs, "azpg", "wall") * 1e3,
            "psycopg with the same parameters",
            median(costs, "psycopg", "wall") * 1e3,
            "times",
            0.97,
            ratio(costs, "azpg", "psycopg", "wall"),
        )
    yield _memory(servers)


def _in_threads(connect: Callable[[], Any]) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(lambda _: connect().close(), range(CONNECTS)):
            pass


async def _in_tasks(connect: Callable[[], Awaitable[Any]]) -> None:
    async def some() -> None:
        for _ in range(CONNECTS // TASKS):
            await (await connect()).close()

    await asyncio.gather(*(some() for _ in range(TASKS)))


def _memory(servers: Servers) -> Row:
    ours = servers.keywords()

    def connects(number: int) -> float:
        for _ in range(number):
            azpg.connect(**ours).close()
        return _megabytes()

    first = connects(FIRST)
    return Row(
        f"growth of memory from {FIRST} connects to {MANY:,}",
        "MB",
        connects(MANY - FIRST) - first,
        judged="itself",
        goal=0.5,
    )


def _megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6
