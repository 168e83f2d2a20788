"""The round trips of a connect, counted by a proxy that delays."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import threading
from typing import TYPE_CHECKING, Any, Self

import psycopg

import azpg

from .results import Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .servers import Servers

ADDRESS = "127.7.7.8"
ONE_WAY = 0.010
"""seconds"""


def rows(servers: Servers, turns: int) -> Iterator[Row]:
    """Measure, and yield the rows of the table."""
    entra = servers.entra
    credential = servers.credentials["myapp"]
    ours: Any = {
        "server": entra.host,
        "hostaddr": ADDRESS,
        "sslrootcert": entra.env["PGSSLROOTCERT"],
        "user": "myapp",
        "credential": credential,
    }
    bare: Any = {
        "host": entra.host,
        "hostaddr": ADDRESS,
        "dbname": "postgres",
        "user": "myapp",
        "password": servers.tokens["myapp"],
    }
    with _Delayed(entra.hostaddr, 5432) as proxy:

        def trips(connect: Callable[[], Any]) -> float:
            return statistics.median(proxy.trips(connect) for _ in range(turns))

        theirs = trips(lambda: psycopg.connect(**bare))
        own = trips(lambda: azpg.connect(**ours))
        direct = trips(lambda: azpg.connect(**ours, sslnegotiation="direct"))
    against = "psycopg"
    yield Row("round trips of a connect", "", own, against, theirs, "more", 0)
    measure = "round trips of a connect with `sslnegotiation=direct`"
    yield Row(measure, "", direct, against, theirs, "more", -1)


class _Delayed:
    """A proxy in its own thread, which delays everything by half a round trip each way."""

    def __init__(self, host: str, port: int) -> None:
        self._far = host, port
        self._turns = 0
        """how often the client sent data after the server did"""
        self._last = "server"
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    def trips(self, connect: Callable[[], Any]) -> int:
        """Return how many round trips a connect waits for; the first is that of TCP."""
        self._turns, self._last = 0, "server"
        conn = connect()
        turns = self._turns
        conn.close()
        return 1 + turns

    async def _run(self) -> None:
        server = await asyncio.start_server(self._meet, ADDRESS, 5432)
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._far)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await asyncio.gather(
                self._carry("client", reader, far_writer), self._carry("server", far_reader, writer)
            )

    async def _carry(
        self, who: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(65536):
            self._turns += (who, self._last) == ("client", "server")
            self._last = who
            self._loop.call_later(ONE_WAY, writer.write, data)
        self._loop.call_later(ONE_WAY, writer.close)
