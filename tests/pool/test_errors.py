"""What a pool that cannot connect raises: azpg's error, which is a PoolTimeout too."""

from __future__ import annotations

import copy
import pickle
import time
import traceback
from typing import TYPE_CHECKING, Any

import psycopg
import psycopg_pool
import pytest
from fix_pools import make

import azpg
from azpg import pool as azpg_pool
from azpg.pool._errors import pool_error, timeout_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_api import Api
    from fix_leaks import Leaks, Tokens
    from fix_servers import Postgres

    from azpg.emulator import Emulator

CLASSES = [
    (azpg.ConnectError, azpg_pool.PoolConnectError),
    (azpg.CredentialError, azpg_pool.PoolCredentialError),
    (azpg.LoginError, azpg_pool.PoolLoginError),
    (azpg.TLSError, azpg_pool.PoolTLSError),
    (azpg.UnreachableError, azpg_pool.PoolUnreachableError),
    (azpg.ConnectTimeoutError, azpg_pool.PoolConnectTimeoutError),
]
COPIES = [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))]

both = pytest.mark.parametrize("kind", ["pool", "null"])


def pool_class(api: Api, kind: str) -> Any:
    """Return azpg's pool class, or its null pool class."""
    if kind == "pool":
        return api.pool_class
    return azpg.NullConnectionPool if api.kind == "sync" else azpg.AsyncNullConnectionPool


# The classes


@pytest.mark.parametrize(("error", "pools"), CLASSES)
def test_each_public_error_is_a_pool_timeout_too(error: type[Any], pools: type[Any]) -> None:
    """Each connect error has a public class in azpg.pool that is a PoolTimeout too."""
    assert pools.__bases__ == (error, psycopg_pool.PoolTimeout)
    assert (pools.__module__, pools.__name__) == ("azpg.pool", f"Pool{error.__name__}")
    assert pools.__name__ in azpg_pool.__all__
    with pytest.raises(psycopg_pool.PoolTimeout):
        raise pools("no")


def test_all_errors_of_a_connect_have_one() -> None:
    """None is forgotten, and a ConfigError is no timeout."""
    connect = {error for error, _ in CLASSES}
    names = [getattr(azpg, name) for name in azpg.__all__]
    assert connect == {
        each for each in names if isinstance(each, type) and issubclass(each, azpg.ConnectError)
    }
    assert pool_error(error := azpg.ConfigError("no host")) is error


@pytest.mark.parametrize(("error", "pools"), CLASSES)
@pytest.mark.parametrize("copied", COPIES)
def test_the_errors_keep_what_they_say(
    error: type[Any], pools: type[Any], copied: Callable[[Any], Any]
) -> None:
    """Attributes, cause and traceback stay; copies and pickles are equal."""
    cause = KeyError("the callback's")
    try:
        raise error("failed", kind="k", hint="type this", transient=True) from cause
    except azpg.ConnectError as ex:
        made: Any = pool_error(ex)
    assert type(made) is pools
    assert made.__cause__ is cause
    assert made.__suppress_context__
    assert made.__traceback__ is not None
    for each in (made, copied(made)):
        assert type(each) is pools
        assert str(each) == "failed\nHINT: type this"
        assert (each.kind, each.hint, each.transient) == ("k", "type this", True)
    assert "azpg.pool.Pool" in "".join(traceback.format_exception(made))


def test_an_error_of_the_callers_own_class_is_left_alone() -> None:
    """A subclass of azpg's errors that a program raises itself reaches its own except clause."""

    class Mine(azpg.LoginError):
        """Stand for an error of a connection class of the caller's."""

    mine = Mine("no")
    assert pool_error(mine) is mine


@pytest.mark.parametrize(
    "failure",
    [
        azpg.UnreachableError("refused", kind="refused", hint="start it", transient=True),
        azpg.ConnectError("what", kind="unknown"),
        ValueError("the callback's"),
    ],
)
def test_a_timeout_after_a_failure_is_a_connect_error(failure: Exception) -> None:
    """It has a kind and a hint of its own, and names the failure, its cause."""
    error: Any = timeout_error(psycopg_pool.PoolTimeout("couldn't get a connection"), failure)
    assert type(error) is azpg_pool.PoolConnectError
    assert (error.kind, error.transient) == ("pool-timeout", True)
    assert error.hint
    assert str(error).count("HINT: ") == 1
    assert str(error).startswith(
        f"couldn't get a connection; the last connection failed: {failure}"
    )
    assert error.__cause__ is failure
    explained = azpg.explain(error)
    assert explained.kind == (getattr(failure, "kind", "").replace("unknown", "") or "pool-timeout")


# What pools raise


def failing(api: Api, kind: str, **options: Any) -> Any:
    """Return a closed pool whose role the server rejects."""
    return make(api, pool_class=pool_class(api, kind), kwargs={"user": "nobody"}, **options)


@both
@pytest.mark.parametrize("method", ["open", "wait", "getconn", "connection"])
def test_code_that_catches_pool_timeout_keeps_working(
    api: Api, azure: Emulator, kind: str, method: str
) -> None:
    """A permanent failure is caught by `except PoolTimeout`, whatever waits for the connection."""
    pool = failing(api, kind)

    def connection(timeout: float) -> Any:
        with pool.connection(timeout):
            raise AssertionError

    async def connection_async(seconds: float) -> Any:
        async with pool.connection(seconds):
            raise AssertionError

    if method != "open":
        api.run(pool.open())
    waits: dict[str, Callable[[float], Any]] = {
        "open": lambda timeout: pool.open(wait=True, timeout=timeout),
        "wait": pool.wait,
        "getconn": pool.getconn,
        "connection": connection if api.kind == "sync" else connection_async,
    }
    with pytest.raises(psycopg_pool.PoolTimeout) as caught:
        api.run(waits[method](60))
    api.run(pool.close())
    assert type(caught.value) is azpg_pool.PoolLoginError
    assert "nobody" in str(caught.value)


def test_create_pool_raises_the_pools_errors(api: Api, azure: Emulator) -> None:
    """So does create_pool(), and its ConfigError is none."""
    with pytest.raises(azpg_pool.PoolLoginError):
        api.open_pool(server="myserver", user="nobody", min_size=1)
    with pytest.raises(azpg.ConfigError) as caught:
        api.open_pool(server="myserver", host_name="x")
    assert not isinstance(caught.value, psycopg_pool.PoolTimeout)


@both
def test_a_program_that_retries_on_pool_timeout_does_not_spin(
    api: Api, azure: Emulator, kind: str
) -> None:
    """During the cooldown after a permanent failure getconn() waits, at most its timeout."""
    pool = failing(api, kind, max_size=4)
    api.run(pool.open())
    with pytest.raises(azpg.LoginError):
        api.run(pool.getconn(timeout=60))
    started = time.monotonic()
    for _ in range(3):
        with pytest.raises(psycopg_pool.PoolTimeout) as caught:
            api.run(pool.getconn(timeout=0.1))
        assert isinstance(caught.value, azpg.LoginError)
    assert time.monotonic() - started >= 0.29
    with pytest.raises(azpg.LoginError):
        api.run(pool.getconn(timeout=60))
    assert time.monotonic() - started >= 0.9
    api.run(pool.close())


def test_a_closed_pool_says_so_during_the_cooldown(api: Api, azure: Emulator) -> None:
    """The cooldown hides no error of the program's own."""
    pool = failing(api, "pool", min_size=1)
    api.run(pool.open())
    with pytest.raises(azpg.LoginError):
        api.run(pool.getconn(timeout=60))
    api.run(pool.close())
    with pytest.raises(psycopg_pool.PoolClosed):
        api.run(pool.getconn(timeout=60))


def test_a_callback_that_fails_is_the_cause(api: Api, postgres: Postgres) -> None:
    """The password callback's own error, with its traceback, is behind the pool's error."""

    def broken() -> str:
        raise ZeroDivisionError

    with pytest.raises(azpg_pool.PoolCredentialError) as caught:
        api.open_pool(**postgres.conninfo(password=api.callback(broken)), min_size=1, timeout=60)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    frames = traceback.extract_tb(caught.value.__cause__.__traceback__)
    assert frames[-1].name == "broken"


@both
def test_the_errors_show_no_token(api: Api, tokens: Tokens, leaks: Leaks, kind: str) -> None:
    """No secret is in the error, its history, its frames, or a pickle of it."""
    options = {"server": "myserver", "user": "stranger", "credential": tokens.credential}
    pool = make(api, pool_class=pool_class(api, kind), kwargs=options)
    api.run(pool.open())
    with pytest.raises(psycopg.OperationalError) as caught:
        api.run(pool.getconn(timeout=60))
    api.run(pool.close())
    assert type(caught.value) is azpg_pool.PoolLoginError
    leaks.none_shown(caught.value, tokens.given[-1])
    assert tokens.given[-1].encode() not in pickle.dumps(caught.value)
