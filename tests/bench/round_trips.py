"""How often a connect waits for the server: counted through a proxy that delays."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg

import azpg

from .results import Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .servers import Servers

ADDRESS = "127.7.7.8"
ROUND_TRIP = 0.020
"""seconds"""


def rows(servers: Servers, turns: int) -> Iterator[Row]:
    """Measure, and yield what there is to show."""
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
    with _delayed(entra.hostaddr, 5432) as delay:

        def trips(connect: Callable[[], Any]) -> float:
            took = {}
            for seconds in (0.0, ROUND_TRIP / 2):
                delay(seconds)
                took[seconds] = statistics.median(_timed(connect) for _ in range(turns))
            return (took[ROUND_TRIP / 2] - took[0.0]) / ROUND_TRIP

        theirs = round(trips(lambda: psycopg.connect(**bare)), 1)
        own = round(trips(lambda: azpg.connect(**ours)), 1)
        direct = round(trips(lambda: azpg.connect(**ours, sslnegotiation="direct")), 1)
    against = "psycopg with its defaults"
    yield Row("round trips to a ready connection", "trips", own, against, theirs, "more", 0.1)
    measure = "the same with sslnegotiation=direct"
    yield Row(measure, "trips", direct, against, theirs, "more", -0.9)


def _timed(connect: Callable[[], Any]) -> float:
    before = time.perf_counter()
    connect().close()
    return time.perf_counter() - before


@contextlib.contextmanager
def _delayed(host: str, port: int) -> Iterator[Callable[[float], None]]:
    """Run the proxy in a thread, and yield what sets the seconds of one way."""
    one_way = 0.0
    loop = asyncio.new_event_loop()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if one_way:
                loop.call_later(one_way, writer.write, data)
            else:
                writer.write(data)
        loop.call_later(one_way, writer.close)

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(2 * one_way)  # TCP's own round trip, which loopback has not
        far_reader, far_writer = await asyncio.open_connection(host, port)
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(carry(reader, far_writer), carry(far_reader, writer))

    def set_delay(seconds: float) -> None:
        nonlocal one_way
        one_way = seconds

    server = loop.run_until_complete(asyncio.start_server(meet, ADDRESS, 5432))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield set_delay
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
