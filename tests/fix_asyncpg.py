"""Run coroutines with asyncpg, and close its connections before the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

import pytest

Run: TypeAlias = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture
def run() -> Run:
    """Run a coroutine on a loop of its own, and let TLS say goodbye before the loop ends."""

    async def wholly(coroutine: Coroutine[Any, Any, Any]) -> Any:
        loop: Any = asyncio.get_running_loop()
        try:
            return await coroutine
        finally:
            async with asyncio.timeout(60):
                while len(loop._selector.get_map()) > 1:  # noqa: ASYNC110  # the loop's own pipe stays
                    await asyncio.sleep(0.001)

    return lambda coroutine: asyncio.run(wholly(coroutine))


@pytest.fixture
def look(run: Run) -> Callable[..., Any]:
    """Connect by azpg.asyncpg.connect, and return what a function sees of the connection."""

    def look(function: Callable[[Any], Any], *args: Any, **options: Any) -> Any:
        import azpg.asyncpg

        async def main() -> Any:
            conn = await azpg.asyncpg.connect(*args, **options)
            try:
                return await function(conn)
            finally:
                await conn.close()

        return run(main())

    return look
