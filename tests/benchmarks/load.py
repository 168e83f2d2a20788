"""Many connects: concurrently through PgBouncer, and ten thousand one after the other."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg

import azpg

from .measure import by_turns, median, ratio
from .results import Row
from .starts import run

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from .servers import Servers

THREADS, TASKS, CONNECTS = 64, 500, 1000
FIRST, MANY = 5_000, 15_000
"""connects before the two readings of the memory: the first thousands fill Python's arenas of 1 MB,
and one more arena is no leak"""


def rows(servers: Servers, turns: int) -> Iterator[Row]:
    """Measure, and yield the rows of the table."""
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
            f"wall time of {CONNECTS:,} connects through PgBouncer ({what})",
            "ms",
            median(costs, "azpg", "wall") * 1e3,
            "psycopg",
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


# In a process of its own, as what others have freed would hide a growth
_MEMORY = """
import json, sys, time
import azpg
from azure.core.credentials import AccessTokenInfo

class Held:
    def get_token_info(self, *scopes, **options):
        return AccessTokenInfo(sys.argv[2], int(time.time()) + 86400)

told, credential = json.loads(sys.argv[1]), Held()
for number in range(int(sys.argv[4])):
    azpg.connect(**told, credential=credential).close()
    if number in (int(sys.argv[3]) - 1, int(sys.argv[4]) - 1):
        print(int(open("/proc/self/statm").read().split()[1]) * 4096)
"""


def _memory(servers: Servers) -> Row:
    told = {name: servers.final()[name] for name in ("host", "hostaddr", "user", "sslrootcert")}
    token = servers.tokens["myapp"]
    printed = run(_MEMORY, json.dumps(told), token, str(FIRST), str(MANY))
    first, last = map(int, printed.split())
    measure = f"memory growth from {FIRST:,} to {MANY:,} connects"
    return Row(measure, "MB", (last - first) / 1e6, judged="itself", goal=0.5)
