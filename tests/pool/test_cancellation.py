"""Clients that are canceled at any moment: no slot, connection or task is lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import signal
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from fix_pools import until

import azpg

if TYPE_CHECKING:
    from fix_servers import Postgres

SIZE = 5
CLIENTS = 12
CANCELLATIONS = 600


@pytest.fixture
def seed() -> int:
    """Print the seed of a random test, so that a failure can be repeated."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")  # noqa: T201  # pytest shows it for a test that fails
    return seed


@pytest.fixture
def kwargs(postgres: Postgres, request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return the arguments of connections that are quick to open, with the test's own name."""
    name = f"{request.node.name[:40]} {uuid.uuid4().hex[:8]}"
    return {
        "host": postgres.socket,
        "user": "admin",
        "dbname": "postgres",
        "password": "unused",
        "application_name": name,
    }


class FlakyCallbacks:
    """configure, check and reset of a pool, which suspend and sometimes fail."""

    def __init__(self, chance: random.Random, *, reset: bool) -> None:
        self.chance = chance
        self.is_flaky = True
        self.options: dict[str, Any] = {"configure": self.call, "check": self.call}
        if reset:
            self.options["reset"] = self.call

    async def call(self, conn: Any) -> None:
        """Suspend as a query does, and sometimes fail or close the connection."""
        for _ in range(self.chance.randrange(3)):
            await asyncio.sleep(0)
        if self.is_flaky and self.chance.random() < 0.05:
            if self.chance.random() < 0.5:
                await conn.close()
            raise psycopg.OperationalError("flaky")


async def use(pool: Any, chance: random.Random) -> None:
    """Take connections and give them back, idle, closed, failed or in a transaction."""
    me = asyncio.current_task()
    assert me is not None
    while not me.cancelling():  # psycopg may raise another error for a cancellation
        if chance.random() < 0.02:
            await pool.check()
        with contextlib.suppress(psycopg.Error, ZeroDivisionError):
            async with pool.connection(timeout=0.5) as conn:
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
                kind = chance.randrange(6)
                if kind == 0:
                    await conn.execute("select 1")
                elif kind == 1:
                    await conn.execute("no statement")
                elif kind == 2:
                    raise ZeroDivisionError
                elif kind == 3 and chance.random() < 0.2:
                    await conn.close()
        await asyncio.sleep(0)


async def cancel_clients(pool: Any, chance: random.Random, cancellations: int) -> None:
    """Run clients on a busy event loop and cancel them at random."""

    async def keep_busy() -> None:
        while True:  # noqa: ASYNC110  # the other work of a program
            await asyncio.sleep(0)

    busy = [asyncio.create_task(keep_busy()) for _ in range(5)]
    clients = [asyncio.create_task(use(pool, chance)) for _ in range(CLIENTS)]
    canceled: list[asyncio.Task[None]] = []
    for _ in range(cancellations):
        for _ in range(chance.randrange(25)):
            await asyncio.sleep(0)
        number = chance.randrange(CLIENTS)
        clients[number].cancel()
        if chance.random() < 0.3:  # again, while it cleans up
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            clients[number].cancel()
        canceled.append(clients[number])
        clients[number] = asyncio.create_task(use(pool, chance))
    for task in (*clients, *busy):
        task.cancel()
    await asyncio.gather(*clients, *canceled, *busy, return_exceptions=True)


@pytest.mark.parametrize("reset", [False, True], ids=["plain", "reset"])
@pytest.mark.parametrize("pool_class", [azpg.AsyncConnectionPool, azpg.AsyncNullConnectionPool])
def test_no_slot_is_lost_if_clients_are_canceled(
    postgres: Postgres, kwargs: dict[str, Any], seed: int, pool_class: Any, reset: bool
) -> None:
    """After hundreds of cancellations the pool hands out as many connections as before."""
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    chance = random.Random(seed)
    callbacks = FlakyCallbacks(chance, reset=reset)
    sizes = {"min_size": SIZE} if pool_class is azpg.AsyncConnectionPool else {"max_size": SIZE}

    async def main() -> None:
        pool = pool_class(kwargs=kwargs, open=False, **sizes, **callbacks.options)
        await pool.open()
        await cancel_clients(pool, chance, CANCELLATIONS)
        callbacks.is_flaky = False
        conns = await asyncio.gather(*(pool.getconn(timeout=20) for _ in range(SIZE)))
        with pytest.raises(psycopg.OperationalError):
            await pool.getconn(timeout=0.05)
        for conn in conns:
            await pool.putconn(conn)
        await pool.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    try:
        asyncio.run(main())
    finally:
        logging.getLogger("psycopg.pool").setLevel(logging.NOTSET)
    wait_for_sessions(postgres, kwargs["application_name"], 0)


class Timeout(BaseException):
    """A timeout that is no Exception, as gevent's."""


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, Timeout])
@pytest.mark.parametrize("pool_class", [azpg.ConnectionPool, azpg.NullConnectionPool])
def test_an_interrupted_client_gets_no_connection(
    kwargs: dict[str, Any], pool_class: Any, interruption: type[BaseException]
) -> None:
    """A client that is interrupted while it waits leaves the queue, as in a notebook."""

    def interrupt(*_: object) -> None:
        raise interruption

    sizes = {"min_size": 1} if pool_class is azpg.ConnectionPool else {"max_size": 1}
    with pool_class(kwargs=kwargs, open=False, **sizes) as pool:
        with pool.connection():
            before = signal.signal(signal.SIGALRM, interrupt)
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            try:
                with pytest.raises(interruption):
                    pool.getconn(timeout=20)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, before)
        for _ in range(2):
            with pool.connection(timeout=20) as conn:
                conn.execute("select 1")


class Interrupted(azpg.Connection[Any]):
    """A connection whose rollback is interrupted, as by Ctrl-C while the server stalls."""

    def rollback(self) -> None:
        """Raise as the handler of the signal does."""
        raise KeyboardInterrupt


@pytest.mark.parametrize("pool_class", [azpg.ConnectionPool, azpg.NullConnectionPool])
def test_an_interrupted_return_loses_no_slot(kwargs: dict[str, Any], pool_class: Any) -> None:
    """A connection whose return is interrupted is closed and replaced."""
    is_null = pool_class is azpg.NullConnectionPool
    with (
        ThreadPoolExecutor(1) as executor,
        pool_class(
            kwargs=kwargs,
            connection_class=Interrupted,
            min_size=0 if is_null else 1,
            max_size=1,
            open=False,
        ) as pool,
    ):
        conn = pool.getconn(timeout=20)
        waiting = executor.submit(pool.getconn, 20)
        until(lambda: pool.get_stats()["requests_waiting"])
        conn.execute("select 1")
        with pytest.raises(KeyboardInterrupt):
            pool.putconn(conn)
        assert conn.closed
        other = waiting.result(30)
        assert other is not conn
        pool.putconn(other)


def test_a_canceled_check_loses_no_connection(kwargs: dict[str, Any]) -> None:
    """check() goes on if it is canceled while it puts a connection back."""

    async def main() -> None:
        pool: Any = azpg.AsyncConnectionPool(kwargs=kwargs, min_size=1, open=False)
        await pool.open(wait=True)
        checking = asyncio.create_task(pool.check())
        while pool._pool:  # noqa: ASYNC110
            await asyncio.sleep(0)
        async with pool._lock:  # as another client does that is suspended for a moment
            while not pool._lock._waiters:  # noqa: ASYNC110
                await asyncio.sleep(0)
            checking.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await checking
        async with pool.connection(timeout=20) as conn:
            await conn.execute("select 1")
        await pool.close()

    asyncio.run(main())


def wait_for_sessions(postgres: Postgres, name: str, expected: int) -> None:
    """Wait until the server has as many sessions with a name as expected."""
    with psycopg.connect(
        host=postgres.socket, user="admin", dbname="postgres", autocommit=True
    ) as conn:
        query = "select state, query from pg_stat_activity where application_name = %s"
        deadline = time.monotonic() + 30
        while len(found := conn.execute(query, [name]).fetchall()) != expected:
            assert time.monotonic() < deadline, found


@pytest.mark.parametrize("pool_class", [azpg.ConnectionPool, azpg.NullConnectionPool])
def test_no_slot_is_lost_while_threads_work_and_the_pool_is_resized(
    postgres: Postgres, kwargs: dict[str, Any], seed: int, pool_class: Any
) -> None:
    """Under load, with failing callbacks, the pool has never more connections than `max_size`."""
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    chance = random.Random(seed)
    is_null = pool_class is azpg.NullConnectionPool
    open_now: Counter[str] = Counter()
    most, lock, over = 0, threading.Lock(), threading.Event()

    def configure(conn: Any) -> None:
        if not over.is_set() and chance.random() < 0.05:
            raise psycopg.OperationalError("flaky")

    def check(conn: Any) -> None:
        configure(conn)

    pool = pool_class(
        kwargs=kwargs,
        min_size=0 if is_null else 2,
        max_size=4,
        open=True,
        configure=configure,
        check=check,
    )

    def work() -> None:
        nonlocal most
        while not over.is_set():
            with contextlib.suppress(psycopg.Error), pool.connection(timeout=0.5) as conn:
                with lock:
                    open_now["used"] += 1
                    most = max(most, open_now["used"])
                try:
                    if chance.random() < 0.1:
                        conn.close()
                    else:
                        conn.execute("select 1")
                finally:
                    with lock:
                        open_now["used"] -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            for size in (6, 2, 4):
                pool.resize(0 if is_null else min(2, size), size)
                sizes = [pool.get_stats()["pool_size"] for _ in range(20)]
                assert size < 6 or max(sizes) <= 6
                over.wait(0.02)
    finally:
        over.set()
        for thread in threads:
            thread.join()
        logging.getLogger("psycopg.pool").setLevel(logging.NOTSET)
    assert most <= 6
    conns = [pool.getconn(timeout=20) for _ in range(4)]
    with pytest.raises(psycopg.OperationalError):
        pool.getconn(timeout=0.05)
    for conn in conns:
        pool.putconn(conn)
    assert pool.get_stats()["pool_size"] <= 4
    pool.close()
    wait_for_sessions(postgres, kwargs["application_name"], 0)
