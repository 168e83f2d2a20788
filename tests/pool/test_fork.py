"""Fork with connections and pools open: the child is told, and the parent's sessions go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fix_fork import ended_well, forked

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_program import Program

    from azpg.emulator import Emulator


@pytest.mark.parametrize("deed", ["query", "close", "forget", "exit"])
def test_a_connection_is_its_process_own(program: Program, azure: Emulator, deed: str) -> None:
    """In the child a connection of the parent fails, and nothing done to it reaches the parent."""

    def main(*, deed: str) -> None:
        import gc
        import sys

        import psycopg

        import azpg

        open_ones = [azpg.connect(autocommit=True)]
        pid = open_ones[0].info.backend_pid

        def work() -> None:
            if deed == "query":
                try:
                    open_ones[0].execute("select 1")
                except psycopg.OperationalError:
                    assert open_ones[0].closed
                else:
                    raise AssertionError
            elif deed == "close":
                open_ones[0].close()
            elif deed == "exit":
                open_ones[0].close()
                sys.exit(0)
            else:
                open_ones[0].pgconn.finish()
                open_ones.clear()
                gc.collect()

        ended_well(forked(work)) if deed != "exit" else forked_and_exited(work)
        assert open_ones[0].execute("select pg_backend_pid()").fetchone() == (pid,)
        open_ones[0].close()

    program(main, forked, ended_well, forked_and_exited, deed=deed)


def forked_and_exited(work: Callable[[], object]) -> None:
    """Fork, do the work in a child that ends as programs do, and wait for it."""
    import os

    child = os.fork()
    if not child:
        work()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("deed", ["getconn", "open", "with", "close", "wait", "use what was out"])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_pool_says_that_it_is_the_parents(
    program: Program, azure: Emulator, kind: str, deed: str
) -> None:
    """In the child a pool that was open says so, and nothing done to it reaches the parent's."""

    def main_sync(*, deed: str) -> None:
        import psycopg
        import psycopg_pool

        import azpg

        pid = "select pg_backend_pid()"
        with azpg.create_pool(min_size=2) as pool:
            out = pool.getconn()

            def deeds() -> None:
                if deed == "close":
                    pool.close()
                elif deed == "use what was out":
                    try:
                        out.execute("select 1")
                    except psycopg.OperationalError:
                        pool.putconn(out)
                elif deed == "with":
                    with pool:
                        raise AssertionError
                else:
                    getattr(pool, deed)()

            def work() -> None:
                try:
                    deeds()
                except psycopg_pool.PoolClosed as error:
                    told = "forked" in str(error)
                else:
                    told = False
                assert told is (deed not in ("close", "use what was out"))

            pids = {conn.info.backend_pid for conn in [out, *pool._pool]}
            ended_well(forked(work))
            pool.putconn(out)
            with pool.connection() as one, pool.connection() as two:
                found = {conn.execute(pid).fetchone() for conn in (one, two)}
            assert found == {(number,) for number in pids}
            assert "connections_lost" not in pool.get_stats()

    def main_async(*, deed: str) -> None:
        import asyncio

        import psycopg
        import psycopg_pool

        import azpg

        pid = "select pg_backend_pid()"

        async def main() -> None:
            async with azpg.create_pool_async(min_size=2) as pool:
                out = await pool.getconn()

                async def deeds() -> None:
                    if deed == "close":
                        await pool.close()
                    elif deed == "use what was out":
                        try:
                            await out.execute("select 1")
                        except psycopg.OperationalError:
                            await pool.putconn(out)
                    elif deed == "with":
                        async with pool:
                            raise AssertionError
                    else:
                        await getattr(pool, deed)()

                def work() -> None:
                    asyncio._set_running_loop(None)
                    try:
                        asyncio.run(deeds())
                    except psycopg_pool.PoolClosed as error:
                        told = "forked" in str(error)
                    else:
                        told = False
                    assert told is (deed not in ("close", "use what was out"))

                pids = {conn.info.backend_pid for conn in [out, *pool._pool]}
                ended_well(forked(work))
                await pool.putconn(out)
                async with pool.connection() as one, pool.connection() as two:
                    found = {await (await conn.execute(pid)).fetchone() for conn in (one, two)}
                assert found == {(number,) for number in pids}
                assert "connections_lost" not in pool.get_stats()

        asyncio.run(main())

    program(main_sync if kind == "sync" else main_async, forked, ended_well, deed=deed)


def test_a_pool_never_opened_crosses_a_fork(program: Program, azure: Emulator) -> None:
    """open=False connects nothing, so that each process may open the pool for itself."""

    def main() -> None:
        import azpg

        pool = azpg.create_pool(min_size=1, open=False)

        def work() -> None:
            with pool, pool.connection() as conn:
                assert conn.execute("select current_user").fetchone() == ("myapp",)

        ended_well(forked(work))
        work()

    program(main, forked, ended_well)


def test_a_lock_of_the_pool_held_at_the_fork_is_no_deadlock(
    program: Program, azure: Emulator
) -> None:
    """Another thread is inside the pool when the process forks: the child is told all the same."""

    def main() -> None:
        import threading
        from contextlib import suppress

        import psycopg_pool

        import azpg

        def work() -> None:
            with suppress(psycopg_pool.PoolClosed):
                pool.open()

        held, end = threading.Event(), threading.Event()
        with azpg.create_pool(min_size=1) as pool:

            def hold() -> None:
                with pool._lock:
                    held.set()
                    end.wait()

            holding = threading.Thread(target=hold)
            holding.start()
            held.wait()
            pid = forked(work)
            end.set()
            holding.join()
            ended_well(pid)

    program(main, forked, ended_well)


def test_many_forks_beside_a_busy_pool(program: Program, azure: Emulator) -> None:
    """Threads work on a pool while the process forks: no child and no thread is disturbed."""

    def main(*, forks: int) -> None:
        import threading

        import azpg

        end = threading.Event()
        failures = []

        with azpg.create_pool(min_size=3) as pool:

            def serve() -> None:
                while not end.is_set():
                    try:
                        with pool.connection() as conn:
                            conn.execute("select 1")
                    except Exception as error:  # noqa: BLE001  # whatever it is
                        failures.append(error)

            threads = [threading.Thread(target=serve) for _ in range(3)]
            for thread in threads:
                thread.start()
            for _ in range(forks):
                ended_well(forked(pool.close))
            end.set()
            for thread in threads:
                thread.join()
            assert not failures
            assert "connections_lost" not in pool.get_stats()

    program(main, forked, ended_well, forks=30)
