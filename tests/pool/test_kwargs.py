"""create_pool() with psycopg_pool's own arguments: `kwargs=`, `connection_class=`, functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from psycopg.rows import dict_row

import azpg

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_api import Api
    from fix_leaks import Leaks
    from fix_servers import Postgres

    from azpg.emulator import Emulator

SECRET = "s3cret pass"


def returning(api: Api, value: Any) -> Any:
    """Return a function, as a coroutine function for the async API."""

    async def awaited() -> Any:
        return value

    return (lambda: value) if api.kind == "sync" else awaited


def own_class(api: Api) -> Any:
    """Return a program's connection class, whose connect() has another argument."""

    class Tenant(azpg.Connection[Any]):
        @classmethod
        def connect(  # type: ignore[override]  # psycopg has no tenant
            cls, conninfo: str = "", *, tenant: str = "", **options: Any
        ) -> Any:
            return super().connect(conninfo, application_name=f"shop/{tenant}", **options)

    class AsyncTenant(azpg.AsyncConnection[Any]):
        @classmethod
        async def connect(  # type: ignore[override]  # as above
            cls, conninfo: str = "", *, tenant: str = "", **options: Any
        ) -> Any:
            return await super().connect(conninfo, application_name=f"shop/{tenant}", **options)

    return Tenant if api.kind == "sync" else AsyncTenant


@pytest.mark.parametrize("as_function", [False, True], ids=["dict", "function"])
def test_entries_of_kwargs_count_as_keywords(api: Api, azure: Emulator, as_function: bool) -> None:
    """What psycopg_pool takes in kwargs= counts next to keywords, azpg's options too."""
    given: Any = {"dbname": "postgres", "autocommit": True, "row_factory": dict_row}
    kwargs = returning(api, given) if as_function else given
    with api.pool(server="myserver", application_name="shop", kwargs=kwargs, min_size=1) as pool:
        conn = api.run(pool.getconn())
        assert conn.autocommit
        assert api.row(conn, "select current_setting('application_name') as name") == {
            "name": "shop"
        }
        api.run(pool.putconn(conn))
    with api.pool(kwargs={"server": "myserver"}, min_size=1) as pool:
        assert api.row_of_pool(pool, "select current_user") == ("myapp",)


def test_a_plain_function_is_called_for_each_connection(api: Api, azure: Emulator) -> None:
    """A function that is no coroutine function serves the async pool too."""
    called: list[str] = []

    def kwargs() -> dict[str, Any]:
        called.append("")
        return {"server": "myserver"}

    with api.pool(kwargs=kwargs, min_size=2) as pool:
        assert api.row_of_pool(pool, "select current_user") == ("myapp",)
    assert len(called) == 2


def test_conninfo_may_be_a_function(api: Api, azure: Emulator) -> None:
    """It is, in psycopg_pool."""
    conninfo = returning(api, "dbname=postgres application_name=shop")
    with api.pool(conninfo, server="myserver", min_size=1) as pool:
        assert api.row_of_pool(pool, "select current_setting('application_name')") == ("shop",)


@pytest.mark.parametrize(
    ("options", "problems"),
    [
        ({"server": "a", "kwargs": {"server": "b"}}, ["server is given twice"]),
        ({"dbname": "a", "kwargs": {"dbname": "a"}}, ["dbname is given twice"]),
        (
            {"user": "a", "autocommit": True, "kwargs": {"autocommit": False, "user": "b"}},
            ["autocommit is given twice", "user is given twice"],
        ),
        ({"conninfo": "host=a", "kwargs": {"conninfo": "host=b"}}, ["conninfo is given twice"]),
        ({"kwargs": {"retry_timeout": 3}}, ["retry_timeout is for connect()"]),
        ({"kwargs": "host=db"}, ["kwargs is str: pass a dict"]),
        ({"kwargs": [("host", "db")]}, ["kwargs is list: pass a dict"]),
        ({"kwargs": {1: 2}}, ["kwargs is dict: pass a dict"]),
        ({"kwargs": {"min_size": 2}}, ["min_size"]),
        ({"kwargs": {"passwrod": SECRET}}, ["passwrod"]),
        (
            {"server": "a", "sslmode": "disable", "kwargs": {"server": "b"}},
            ["server is given twice", "sslmode"],
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("as_function", [False, True], ids=["dict", "function"])
def test_problems_are_config_errors(
    api: Api, leaks: Leaks, options: dict[str, Any], problems: list[str], as_function: bool
) -> None:
    """Problems with kwargs are told together: by create_pool(), or for a function at its answer."""
    given = (
        {"server": "myserver", "min_size": 1} if "server" not in str(options) else {"min_size": 1}
    )
    given |= options
    if as_function:
        given["kwargs"] = returning(api, options["kwargs"])
        if "conninfo" in options:
            problems = ["conninfo is in what kwargs returned"]
    with pytest.raises(azpg.ConfigError) as caught:
        api.open_pool(**given)
    if not as_function:
        assert all(problem in str(caught.value) for problem in problems)
    assert problems[0] in str(caught.value)
    leaks.none_shown(caught.value, SECRET)


def test_a_callable_with_a_wrong_keyword_is_told_at_once(api: Api) -> None:
    """A keyword that no pool takes is an error before the function is called."""
    with pytest.raises(azpg.ConfigError, match="retry_timeout"):
        api.open_pool(kwargs=returning(api, {}), retry_timeout=3)


def test_a_function_that_returns_a_secret_by_mistake_shows_none(api: Api, leaks: Leaks) -> None:
    """The error of a null pool, whose traceback has the function's caller, shows no password."""
    null: Any = azpg.NullConnectionPool if api.kind == "sync" else azpg.AsyncNullConnectionPool
    for wrong in (f"host=db password={SECRET}", [SECRET], {"server": "b", "password": SECRET}):
        options = {"server": "a", "pool_class": null, "open": False}
        pool = api.open_pool(kwargs=returning(api, wrong), **options)
        api.run(pool.open())
        with pytest.raises(azpg.ConfigError) as caught:
            api.run(pool.getconn(timeout=60))
        api.run(pool.close())
        leaks.none_shown(caught.value, SECRET)
        assert SECRET not in repr(vars(pool))


def test_secrets_in_kwargs_are_hidden(api: Api, postgres: Postgres) -> None:
    """A password in kwargs= or in the keywords next to a function is in no repr of the pool."""
    options = postgres.conninfo()
    password = str(options.pop("password"))
    makes: list[Callable[[], Any]] = [
        lambda: api.pool(**options, kwargs={"password": password}, min_size=1),
        lambda: api.pool(**options, kwargs=returning(api, {"password": password}), min_size=1),
        lambda: api.pool(password=password, kwargs=returning(api, options), min_size=1),
    ]
    for make in makes:
        with make() as pool:
            assert api.row_of_pool(pool, "select current_user") == ("app",)
            assert "ass wörd" not in repr(vars(pool))
            assert "ass wörd" not in repr(pool.kwargs)


@pytest.mark.parametrize("where", ["keyword", "kwargs"])
def test_a_connection_class_of_the_callers(api: Api, azure: Emulator, where: str) -> None:
    """connection_class= takes a subclass, whose connect() may have further arguments."""
    own = own_class(api)
    options: Any = {"tenant": "north"} if where == "keyword" else {"kwargs": {"tenant": "north"}}
    with api.pool(server="myserver", connection_class=own, min_size=1, **options) as pool:
        assert api.row_of_pool(pool, "show application_name") == ("shop/north",)
        conn = api.run(pool.getconn())
        assert type(conn) is own
        api.run(pool.putconn(conn))


def test_a_generic_connection_class(api: Api, azure: Emulator) -> None:
    """A subclass with its row type is a class too."""
    named: Any = api.connection_class[dict[str, Any]]  # type: ignore[index]  # sync or async
    with api.pool(server="myserver", connection_class=named, min_size=1) as pool:
        assert api.row_of_pool(pool, "select 1") == (1,)


def test_a_connection_class_that_is_not_azpgs_is_rejected(api: Api) -> None:
    """As the pool classes do, create_pool() names the class to use."""
    other: Any = azpg.AsyncConnection if api.kind == "sync" else azpg.Connection
    with pytest.raises(azpg.ConfigError, match=f"azpg.{api.connection_class.__name__}"):
        api.open_pool(server="myserver", connection_class=other)
    with pytest.raises(azpg.ConfigError, match="connection_class="):
        api.open_pool(server="myserver", connection_class=dict)
