"""Pools in tests: made from the classes, watched, and waited for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from azpg.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fix_api import Api


@pytest.fixture(scope="session")
def _mortal() -> Iterator[Emulator]:
    with Emulator(pgbouncer=False) as emulator:
        yield emulator


@pytest.fixture
def mortal(_mortal: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """Lead to an emulator whose tokens and server may die without a loss to other tests."""
    for name, value in _mortal.env.items():
        monkeypatch.setenv(name, value)
    return _mortal


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition that others bring about."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline


def idle(pool: Any) -> int:
    """Return how many connections wait in a pool."""
    available: int = pool.get_stats()["pool_available"]
    return available


def make(api: Api, *args: Any, pool_class: Any = None, **options: Any) -> Any:
    """Construct the API's pool class itself, not open; the async one on the API's loop."""
    made = pool_class or api.pool_class

    async def construct() -> Any:
        return made(*args, open=False, **options)

    return made(*args, open=False, **options) if api.kind == "sync" else api.run(construct())


def backends(pool: Any) -> set[int]:
    """Return the server's process of each connection that waits in a pool."""
    return {conn.info.backend_pid for conn in pool._pool}


def terminate(api: Api, pids: set[int]) -> None:
    """Have the server end some of its processes, as an administrator does."""
    with api.connect(autocommit=True) as conn:
        for pid in pids:
            assert api.row(conn, "select pg_terminate_backend(%s, 5000)", pid) == (True,)
