"""The sync and the async API behind one face, so that a behaviour is tested once for both."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import pytest

import azpg

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from concurrent.futures import Future


class Api(ABC):
    """What a test does with azpg, in whichever of its two ways."""

    kind: Literal["sync", "async"]
    connection_class: type[azpg.Connection[Any] | azpg.AsyncConnection[Any]]
    pool_class: type[azpg.ConnectionPool[Any] | azpg.AsyncConnectionPool[Any]]

    @abstractmethod
    def run(self, step: Any) -> Any:
        """Finish a step: the async API's are awaited."""

    @abstractmethod
    def open(self, *args: Any, **kwargs: Any) -> Any:
        """Call connect() and return its connection."""

    @abstractmethod
    def open_pool(self, *args: Any, **kwargs: Any) -> Any:
        """Call create_pool() and return its pool, opened where it opens."""

    @abstractmethod
    def recording_class(self) -> tuple[Any, list[dict[str, Any]]]:
        """Return a connection class that records the parameters of each attempt, and its list."""

    @abstractmethod
    def callback(self, function: Callable[[], str]) -> Any:
        """Return a password callback of this API's own kind."""

    @abstractmethod
    def begin(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Begin a step that waits, and return what its end can be waited for with."""

    @contextmanager
    def connect(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Connect, and close at the end."""
        conn = self.open(*args, **kwargs)
        try:
            yield conn
        finally:
            self.run(conn.close())

    @contextmanager
    def pool(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Make a pool, and close it at the end."""
        pool = self.open_pool(*args, **kwargs)
        try:
            yield pool
        finally:
            self.run(pool.close())

    def row(self, conn: Any, query: str, *params: Any) -> Any:
        """Return the first row of a query."""
        return self.run(self.run(conn.execute(query, params or None)).fetchone())

    def row_of_pool(self, pool: Any, query: str) -> Any:
        """Return the first row of a query on a connection of a pool."""
        conn = self.run(pool.getconn())
        try:
            return self.row(conn, query)
        finally:
            self.run(pool.putconn(conn))


class SyncApi(Api):
    """azpg.connect and azpg.create_pool."""

    kind = "sync"
    connection_class = azpg.Connection
    pool_class = azpg.ConnectionPool

    def run(self, step: Any) -> Any:
        """Return it: there is nothing to wait for."""
        return step

    def open(self, *args: Any, **kwargs: Any) -> Any:
        """Connect."""
        return azpg.connect(*args, **kwargs)

    def open_pool(self, *args: Any, **kwargs: Any) -> Any:
        """Make a pool."""
        return azpg.create_pool(*args, **kwargs)

    def recording_class(self) -> tuple[Any, list[dict[str, Any]]]:
        """Override psycopg's own hook."""
        attempts: list[dict[str, Any]] = []

        class Recording(azpg.Connection[Any]):
            @classmethod
            def _get_connection_params(cls, conninfo: str, **kwargs: Any) -> Any:
                attempts.append(kwargs)
                return super()._get_connection_params(conninfo, **kwargs)

        return Recording, attempts

    def callback(self, function: Callable[[], str]) -> Any:
        """Return the function."""
        return function

    def begin(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Call it in a thread."""
        executor = ThreadPoolExecutor(1)
        future = executor.submit(function, *args)
        executor.shutdown(wait=False)
        return future


class AsyncApi(Api):
    """azpg.connect_async and azpg.create_pool_async, on a loop in a thread of its own."""

    kind = "async"
    connection_class = azpg.AsyncConnection
    pool_class = azpg.AsyncConnectionPool

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="test-loop")
        self._thread.start()

    def close(self) -> None:
        """Stop the loop, so that a task left behind is seen."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        left = asyncio.all_tasks(self.loop)
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        assert not left

    def run(self, step: Any) -> Any:
        """Await it on the loop where it can be awaited."""
        if not hasattr(step, "__await__"):
            return step

        async def wait() -> Any:
            return await step

        return self._wait(wait())

    def _wait(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def open(self, *args: Any, **kwargs: Any) -> Any:
        """Connect."""
        return self.run(azpg.connect_async(*args, **kwargs))

    def open_pool(self, *args: Any, **kwargs: Any) -> Any:
        """Make a pool."""

        async def make() -> Any:
            return await azpg.create_pool_async(*args, **kwargs)

        return self._wait(make())

    def recording_class(self) -> tuple[Any, list[dict[str, Any]]]:
        """Override psycopg's own hook."""
        attempts: list[dict[str, Any]] = []

        class Recording(azpg.AsyncConnection[Any]):
            @classmethod
            async def _get_connection_params(cls, conninfo: str, **kwargs: Any) -> Any:
                attempts.append(kwargs)
                return await super()._get_connection_params(conninfo, **kwargs)

        return Recording, attempts

    def callback(self, function: Callable[[], str]) -> Any:
        """Return a coroutine function that gives what the function does."""

        async def ask() -> str:
            return function()

        return ask

    def begin(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Await it on the loop."""

        async def wait() -> Any:
            return await function(*args)

        return asyncio.run_coroutine_threadsafe(wait(), self.loop)


@pytest.fixture(params=["sync", "async"])
def api(request: pytest.FixtureRequest) -> Iterator[Api]:
    """Run a test once for each API."""
    if request.param == "sync":
        yield SyncApi()
        return
    api = AsyncApi()
    try:
        yield api
    finally:
        api.close()
