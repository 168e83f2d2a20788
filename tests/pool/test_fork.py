"""Fork with open connections and pools: the child cannot use them, the parent still can."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fix_fork import ended_well, forked

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_subprocess import Program

    from azpg.emulator import Emulator

pytestmark = pytest.mark.compat


@pytest.mark.parametrize("action", ["query", "close", "forget", "exit"])
def test_a_forked_child_cannot_use_a_connection(
    program: Program, azure: Emulator, action: str
) -> None:
    """A connection of the parent fails in the child, and still works in the parent."""

    def main(*, action: str) -> None:
        import gc
        import sys

        import psycopg

        import azpg

        connections = [azpg.connect(autocommit=True)]
        pid = connections[0].info.backend_pid

        def work() -> None:
            if action == "query":
                try:
                    connections[0].execute("select 1")
                except psycopg.OperationalError:
                    assert connections[0].closed
                else:
                    raise AssertionError
            elif action == "close":
                connections[0].close()
            elif action == "exit":
                connections[0].close()
                sys.exit(0)
            else:
                connections[0].pgconn.finish()
                connections.clear()
                gc.collect()

        ended_well(forked(work)) if action != "exit" else forked_and_exited(work)
        assert connections[0].execute("select pg_backend_pid()").fetchone() == (pid,)
        connections[0].close()

    program(main, forked, ended_well, forked_and_exited, action=action)


def forked_and_exited(work: Callable[[], object]) -> None:
    """Fork, do the work in a child that exits normally, and wait for it."""
    import os

    child = os.fork()
    if not child:
        work()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("action", ["getconn", "open", "with", "close", "wait", "use a connection"])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_forked_child_cannot_use_a_pool(
    program: Program, azure: Emulator, kind: str, action: str
) -> None:
    """In the child the parent's pool raises PoolClosed; in the parent it works."""

    def main_sync(*, action: str) -> None:
        import psycopg
        import psycopg_pool

        import azpg

        pid = "select pg_backend_pid()"
        with azpg.create_pool(min_size=2) as pool:
            out = pool.getconn()

            def act() -> None:
                if action == "close":
                    pool.close()
                elif action == "use a connection":
                    try:
                        out.execute("select 1")
                    except psycopg.OperationalError:
                        pool.putconn(out)
                elif action == "with":
                    with pool:
                        raise AssertionError
                else:
                    getattr(pool, action)()

            def work() -> None:
                try:
                    act()
                except psycopg_pool.PoolClosed as error:
                    raised = "forked" in str(error)
                else:
                    raised = False
                assert raised is (action not in ("close", "use a connection"))

            pids = {conn.info.backend_pid for conn in [out, *pool._pool]}
            ended_well(forked(work))
            pool.putconn(out)
            with pool.connection() as one, pool.connection() as two:
                found = {conn.execute(pid).fetchone() for conn in (one, two)}
            assert found == {(number,) for number in pids}
            assert "connections_lost" not in pool.get_stats()

    def main_async(*, action: str) -> None:
        import asyncio

        import psycopg
        import psycopg_pool

        import azpg

        pid = "select pg_backend_pid()"

        async def main() -> None:
            async with azpg.create_pool_async(min_size=2) as pool:
                out = await pool.getconn()

                async def act() -> None:
                    if action == "close":
                        await pool.close()
                    elif action == "use a connection":
                        try:
                            await out.execute("select 1")
                        except psycopg.OperationalError:
                            await pool.putconn(out)
                    elif action == "with":
                        async with pool:
                            raise AssertionError
                    else:
                        await getattr(pool, action)()

                def work() -> None:
                    asyncio._set_running_loop(None)
                    try:
                        asyncio.run(act())
                    except psycopg_pool.PoolClosed as error:
                        raised = "forked" in str(error)
                    else:
                        raised = False
                    assert raised is (action not in ("close", "use a connection"))

                pids = {conn.info.backend_pid for conn in [out, *pool._pool]}
                ended_well(forked(work))
                await pool.putconn(out)
                async with pool.connection() as one, pool.connection() as two:
                    found = {await (await conn.execute(pid)).fetchone() for conn in (one, two)}
                assert found == {(number,) for number in pids}
                assert "connections_lost" not in pool.get_stats()

        asyncio.run(main())

    program(main_sync if kind == "sync" else main_async, forked, ended_well, action=action)


def test_an_unopened_pool_can_be_opened_in_a_child(program: Program, azure: Emulator) -> None:
    """A pool with open=False may be opened in the child and in the parent."""

    def main() -> None:
        import azpg

        pool = azpg.create_pool(min_size=1, open=False)

        def work() -> None:
            with pool, pool.connection() as conn:
                assert conn.execute("select current_user").fetchone() == ("myapp",)

        ended_well(forked(work))
        work()

    program(main, forked, ended_well)


def test_a_fork_while_the_pools_lock_is_held(program: Program, azure: Emulator) -> None:
    """If another thread holds the pool's lock at the fork, the child raises PoolClosed, too."""

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


def test_forks_while_threads_use_the_pool(program: Program, azure: Emulator) -> None:
    """Threads that use a pool while the process forks see no error, and neither does a child."""

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
                    except Exception as error:  # noqa: BLE001  # any error fails the test
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
