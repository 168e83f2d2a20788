"""Pools in tests: construct them, inspect them, wait for a condition."""

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
    """Set the environment of an emulator that the test may break: other tests use another one."""
    for name, value in _mortal.env.items():
        monkeypatch.setenv(name, value)
    return _mortal


def until(condition: Callable[[], object]) -> None:
    """Wait until a condition is true, for 30 s at most."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline


def idle(pool: Any) -> int:
    """Return the number of idle connections in a pool."""
    available: int = pool.get_stats()["pool_available"]
    return available


def make(api: Api, *args: Any, pool_class: Any = None, **options: Any) -> Any:
    """Construct a pool class without opening the pool; an async one on the API's event loop."""
    made = pool_class or api.pool_class

    async def construct() -> Any:
        return made(*args, open=False, **options)

    return made(*args, open=False, **options) if api.kind == "sync" else api.run(construct())


def backends(pool: Any) -> set[int]:
    """Return the server process ID of each idle connection in a pool."""
    return {conn.info.backend_pid for conn in pool._pool}


def terminate(api: Api, pids: set[int]) -> None:
    """Terminate server processes, as an administrator does."""
    with api.connect(autocommit=True) as conn:
        for pid in pids:
            assert api.row(conn, "select pg_terminate_backend(%s, 5000)", pid) == (True,)
