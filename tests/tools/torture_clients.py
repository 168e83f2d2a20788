"""The clients of the torture test: what they write and read, and what they know of it after."""

from __future__ import annotations

import asyncio
import itertools
import random
import select
import threading
import time
from abc import ABC, abstractmethod
from array import array
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import psycopg

import azpg

Place: TypeAlias = Literal["postgres", "pgbouncer"]

SIZE = 3
"""connections of each pool"""

TAKE_ALL_SECONDS = 20.0
"""for each connection of a pool without clients"""

TABLE = """
    create table kept (id bigint not null);  -- no key, so that a row written twice would show
    create index on kept (id);
"""
_INSERT = "insert into kept values (%s)"
_COUNT = "select count(*) from kept where id = %s"


# What clients know


@dataclass
class Attempt:
    """One transaction of a client."""

    number: int
    era: int
    begun: bool = False
    failed: bool = True


class Ledger:
    """What all clients know of their transactions."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.era = 0
        """how many faults have ended"""
        self.acknowledged = array("q")
        self.doubtful = array("q")
        self.turned_away = 0
        """attempts that got no connection"""
        self.reads = 0
        self.wrong: list[str] = []
        """what no client may see"""
        self._numbers = itertools.count(1)

    @contextmanager
    def attempt(self, crew: Crew, *, writes: bool) -> Iterator[Attempt]:
        """Hand out a new number for a transaction, and note how it ends."""
        attempt = Attempt(next(self._numbers), self.era)
        try:
            yield attempt
            attempt.failed = False
        except (psycopg.OperationalError, psycopg.errors.ReadOnlySqlTransaction):
            pass
        except Exception as error:  # noqa: BLE001  # whatever else it is, it is wrong
            # psycopg's own, where a session ends just after its COMMIT was done: "received 2
            # results from command 'COMMIT'"
            if type(error) is not psycopg.InternalError:
                self.wrong.append(f"{crew}: {error!r}")
        with self.changed:
            if not attempt.failed:
                crew.served = attempt.era
                if writes:
                    self.acknowledged.append(attempt.number)
                else:
                    self.reads += 1
            elif not attempt.begun:
                self.turned_away += 1
            elif writes:
                self.doubtful.append(attempt.number)
            self.changed.notify_all()

    def last(self) -> int:
        """Return the transaction acknowledged last; 0 before any."""
        with self.changed:
            return self.acknowledged[-1] if self.acknowledged else 0

    def read(self, number: int, found: int) -> None:
        """Note how often a reader found what was acknowledged before it looked."""
        if found != (number > 0):
            self.wrong.append(f"transaction {number}: read {found} times")

    def wait_for(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait for a condition that the clients or their pools bring about."""
        deadline = time.monotonic() + seconds
        while not (met := condition()) and time.monotonic() < deadline:
            with self.changed:
                self.changed.wait(0.05)
        return met


class Verdict(NamedTuple):
    """What the server has, compared with what the clients know."""

    lost: int
    """acknowledged, and not there"""
    doubled: int
    """there more than once"""
    unknown: int
    """there, and of no client's"""
    kept: int
    """there of those in doubt"""


def judge(ledger: Ledger) -> Verdict:
    """Compare the table with the ledger."""
    with azpg.connect(retry_timeout=60) as conn:
        rows = conn.execute("select id, count(*) from kept group by id").fetchall()
    found: Counter[int] = Counter(dict(rows))
    acknowledged, doubtful = set(ledger.acknowledged), set(ledger.doubtful)
    return Verdict(
        lost=len(acknowledged - found.keys()),
        doubled=sum(times > 1 for times in found.values()),
        unknown=len(found.keys() - acknowledged - doubtful),
        kept=len(found.keys() & doubtful),
    )


# Clients


class Crew(ABC):
    """A pool, two clients that write and one that reads."""

    kind: str
    pool: Any
    pool_class: Any = None
    """a null pool class, or None for a pool that keeps connections"""

    def __init__(self, ledger: Ledger, place: Place, seed: int) -> None:
        self.ledger = ledger
        self.place = place
        self.chance = random.Random(f"{seed}: {self}")
        self.served = -1
        """the era of the last transaction acknowledged"""
        self._stopping = threading.Event()
        self._options: dict[str, Any] = {
            "pgbouncer": place == "pgbouncer",
            "pool_class": self.pool_class,
            "min_size": 0 if self.pool_class else SIZE,
            "max_size": SIZE if self.pool_class else SIZE + 1,
            "max_lifetime": 2.0,  # so that sign-ins never end
            "timeout": 2.0,
            "connect_timeout": 3,
            "name": str(self),
            "open": False,
        }
        if place == "postgres":  # PgBouncer repeats what its first server reported
            self._options["target_session_attrs"] = "read-write"

    def __str__(self) -> str:
        return f"{self.kind} to {self.place}"

    @property
    def errors(self) -> int:
        """How often its pool failed to connect."""
        return int(self.pool.get_stats().get("connections_errors", 0))

    @property
    def size(self) -> int:
        """How many of its connections live, in the pool or out."""
        return sum(_established(ref()) for ref in self.pool._connections.keyrefs())

    @property
    def back(self) -> bool:
        """Whether its pool is full, and has served since the last fault."""
        is_full = self.pool_class is not None or self.size >= SIZE
        return self.served == self.ledger.era and is_full

    def note_lost_slots(self, error: psycopg.Error) -> None:
        """Note that the pool has fewer connections than its `max_size`, once it has no clients."""
        self.ledger.wrong.append(f"{self}: slots lost: {error!r}, {self.pool.get_stats()}")

    @abstractmethod
    def start(self) -> None:
        """Open the pool, wait for nothing, and send the clients to work."""

    @abstractmethod
    def stop(self) -> None:
        """Have the clients finish, and close the pool."""


def _established(conn: psycopg.Connection[Any] | None) -> bool:
    """Tell whether both ends of a connection are open, without a touch."""
    if conn is None:
        return False
    try:
        poll = select.poll()
        poll.register(conn.fileno(), select.POLLRDHUP)
        return not poll.poll(0)
    except (psycopg.Error, ValueError):
        return False


_PAUSE = 0.02
"""seconds after which a client that failed tries its next"""


class SyncCrew(Crew):
    """Clients in threads."""

    kind = "threads"

    def start(self) -> None:
        """Open the pool and start a thread for each client."""
        self.pool = azpg.create_pool(**self._options)
        self.pool.open()
        self._threads = [
            threading.Thread(target=work, name=f"{self}, {work.__name__}")
            for work in (self._write, self._write, self._read)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Join the threads."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        try:
            with ExitStack() as taken:
                for _ in range(self.pool.max_size):
                    taken.enter_context(self.pool.connection(TAKE_ALL_SECONDS))
        except psycopg.Error as error:
            self.note_lost_slots(error)
        self.pool.close()

    def _write(self) -> None:
        while not self._stopping.is_set():
            with self.ledger.attempt(self, writes=True) as attempt, self.pool.connection() as conn:
                attempt.begun = True
                conn.execute(_INSERT, [attempt.number])
            if attempt.failed:
                self._stopping.wait(_PAUSE)

    def _read(self) -> None:
        while not self._stopping.is_set():
            number = self.ledger.last()
            with self.ledger.attempt(self, writes=False) as attempt, self.pool.connection() as conn:
                attempt.begun = True
                self.ledger.read(number, *conn.execute(_COUNT, [number]).fetchone())
            if attempt.failed:
                self._stopping.wait(_PAUSE)


class AsyncCrew(Crew):
    """Clients in tasks, on a loop of their own in a thread; one at PostgreSQL is canceled."""

    kind = "tasks"

    def start(self) -> None:
        """Start the loop and wait until the pool is open."""
        opened = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(opened,), name=str(self))
        self._thread.start()
        opened.wait()

    def stop(self) -> None:
        """Wait until the loop has nothing left to do."""
        self._stopping.set()
        self._thread.join()

    def _run(self, opened: threading.Event) -> None:
        async def main() -> None:
            async with azpg.create_pool_async(**self._options) as self.pool:
                opened.set()
                await asyncio.gather(*self._clients())
                try:
                    async with AsyncExitStack() as taken:
                        for _ in range(self.pool.max_size):
                            await taken.enter_async_context(self.pool.connection(TAKE_ALL_SECONDS))
                except psycopg.Error as error:
                    self.note_lost_slots(error)

        try:
            asyncio.run(main())
        finally:
            opened.set()

    async def _write(self) -> None:
        while not self._stopping.is_set():
            with self.ledger.attempt(self, writes=True) as attempt:
                async with self.pool.connection() as conn:
                    attempt.begun = True
                    await conn.execute(_INSERT, [attempt.number])
            if attempt.failed:
                await asyncio.sleep(_PAUSE)

    async def _read(self) -> None:
        while not self._stopping.is_set():
            number = self.ledger.last()
            with self.ledger.attempt(self, writes=False) as attempt:
                async with self.pool.connection() as conn:
                    attempt.begun = True
                    counted = await conn.execute(_COUNT, [number])
                    self.ledger.read(number, *await counted.fetchone())
            if attempt.failed:
                await asyncio.sleep(_PAUSE)

    def _clients(self) -> list[Coroutine[Any, Any, None]]:
        clients = [self._write(), self._write(), self._read()]
        if self.place == "postgres":
            # PgBouncer before 1.19.1 can crash on a cancel request (pgbouncer#822 and #847)
            clients.append(self._be_canceled())
        return clients

    async def _be_canceled(self) -> None:
        """Use the pool and be canceled at any moment: a lost slot would stall the others."""
        while not self._stopping.is_set():
            task = asyncio.create_task(self._use())
            await asyncio.sleep(self.chance.uniform(0.0, 0.1))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _use(self) -> None:
        async with self.pool.connection() as conn:
            await conn.execute("select 1")


class SyncNullCrew(SyncCrew):
    """Clients in threads, of a null pool."""

    kind = "threads, null pool,"
    pool_class = azpg.NullConnectionPool


class AsyncNullCrew(AsyncCrew):
    """Clients in tasks, of a null pool."""

    kind = "tasks, null pool,"
    pool_class = azpg.AsyncNullConnectionPool
