"""Passwords that a program rotates: changes of `pool.kwargs` and `pool.conninfo` count."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING, Any

import pytest
from fix_pools import make, until
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import azpg

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_api import Api
    from fix_servers import Postgres


def update(pool: Any, _given: dict[str, Any], password: str) -> None:
    """Change the pool's own dict."""
    pool.kwargs.update(password=password)


def assign(pool: Any, _given: dict[str, Any], password: str) -> None:
    """Give the pool another dict."""
    pool.kwargs = {**pool.kwargs, "password": password}


def change_given(_pool: Any, given: dict[str, Any], password: str) -> None:
    """Change the dict that the pool was made with."""
    given["password"] = password


def drop_for_conninfo(pool: Any, _given: dict[str, Any], password: str) -> None:
    """Say it in the connection string, which the keyword must not hide."""
    del pool.kwargs["password"]
    pool.conninfo = make_conninfo(pool.conninfo, password=password)


changes = pytest.mark.parametrize(
    "change", [update, assign, change_given, drop_for_conninfo], ids=lambda f: f.__name__
)


@changes
@pytest.mark.parametrize("kind", ["pool", "null"])
def test_a_changed_argument_counts_for_the_next_connection(
    api: Api, postgres: Postgres, kind: str, change: Callable[..., None]
) -> None:
    """A password that the program changes in the pool's arguments is used from then on."""
    null: Any = azpg.NullConnectionPool if api.kind == "sync" else azpg.AsyncNullConnectionPool
    given = postgres.conninfo(password="wrong")
    sizes = {"min_size": 1} if kind == "pool" else {}
    pool = make(api, pool_class=null if kind == "null" else None, kwargs=given, **sizes)
    api.run(pool.open())
    with pytest.raises(azpg.LoginError):
        api.run(pool.getconn(timeout=60))
    change(pool, given, postgres.password)

    def connects() -> bool:
        try:
            return bool(api.row_of_pool(pool, "select 1"))
        except azpg.LoginError:
            return False  # the failure with the old password is a second old at most

    until(connects)
    assert "ass wörd" not in repr(vars(pool))
    api.run(pool.close())


@changes
@pytest.mark.parametrize("min_size", [1, 4, 0], ids=["pool", "pool of 4", "null"])
def test_reconnect_failed_changes_the_password(
    api: Api, postgres: Postgres, change: Callable[..., None], min_size: int
) -> None:
    """open(wait=True) connects with what reconnect_failed has put into the arguments."""
    given = postgres.conninfo(password="wrong")
    null: Any = azpg.NullConnectionPool if api.kind == "sync" else azpg.AsyncNullConnectionPool
    pool = make(
        api,
        pool_class=None if min_size else null,
        kwargs=given,
        min_size=min_size,
        reconnect_failed=lambda pool: change(pool, given, postgres.password),
    )
    api.run(pool.open(wait=True))
    assert api.row_of_pool(pool, "select current_user") == ("app",)
    api.run(pool.close())


def test_reconnect_failed_of_create_pool_changes_the_password(api: Api, postgres: Postgres) -> None:
    """The same with create_pool(), and with a callback of the async API that is a coroutine."""

    def rotate(pool: Any) -> None:
        pool.kwargs.update(password=postgres.password)

    async def rotate_async(pool: Any) -> None:
        rotate(pool)

    callback: Any = rotate if api.kind == "sync" else rotate_async
    options = postgres.conninfo(password="wrong")
    with api.pool(**options, min_size=2, reconnect_failed=callback) as pool:
        assert api.row_of_pool(pool, "select current_user") == ("app",)


def test_a_rotated_password_that_is_wrong_too_is_tried_once(api: Api, postgres: Postgres) -> None:
    """A reconnect_failed that always changes the password does not make the pool try for ever."""
    passwords: list[str] = []

    def rotate(pool: Any) -> None:
        passwords.append(f"wrong {len(passwords)}")
        pool.kwargs["password"] = passwords[-1]

    pool = make(api, kwargs=postgres.conninfo(password="x"), min_size=1, reconnect_failed=rotate)
    with pytest.raises(azpg.LoginError):
        api.run(pool.open(wait=True, timeout=60))
    assert pool.closed
    assert len(passwords) == 2


def test_reconnect_failed_that_changes_nothing_is_called_once(api: Api, postgres: Postgres) -> None:
    """The permanent failure is raised after the callback, as before."""
    called: list[Any] = []
    options = postgres.conninfo(password="wrong")
    pool = make(api, kwargs=options, min_size=1, reconnect_failed=called.append)
    with pytest.raises(azpg.LoginError):
        api.run(pool.open(wait=True, timeout=60))
    assert called == [pool]


def test_reconnect_failed_that_raises_leaves_the_failure(api: Api, postgres: Postgres) -> None:
    """psycopg_pool logs the error of the callback; clients get the permanent failure."""

    def fail(_pool: Any) -> None:
        raise ZeroDivisionError

    pool = make(api, kwargs=postgres.conninfo(password="wrong"), min_size=1, reconnect_failed=fail)
    api.run(pool.open())
    with pytest.raises(azpg.LoginError):
        api.run(pool.getconn(timeout=60))
    api.run(pool.close())


def test_the_arguments_are_a_dict_and_a_str(api: Api) -> None:
    """What reads a psycopg_pool pool's arguments reads azpg's; only their reprs hide secrets."""
    kwargs = {"host": "db", "password": "s3cret", "passwrod": "s3cret"}
    pool = make(api, "user=app password='s3 cret'", kwargs=kwargs, min_size=1)
    assert isinstance(pool.kwargs, dict)
    assert pool.kwargs == kwargs
    assert {**pool.kwargs}["password"] == "s3cret"
    assert isinstance(pool.conninfo, str)
    assert conninfo_to_dict(pool.conninfo) == {"user": "app", "password": "s3 cret"}
    pool.kwargs.update(password="s3cret")
    copies = [pool.kwargs.copy(), copy.copy(pool.kwargs), copy.deepcopy(pool.kwargs)]
    copies.append(pickle.loads(pickle.dumps(pool.kwargs)))
    assert all(each == kwargs for each in copies)
    for shown in (pool.kwargs, pool.conninfo, vars(pool), pool, *copies, copies[0].copy()):
        assert "s3" not in f"{shown!r}"
    assert "'host': 'db'" in repr(pool.kwargs)
    copies[0]["host"] = "other"
    assert pool.kwargs == kwargs
