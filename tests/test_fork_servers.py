"""Fork as servers do: prefork, and the three start methods of multiprocessing."""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING

import pytest
from fix_fork import connect, connect_in_both_ways, ended_well, forked

if TYPE_CHECKING:
    from fix_subprocess import Program

    from azpg.emulator import Emulator

pytestmark = pytest.mark.compat


def test_a_preforking_server(program: Program, azure: Emulator) -> None:
    """As with gunicorn: the parent connects, each worker too, and every signal arrives."""

    def main(*, workers: int) -> None:
        import os
        import signal

        connect()
        reading, writing = os.pipe()

        def serve() -> None:
            signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
            connect_in_both_ways()
            os.write(writing, b"!")
            while True:
                signal.pause()

        ended: list[int] = []
        signal.signal(signal.SIGCHLD, lambda number, _frame: ended.append(number))
        pids = [forked(serve) for _ in range(workers)]
        ready = b""
        while len(ready) < workers:
            ready += os.read(reading, workers)
        connect_in_both_ways()
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        for pid in pids:
            ended_well(pid)
        assert ended

    before = azure.counts
    program(main, forked, ended_well, connect, connect_in_both_ways, workers=4)
    assert (azure.counts - before).sign_ins == 11


def worker(_number: int) -> str:
    """Return the user of a connection."""
    import azpg

    with azpg.connect() as conn:
        return conn.info.user


@pytest.fixture
def semaphores() -> None:
    """Fail if the machine has none, because multiprocessing's pools need them."""
    try:
        multiprocessing.Semaphore()
    except OSError as error:
        pytest.fail(f"this machine has no semaphores ({error}): mount /dev/shm", pytrace=False)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(program: Program, azure: Emulator, semaphores: None, method: str) -> None:
    """Workers of multiprocessing connect with each start method."""

    def main(*, method: str) -> None:
        import multiprocessing

        assert worker(0) == "myapp"
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.map(worker, range(6), chunksize=1) == ["myapp"] * 6
            pool.close()
            pool.join()
        assert worker(0) == "myapp"

    before = azure.counts
    program(main, worker, method=method)
    assert (azure.counts - before).sign_ins == 8
