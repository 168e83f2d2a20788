"""Connects with a cached token, compared with psycopg, libpq and azure-postgresql-auth."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import psycopg
from azure_postgresql_auth.psycopg3 import EntraConnection

import azpg

from .measure import by_turns, by_turns_async, median, ratio
from .results import Row

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .measure import Costs, Kind
    from .servers import Servers

CLOSE: Mapping[Kind, float] = {"cpu": 1.05, "wall": 1.02}
"""goals against psycopg with the same parameters"""
CALLS = 8
"""connects in each turn"""


def rows(servers: Servers, turns: int) -> Iterator[Row]:
    """Measure, and yield the rows of the table."""
    for user, token in servers.tokens.items():
        size = f"with a token of {len(token):,} characters"
        yield from _sync(servers, user, size, turns)
        yield from _async(servers, user, size, turns)


def _sync(servers: Servers, user: str, size: str, turns: int) -> Iterator[Row]:
    ours = servers.keywords(user)
    final = servers.final(user)
    whole = servers.whole(user)
    credential = servers.credentials[user]
    raw = psycopg.conninfo.make_conninfo(**final).encode()
    contenders = {
        "azpg": lambda: azpg.connect(**ours).close(),
        "psycopg": lambda: psycopg.connect(**final).close(),
        "azure-postgresql-auth": lambda: EntraConnection.connect(
            credential=credential, **whole
        ).close(),
        "libpq": lambda: psycopg.pq.PGconn.connect(raw).finish(),
    }
    # Each pair by itself, because a third client would leave other data in the CPU caches
    for other, goals in _PAIRS.items():
        pair = {name: contenders[name] for name in ("azpg", other)}
        costs = by_turns(pair, turns=turns if goals == CLOSE else turns // 4, calls=CALLS)
        yield from _compared(costs, other, f"a connect {size}", goals)


def _async(servers: Servers, user: str, size: str, turns: int) -> Iterator[Row]:
    ours = servers.keywords(user)
    final = servers.final(user)

    async def own() -> None:
        await (await azpg.connect_async(**ours)).close()

    async def bare() -> None:
        await (await psycopg.AsyncConnection.connect(**final)).close()

    costs = asyncio.run(by_turns_async({"azpg": own, "psycopg": bare}, turns=turns, calls=CALLS))
    yield from _compared(costs, "psycopg", f"an async connect {size}", CLOSE)


def _compared(
    costs: Costs,
    other: str,
    what: str,
    goals: Mapping[Kind, float | None],
) -> Iterator[Row]:
    for kind, goal in goals.items():
        yield Row(
            f"{_KINDS[kind]} of {what}",
            "ms",
            median(costs, "azpg", kind) * 1e3,
            _OTHERS.get(other, other),
            median(costs, other, kind) * 1e3,
            goal=goal,
            paired=ratio(costs, "azpg", other, kind),
        )


_PAIRS: dict[str, Mapping[Kind, float | None]] = {
    "psycopg": CLOSE,
    "azure-postgresql-auth": {"cpu": 0.40},
    "libpq": {"wall": None},
}
_KINDS: dict[Kind, str] = {"cpu": "CPU time", "wall": "wall time"}
_OTHERS = {"libpq": "libpq alone"}
