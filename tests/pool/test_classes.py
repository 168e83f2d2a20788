"""The pool classes take all that their parents take, and hide a password's text."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import fix_pools
import psycopg
import psycopg_pool
import pytest
from psycopg.rows import Row

import azpg

if TYPE_CHECKING:
    from fix_api import Api
    from fix_servers import Postgres

    from azpg.emulator import Emulator


def make(api: Api, *args: Any, **options: Any) -> Any:
    """Construct the API's pool class and open it."""
    pool = fix_pools.make(api, *args, **options)
    api.run(pool.open(wait=True))
    return pool


def of_kind(api: Api, function: Any) -> Any:
    """Return a callback of the API's own kind."""
    if api.kind == "sync":
        return function

    async def awaited(*args: Any) -> Any:
        return function(*args)

    return awaited


@pytest.mark.parametrize("callable_", [False, True], ids=["values", "callables"])
def test_conninfo_and_kwargs_are_taken(api: Api, azure: Emulator, callable_: bool) -> None:
    """A positional DSN and kwargs= work as values and as callables, azpg's options among them."""
    conninfo: Any = "dbname=postgres application_name=shop"
    kwargs: Any = {"server": "myserver", "autocommit": True}
    if callable_:
        given = kwargs
        conninfo, kwargs = (
            of_kind(api, lambda: "application_name=shop"),
            of_kind(api, lambda: given),
        )
    pool = make(api, conninfo, kwargs=kwargs, min_size=1)
    conn = api.run(pool.getconn())
    assert api.row(conn, "select current_user, current_setting('application_name')") == (
        "myapp",
        "shop",
    )
    assert conn.autocommit
    assert isinstance(conn, api.connection_class)
    api.run(pool.putconn(conn))
    api.run(pool.close())


def test_callbacks_are_called(api: Api, azure: Emulator) -> None:
    """configure, check and reset are called as in psycopg_pool."""
    called: list[str] = []
    callbacks = {
        name: of_kind(api, lambda _, name=name: called.append(name))
        for name in ("configure", "check", "reset")
    }
    with api.pool(min_size=1, **callbacks) as pool:
        api.row_of_pool(pool, "select 1")
        deadline = time.monotonic() + 10
        while "reset" not in called:
            assert time.monotonic() < deadline
    assert called == ["configure", "check", "reset"]


def test_a_connection_class_of_ones_own(api: Api, azure: Emulator) -> None:
    """A subclass of azpg's connection is what the pool hands out."""
    own: Any = type("Own", (api.connection_class,), {})
    pool = make(api, connection_class=own, min_size=1)
    conn = api.run(pool.getconn())
    assert type(conn) is own
    api.run(pool.putconn(conn))
    api.run(pool.close())


def test_a_connection_class_that_names_its_rows(api: Api, azure: Emulator) -> None:
    """A class with its type of rows, as psycopg documents it, is a connection class."""
    named: Any = api.connection_class[dict[str, Any]]  # type: ignore[index]  # sync or async
    pool = make(api, connection_class=named, min_size=1)
    api.run(pool.wait(10))
    api.run(pool.close())


class Foreign(psycopg.Connection[Row]):
    """A class that a program wrote for psycopg's pool."""


class AsyncForeign(psycopg.AsyncConnection[Row]):
    """The same for the async pool."""


def connect(*_args: Any, **_kwargs: Any) -> None:
    """Stand for a function that connects."""


@pytest.mark.parametrize(
    "given",
    [psycopg.Connection, psycopg.AsyncConnection, Foreign, AsyncForeign, Foreign[Any], connect],
    ids=lambda given: getattr(given, "__qualname__", "Foreign[Any]"),
)
@pytest.mark.parametrize("null", [False, True], ids=["pool", "null pool"])
def test_a_connection_class_that_is_not_azpgs_is_refused(api: Api, given: Any, null: bool) -> None:
    """Nothing would be verified, so it is a ConfigError at once, with the class to write."""
    pool_class: Any = api.pool_class
    if null:
        pool_class = azpg.NullConnectionPool if api.kind == "sync" else azpg.AsyncNullConnectionPool
    with pytest.raises(azpg.ConfigError) as caught:
        pool_class("host=db.example.net sslmode=require", connection_class=given, open=False)
    if given in (psycopg.Connection, psycopg.AsyncConnection):
        assert "Leave out connection_class=" in str(caught.value)
    else:
        assert f"(azpg.{api.connection_class.__name__}):" in str(caught.value)


def test_a_connection_class_of_the_other_kind_is_refused(api: Api) -> None:
    """A sync class in an async pool, and the other way round, is named as such."""
    other = azpg.AsyncConnection if api.kind == "sync" else azpg.Connection
    pool_class: Any = api.pool_class
    with pytest.raises(azpg.ConfigError, match=f"azpg.{api.connection_class.__name__}"):
        pool_class("host=db.example.net", connection_class=other, open=False)


def test_a_pool_class_that_is_not_azpgs_is_refused(api: Api) -> None:
    """create_pool() makes pools of azpg's classes and their subclasses only."""
    others: list[Any] = [psycopg_pool.ConnectionPool, psycopg_pool.AsyncConnectionPool, list]
    others.append(azpg.AsyncConnectionPool if api.kind == "sync" else azpg.ConnectionPool)
    for other in others:
        with pytest.raises(azpg.ConfigError, match=f"azpg.{api.pool_class.__name__}"):
            api.open_pool(server="myserver", pool_class=other)


@pytest.mark.parametrize("where", ["conninfo", "uri", "kwargs", "keyword"])
def test_a_passwords_text_is_in_nothing_of_the_pool(
    api: Api, postgres: Postgres, where: str
) -> None:
    """Neither repr nor vars of a pool show a password, and it still signs in."""
    rest = postgres.conninfo(dbname="postgres", min_size=1)
    password = rest.pop("password")
    if where == "keyword":
        pool = api.open_pool(**rest, password=password)
    else:
        del rest["min_size"]
        conninfo = ""
        if where == "conninfo":
            conninfo = "password='p\\'ass wörd'"
        elif where == "uri":
            conninfo = "postgresql://:p%27ass%20w%C3%B6rd@/"
        else:
            rest["password"] = password
        pool = make(api, conninfo, kwargs=rest, min_size=1)
    assert api.row_of_pool(pool, "select current_user") == ("app",)
    for shown in (repr(pool), repr(vars(pool)), str(pool.conninfo), str(pool.kwargs)):
        assert "p'ass" not in shown
        assert "p\\'ass" not in shown
        assert "%27ass" not in shown
    api.run(pool.close())


def test_a_conninfo_without_a_password_stays_readable(api: Api, azure: Emulator) -> None:
    """What holds no secret is kept as it was given."""
    pool = make(api, "dbname=postgres", kwargs={"server": "myserver"}, min_size=1)
    assert pool.conninfo == "dbname=postgres"
    assert pool.kwargs == {"server": "myserver"}
    api.run(pool.close())


def test_the_classes_are_generic_and_named() -> None:
    """Tracebacks and reprs name the public module, and the classes take a type parameter."""
    assert azpg.ConnectionPool.__module__ == azpg.AsyncConnectionPool.__module__ == "azpg"
    assert azpg.ConnectionPool[azpg.Connection[Any]] is not None
