"""What the hot paths may do: counted, not timed, so that whoever adds to them is told."""

from __future__ import annotations

import asyncio
import gc
import re
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import psycopg_pool
import pytest
from azure import core
from psycopg.conninfo import conninfo_to_dict

import azpg

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from azpg.emulator import Emulator

pytestmark = pytest.mark.compat

AZURE = str(Path(core.__file__).parent.parent)
OUTSIDE = re.compile(
    r"(lock|RLock|Condition)\.|(open|stat|lstat|fstat|getaddrinfo|socket|sleep)$|start_\w+_thread|fork"
)
"""builtins that wait for another thread, or ask the system for something"""


class Work:
    """What one run called."""

    def __init__(self, run: Callable[[], object]) -> None:
        self.functions: Counter[str] = Counter()
        """those written in Python, by their files"""
        self.builtins: Counter[str] = Counter()
        before = sys.getprofile()
        gc.disable()  # what other tests left to collect is no work of this one
        sys.setprofile(self._called)
        try:
            run()
        finally:
            sys.setprofile(before)
            gc.enable()

    def _called(self, frame: Any, event: str, called: Any) -> None:
        if event == "call":
            self.functions[frame.f_code.co_filename] += 1
        elif event == "c_call":
            kind = type(getattr(called, "__self__", None)).__name__
            self.builtins[called.__name__ if kind == "module" else f"{kind}.{called.__name__}"] += 1

    def inside(self, place: str) -> int:
        """Return how many functions were called in files whose path begins so."""
        return sum(number for name, number in self.functions.items() if name.startswith(place))

    def outside(self) -> Counter[str]:
        """Return what waited for another thread, or asked the system for something."""
        called = self.builtins.items()
        return Counter({name: number for name, number in called if OUTSIDE.match(name)})


@pytest.fixture(params=["sync", "async"])
def warm(
    request: pytest.FixtureRequest, azure: Emulator
) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    """Return azpg's connect and psycopg's with the same parameters, each made before."""
    final: Any = conninfo_to_dict(azpg.conninfo(server="myserver"))
    final |= {"user": "myapp", "password": azure.token()}
    loop = asyncio.SelectorEventLoop()

    async def own_async() -> None:
        await (await azpg.connect_async(server="myserver")).close()

    async def bare_async() -> None:
        await (await psycopg.AsyncConnection.connect(**final)).close()

    def own() -> None:
        if request.param == "sync":
            azpg.connect(server="myserver").close()
        else:
            loop.run_until_complete(own_async())

    def bare() -> None:
        if request.param == "sync":
            psycopg.connect(**final).close()
        else:
            loop.run_until_complete(bare_async())

    for _ in range(2):
        own()
        bare()
    yield own, bare
    loop.close()


def test_a_warm_connect_does_no_more_than_psycopg(warm: Any, azure: Emulator) -> None:
    """No import, file, thread, lock or look-up of a host, and no token request, is added to it.

    The root file that the emulator exports is looked at each time: is it there, and whose is it?
    """
    own, bare = warm
    before = azure.counts
    ours, theirs = Work(own), Work(bare)
    assert (ours.outside() - theirs.outside()).keys() <= {"lstat", "stat"}
    assert ours.inside("<frozen importlib") == 0
    assert ours.inside(AZURE) == 0
    assert (azure.counts - before).token_requests == 0


def test_the_pinned_roots_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's own file is handed over without a system call."""
    monkeypatch.delenv("PGSSLROOTCERT", raising=False)
    told: Any = {"server": "myserver", "hostaddr": "127.0.0.1", "password": "x"}
    azpg.conninfo(**told)
    work = Work(lambda: azpg.conninfo(**told))
    assert work.outside() == Counter()


def test_a_checkout_looks_once(azure: Emulator) -> None:
    """Beside psycopg_pool's own it asks once whether something waits on the connection's socket."""
    final: Any = conninfo_to_dict(azpg.conninfo(server="myserver"))
    final |= {"user": "myapp", "password": azure.token()}

    def out_and_back(pool: psycopg_pool.ConnectionPool[Any]) -> Work:
        pool.wait()
        pool.putconn(pool.getconn())
        return Work(lambda: pool.putconn(pool.getconn()))

    with azpg.create_pool(server="myserver", min_size=1) as own:
        ours = out_and_back(own)
    with psycopg_pool.ConnectionPool(kwargs=final, min_size=1, open=True) as bare:
        theirs = out_and_back(bare)
    assert ours.outside() - theirs.outside() == Counter()
    assert ours.builtins["poll.poll"] == 1
