"""Functions of the wrong kind are refused before a pool starts a worker, with what to write."""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Any

import pytest
from fix_pools import make

import azpg

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_api import Api

CALLBACKS = ["check", "configure", "reset", "reconnect_failed"]


def sync_function(_: Any) -> None:
    """Return nothing."""


async def async_function(_: Any) -> None:
    """Return nothing."""


async def no_arguments() -> dict[str, Any]:
    """Return no arguments."""
    return {}


class AsyncCallable:
    """An object whose calls must be awaited."""

    async def __call__(self, _: Any) -> None:
        """Return nothing."""


def refused(construct: Callable[[], Any]) -> str:
    """Return the one problem of a pool that is not made, and starts no thread."""
    before = threading.active_count()
    with pytest.raises(azpg.ConfigError) as caught:
        construct()
    assert threading.active_count() <= before
    (problem,) = caught.value.problems
    return problem


@pytest.fixture(params=["create_pool", "class"])
def construct(api: Api, request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Return what makes a closed pool: the function or the class."""
    if request.param == "class":
        return lambda **options: make(api, kwargs={"server": "myserver"}, **options)
    return lambda **options: api.open_pool(server="myserver", open=False, **options)


@pytest.mark.parametrize("name", CALLBACKS)
@pytest.mark.parametrize("value", ["select 1", 1, True])
def test_what_cannot_be_called_is_refused(
    construct: Callable[..., Any], name: str, value: object
) -> None:
    """The problem has its type, and a function in its place."""
    problem = refused(lambda: construct(**{name: value}))
    assert problem.startswith(f"{name} is {type(value).__name__}: write ")


def test_a_check_that_is_only_true_is_told_of_the_pools_own(
    api: Api, construct: Callable[..., Any]
) -> None:
    """SQLAlchemy has pool_pre_ping=True, psycopg_pool a function."""
    problem = refused(lambda: construct(check=True))
    assert f"write check=azpg.{api.pool_class.__name__}.check_connection" in problem


@pytest.mark.parametrize("api", ["sync"], indirect=True)
@pytest.mark.parametrize("name", CALLBACKS)
@pytest.mark.parametrize(
    "function", [async_function, AsyncCallable(), functools.partial(async_function)]
)
def test_an_async_function_is_refused_by_a_sync_pool(
    construct: Callable[..., Any], name: str, function: object
) -> None:
    """Nothing would await it, so it would have no effect."""
    problem = refused(lambda: construct(**{name: function}))
    assert f"write def {name}(" in problem
    assert "create_pool_async()" in problem


@pytest.mark.parametrize("api", ["async"], indirect=True)
@pytest.mark.parametrize("name", ["check", "configure", "reset"])
@pytest.mark.parametrize("function", [sync_function, lambda _: None])
def test_a_sync_function_is_refused_by_an_async_pool(
    construct: Callable[..., Any], name: str, function: object
) -> None:
    """psycopg_pool awaits what it returns, which is nothing."""
    problem = refused(lambda: construct(**{name: function}))
    assert f"write async def {name}(conn): …" in problem


@pytest.mark.parametrize("api", ["async"], indirect=True)
@pytest.mark.parametrize(
    "options",
    [
        {"configure": lambda conn: conn.set_autocommit(True)},
        {"configure": functools.partial(lambda value, conn: conn.set_autocommit(value), True)},
        {"check": azpg.AsyncConnectionPool.check_connection, "reset": async_function},
        {"reconnect_failed": sync_function},
        {"reconnect_failed": async_function},
    ],
)
def test_what_returns_an_awaitable_is_taken(
    construct: Callable[..., Any], options: dict[str, Any]
) -> None:
    """As by psycopg_pool, which calls reconnect_failed in both ways."""
    construct(**options)


@pytest.mark.parametrize("api", ["sync"], indirect=True)
def test_a_check_of_the_async_pool_is_told_of_the_sync_one(construct: Callable[..., Any]) -> None:
    """The names differ in one word."""
    check = azpg.AsyncConnectionPool.check_connection
    problem = refused(lambda: construct(check=check))
    assert "write check=azpg.ConnectionPool.check_connection" in problem


@pytest.mark.parametrize("api", ["sync"], indirect=True)
@pytest.mark.parametrize("name", ["conninfo", "kwargs"])
def test_an_async_source_of_arguments_is_refused_by_a_sync_pool(api: Api, name: str) -> None:
    """Also by create_pool(), which calls it for each connection."""
    options: dict[str, Any] = {name: no_arguments}
    assert "async function" in refused(lambda: make(api, **options))
    assert "async function" in refused(lambda: api.open_pool(open=False, **options))


def test_all_problems_are_reported_at_once(construct: Callable[..., Any]) -> None:
    """So that they are fixed in one go."""
    with pytest.raises(azpg.ConfigError) as caught:
        construct(check="x", configure="y")
    assert len(caught.value.problems) == 2
