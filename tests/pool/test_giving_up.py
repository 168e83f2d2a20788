"""Pools in trouble: what clients are told, when it is tried again, and what is never closed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import psycopg_pool
import pytest
from fix_pools import backends, idle, make, until

import azpg

if TYPE_CHECKING:
    from fix_api import Api
    from fix_servers import Postgres

    from azpg.emulator import Emulator

POOLS: dict[tuple[str, str], Any] = {
    ("sync", "pool"): azpg.ConnectionPool,
    ("async", "pool"): azpg.AsyncConnectionPool,
    ("sync", "null"): azpg.NullConnectionPool,
    ("async", "null"): azpg.AsyncNullConnectionPool,
}

both = pytest.mark.parametrize("kind", ["pool", "null"])


class Key:
    """A password that can be changed under a pool, and counts how often it is asked for."""

    def __init__(self, postgres: Postgres) -> None:
        self.postgres = postgres
        self.right = True
        self.asked = 0

    def __call__(self) -> str:
        """Return the password, or a wrong one."""
        self.asked += 1
        return self.postgres.password if self.right else "wrong"

    def kwargs(self, api: Api) -> dict[str, Any]:
        """Return the keywords of a connect that asks for it."""
        return self.postgres.conninfo(password=api.callback(self))


@pytest.fixture
def key(postgres: Postgres) -> Key:
    """Return the password of the server that has SCRAM."""
    return Key(postgres)


# What no further try can mend


@both
def test_a_client_is_told_at_once(api: Api, azure: Emulator, kind: str) -> None:
    """getconn() raises the refusal itself, within one attempt, and the pool stays open."""
    pool = make(api, pool_class=POOLS[api.kind, kind], max_size=4, kwargs={"user": "nobody"})
    api.run(pool.open())
    started = time.monotonic()
    for _ in range(3):
        with pytest.raises(azpg.LoginError, match="nobody"):
            api.run(pool.getconn(timeout=60))
    assert time.monotonic() - started < 20
    assert not pool.closed
    api.run(pool.close())


@both
def test_all_who_wait_are_told(api: Api, azure: Emulator, kind: str) -> None:
    """Each of many clients raises an error of its own."""
    pool = make(api, pool_class=POOLS[api.kind, kind], max_size=4, kwargs={"user": "nobody"})
    api.run(pool.open())
    waiting = [api.begin(pool.getconn, 60) for _ in range(8)]
    errors = [future.exception(60) for future in waiting]
    assert all(isinstance(error, azpg.LoginError) for error in errors)
    assert len({id(error) for error in errors}) == len(errors)
    api.run(pool.close())


def test_who_is_given_up_is_told_whatever_succeeds_meanwhile(api: Api, azure: Emulator) -> None:
    """A success between giving a client up and telling it takes no reason away."""
    pool = make(api, min_size=1, kwargs={"user": "nobody"})
    give_up = pool._give_up

    def give_up_and_forget() -> Any:
        told = give_up()
        pool._causes.succeeded()
        return told

    pool._give_up = give_up_and_forget
    api.run(pool.open())
    with pytest.raises(azpg.LoginError, match="nobody"):
        api.run(pool.getconn(timeout=60))
    api.run(pool.close())


def test_who_waits_is_served_by_a_connection_that_lives(api: Api, key: Key) -> None:
    """While one connection lives, a refused second one fails nobody."""
    with api.pool(**key.kwargs(api), min_size=1, max_size=2) as pool:
        conn = api.run(pool.getconn())
        key.right = False
        waiting = api.begin(pool.getconn, 60)
        until(lambda: pool.get_stats().get("connections_errors"))
        api.run(pool.putconn(conn))
        assert waiting.result(60) is conn
        api.run(pool.putconn(conn))


@both
def test_a_pool_that_has_connected_recovers(api: Api, key: Key, kind: str) -> None:
    """It is never closed: once the password is right again the next client is served."""
    options: dict[str, Any] = {"min_size": 3} if kind == "pool" else {}
    pool = make(api, pool_class=POOLS[api.kind, kind], kwargs=key.kwargs(api), **options)
    api.run(pool.open(wait=True))
    key.right = False
    if kind == "pool":
        api.run(pool.drain())
        until(lambda: pool.get_stats()["pool_size"] == 0)
    with pytest.raises(azpg.LoginError):
        api.run(pool.getconn(timeout=60))
    with pytest.raises(azpg.LoginError):
        api.run(pool.wait(60))
    assert not pool.closed
    key.right = True
    until(lambda: api.begin(pool.wait, 60).exception(60) is None)
    assert api.row_of_pool(pool, "select current_user") == ("app",)
    if kind == "pool":
        until(lambda: idle(pool) == 3)
    api.run(pool.close())


@both
def test_a_refusal_is_not_repeated_for_a_second(api: Api, key: Key, kind: str) -> None:
    """However many clients come, a server that refuses is asked once a second at most."""
    pool = make(api, pool_class=POOLS[api.kind, kind], max_size=4, kwargs=key.kwargs(api))
    key.right = False
    started = time.monotonic()
    api.run(pool.open())
    for _ in range(50):
        with pytest.raises(azpg.LoginError):
            api.run(pool.getconn(timeout=60))
    opening = 4 if kind == "pool" else 0
    assert key.asked <= opening + 1 + time.monotonic() - started
    api.run(pool.close())


def test_a_refusal_is_not_repeated_for_who_waits_either(api: Api, key: Key) -> None:
    """Clients that wait beside a live connection have a server asked once a second at most."""
    with api.pool(**key.kwargs(api), min_size=1, max_size=4) as pool:
        conn = api.run(pool.getconn())
        key.right = False
        asked, started = key.asked, time.monotonic()
        for _ in range(30):
            with pytest.raises(psycopg_pool.PoolTimeout):
                api.run(pool.getconn(timeout=0.03))
        assert key.asked - asked <= 2 + time.monotonic() - started
        api.run(pool.putconn(conn))


def test_a_pool_grows_back_when_it_can(api: Api, key: Key) -> None:
    """A pool that refusals have made small is full again after the next checkout."""
    with api.pool(**key.kwargs(api), min_size=3) as pool:
        conn = api.run(pool.getconn())
        key.right = False
        for pid in backends(pool):
            api.row(conn, "select pg_terminate_backend(%s, 5000)", pid)
        waiting = api.begin(pool.getconn, 60)
        until(lambda: pool.get_stats()["pool_size"] == 1)
        api.run(pool.putconn(conn))
        api.run(pool.putconn(waiting.result(60)))
        key.right = True

        def full() -> bool:
            api.row_of_pool(pool, "select 1")
            return idle(pool) == 3

        until(full)


# What may mend itself


@both
def test_a_timeout_says_why(api: Api, mortal: Emulator, kind: str) -> None:
    """A PoolTimeout of getconn() holds the last failure as its cause and in its text."""
    pool = make(api, pool_class=POOLS[api.kind, kind], max_size=4, kwargs={"connect_timeout": 2})
    api.run(pool.open(wait=True))
    fault: Any = {"connect": "refuse"} if kind == "pool" else {"connect": "stall"}
    with mortal.fault(**fault):
        mortal.cut()
        with pytest.raises(psycopg_pool.PoolTimeout) as caught:
            api.run(pool.getconn(timeout=1))
    cause = caught.value.__cause__
    assert isinstance(cause, azpg.UnreachableError)
    assert cause.kind == ("refused" if kind == "pool" else "timeout")
    assert str(cause) in str(caught.value)
    assert api.row_of_pool(pool, "select current_user") == ("myapp",)
    api.run(pool.close())


def test_a_pool_whose_connections_are_all_in_use_blames_nothing(api: Api, azure: Emulator) -> None:
    """Without a failed connect a PoolTimeout is psycopg_pool's own."""
    with api.pool(min_size=1) as pool:
        conn = api.run(pool.getconn())
        with pytest.raises(psycopg_pool.PoolTimeout) as caught:
            api.run(pool.getconn(timeout=0.1))
        assert caught.value.__cause__ is None
        assert "0.10 sec" in str(caught.value)
        api.run(pool.putconn(conn))


def test_a_pool_is_full_again_soon_after_a_failure(api: Api, mortal: Emulator) -> None:
    """The tries come fast at first: a pool whose server was away is back within seconds."""
    with api.pool(min_size=3) as pool:
        before = backends(pool)
        with mortal.fault(connect="refuse"):
            mortal.cut()
            with pytest.raises(psycopg_pool.PoolTimeout):
                api.run(pool.getconn(timeout=1))
        until(lambda: idle(pool) == 3)
        assert not backends(pool) & before


def test_who_waits_is_served_after_a_reconnection_has_failed(api: Api, mortal: Emulator) -> None:
    """While a client waits the pool goes on trying, also when reconnect_timeout is over."""
    with api.pool(min_size=1, reconnect_timeout=0.1) as pool:
        with mortal.fault(connect="refuse"):
            mortal.cut()
            waiting = api.begin(pool.getconn, 60)
            until(lambda: pool.get_stats().get("connections_errors", 0) >= 5)
        api.run(pool.putconn(waiting.result(60)))


def test_a_failed_reconnection_is_told_to_the_callback(api: Api, mortal: Emulator) -> None:
    """reconnect_failed is called by null pools too, which psycopg_pool's forget."""
    told: list[Any] = []

    def tell(pool: Any) -> None:
        told.append(pool)

    async def tell_async(pool: Any) -> None:
        told.append(pool)

    pool = make(
        api,
        pool_class=POOLS[api.kind, "null"],
        max_size=1,
        reconnect_timeout=0.1,
        reconnect_failed=tell if api.kind == "sync" else tell_async,
    )
    api.run(pool.open())
    conn = api.run(pool.getconn())
    waiting = api.begin(pool.getconn, 2)
    until(lambda: pool.get_stats()["requests_waiting"])
    with mortal.fault(connect="refuse"):
        mortal.cut()
        api.run(pool.putconn(conn))
        assert isinstance(waiting.exception(60), psycopg_pool.PoolTimeout)
        until(lambda: told)
    assert told == [pool]
    api.run(pool.close())


# Null pools through create_pool


def test_create_pool_takes_a_class_of_pools(api: Api, azure: Emulator) -> None:
    """pool_class= makes a null pool, whose connections are closed when they come back."""
    with api.pool(pool_class=POOLS[api.kind, "null"], max_size=2) as pool:
        assert type(pool) is POOLS[api.kind, "null"]
        conn = api.run(pool.getconn())
        assert api.row(conn, "select current_user") == ("myapp",)
        api.run(pool.putconn(conn))
        assert conn.closed
        assert pool.get_stats()["pool_size"] == 0


def test_the_figures_tell_of_tokens(api: Api, azure: Emulator) -> None:
    """get_stats() has the tokens fetched and failed, and the seconds that the last one is good."""
    with api.pool(min_size=1) as pool:
        stats = pool.get_stats()
        assert (stats["tokens_fetched"], stats["tokens_failed"]) == (1, 0)
        assert 0 < stats["token_seconds_to_expiry"] <= 3600
        assert pool.pop_stats()["tokens_fetched"] == 1


def test_a_pool_with_a_password_has_no_figures_of_tokens(api: Api, key: Key) -> None:
    """Who signs in with a password reads nothing of tokens."""
    with api.pool(**key.kwargs(api), min_size=1) as pool:
        assert not [name for name in pool.get_stats() if name.startswith("token")]


def test_live_connections_are_those_that_are_not_closed(api: Api, key: Key) -> None:
    """A connection that was closed while it was out keeps nobody waiting for it."""
    with api.pool(**key.kwargs(api), min_size=1) as pool:
        conn = api.run(pool.getconn())
        key.right = False
        waiting = api.begin(pool.getconn, 60)
        until(lambda: pool.get_stats()["requests_waiting"])
        api.run(conn.close())
        api.run(pool.putconn(conn))
        assert isinstance(waiting.exception(60), azpg.LoginError)


def test_a_connection_made_at_that_moment_does_no_harm(api: Api) -> None:
    """One worker may add its connection while another looks whether any lives."""
    pool = make(api)
    made: list[Any] = []

    class Meanwhile:
        """A closed connection; another is made while it is looked at."""

        @property
        def closed(self) -> bool:
            made.append(Meanwhile())
            pool._took(made[-1])
            return True

    pool._took(first := Meanwhile())
    pool._causes.failed(azpg.LoginError("refused", kind="role", hint=""), pool._causes.successes)
    assert str(pool._hopeless()) == "refused"
    assert made
    assert first.closed
