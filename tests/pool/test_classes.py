"""The pool classes: they take the arguments of psycopg_pool's, and hide passwords."""

from __future__ import annotations

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

pytestmark = pytest.mark.compat


def make(api: Api, *args: Any, **options: Any) -> Any:
    """Construct the API's pool class and open it."""
    pool = fix_pools.make(api, *args, **options)
    api.run(pool.open(wait=True))
    return pool


def callback(api: Api, function: Any) -> Any:
    """Return a callback, as an async function for the async API."""
    if api.kind == "sync":
        return function

    async def awaited(*args: Any) -> Any:
        return function(*args)

    return awaited


@pytest.mark.parametrize("callable_", [False, True], ids=["values", "callables"])
def test_conninfo_and_kwargs_are_values_or_functions(
    api: Api, azure: Emulator, callable_: bool
) -> None:
    """A positional conninfo and kwargs= may be values or functions; azpg's options go in kwargs."""
    conninfo: Any = "dbname=postgres application_name=shop"
    kwargs: Any = {"server": "myserver", "autocommit": True}
    if callable_:
        given = kwargs
        conninfo, kwargs = (
            callback(api, lambda: "application_name=shop"),
            callback(api, lambda: given),
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
        name: callback(api, lambda _, name=name: called.append(name))
        for name in ("configure", "check", "reset")
    }
    with api.pool(min_size=1, **callbacks) as pool:
        api.row_of_pool(pool, "select 1")
        fix_pools.until(lambda: "reset" in called)
    assert called == ["configure", "check", "reset"]


def test_a_subclass_of_the_connection_class(api: Api, azure: Emulator) -> None:
    """The pool makes connections of a subclass of azpg's class."""
    own: Any = type("Own", (api.connection_class,), {})
    pool = make(api, connection_class=own, min_size=1)
    conn = api.run(pool.getconn())
    assert type(conn) is own
    api.run(pool.putconn(conn))
    api.run(pool.close())


def test_a_generic_alias_of_the_connection_class(api: Api, azure: Emulator) -> None:
    """connection_class=Connection[Row], as psycopg documents it, works."""
    named: Any = api.connection_class[dict[str, Any]]  # type: ignore[index]  # sync or async
    pool = make(api, connection_class=named, min_size=1)
    api.run(pool.wait(60))
    api.run(pool.close())


class Foreign(psycopg.Connection[Row]):
    """A connection class of a program that used psycopg's pool."""


class AsyncForeign(psycopg.AsyncConnection[Row]):
    """The same for the async pool."""


def connect(*_args: Any, **_kwargs: Any) -> None:
    """Not a class: a function that connects."""


@pytest.mark.parametrize(
    "given",
    [psycopg.Connection, psycopg.AsyncConnection, Foreign, AsyncForeign, Foreign[Any], connect],
    ids=lambda given: getattr(given, "__qualname__", "Foreign[Any]"),
)
@pytest.mark.parametrize("null", [False, True], ids=["pool", "null pool"])
def test_a_connection_class_that_is_not_azpgs_is_rejected(api: Api, given: Any, null: bool) -> None:
    """It would not verify the server: a ConfigError names the class to use."""
    pool_class: Any = api.pool_class
    if null:
        pool_class = azpg.NullConnectionPool if api.kind == "sync" else azpg.AsyncNullConnectionPool
    with pytest.raises(azpg.ConfigError) as caught:
        pool_class("host=db.example.net sslmode=require", connection_class=given, open=False)
    if given in (psycopg.Connection, psycopg.AsyncConnection):
        assert "Leave out connection_class=" in str(caught.value)
    else:
        assert f"(azpg.{api.connection_class.__name__}):" in str(caught.value)


def test_a_connection_class_of_the_other_api_is_rejected(api: Api) -> None:
    """A sync class in an async pool is an error that names the async class, and vice versa."""
    other = azpg.AsyncConnection if api.kind == "sync" else azpg.Connection
    pool_class: Any = api.pool_class
    with pytest.raises(azpg.ConfigError, match=f"azpg.{api.connection_class.__name__}"):
        pool_class("host=db.example.net", connection_class=other, open=False)


def test_a_pool_class_that_is_not_azpgs_is_rejected(api: Api) -> None:
    """create_pool() accepts only azpg's pool classes and their subclasses."""
    others: list[Any] = [psycopg_pool.ConnectionPool, psycopg_pool.AsyncConnectionPool, list]
    others.append(azpg.AsyncConnectionPool if api.kind == "sync" else azpg.ConnectionPool)
    for other in others:
        with pytest.raises(azpg.ConfigError, match=f"azpg.{api.pool_class.__name__}"):
            api.open_pool(server="myserver", pool_class=other)
    null = azpg.NullConnectionPool if api.kind == "sync" else azpg.AsyncNullConnectionPool
    with pytest.raises(azpg.ConfigError, match=f"pass azpg.{null.__name__}"):
        api.open_pool(server="myserver", pool_class=psycopg_pool.NullConnectionPool)


@pytest.mark.parametrize("where", ["conninfo", "uri", "kwargs", "keyword"])
def test_no_repr_of_a_pool_contains_the_password(api: Api, postgres: Postgres, where: str) -> None:
    """Neither repr nor vars of a pool contain the password, and the pool connects with it."""
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
    for shown in (repr(pool), repr(vars(pool)), repr(pool.conninfo), str(pool.kwargs)):
        assert "p'ass" not in shown
        assert "p\\'ass" not in shown
        assert "%27ass" not in shown
    api.run(pool.close())


def test_arguments_without_a_secret_are_not_hidden(api: Api, azure: Emulator) -> None:
    """Without a secret, conninfo and kwargs keep their values."""
    pool = make(api, "dbname=postgres", kwargs={"server": "myserver"}, min_size=1)
    assert pool.conninfo == "dbname=postgres"
    assert pool.kwargs == {"server": "myserver"}
    api.run(pool.close())


def test_the_classes_are_generic_and_show_the_public_module() -> None:
    """Tracebacks and reprs name the public module, and the classes take a type parameter."""
    assert azpg.ConnectionPool.__module__ == azpg.AsyncConnectionPool.__module__ == "azpg"
    assert azpg.ConnectionPool[azpg.Connection[Any]] is not None
