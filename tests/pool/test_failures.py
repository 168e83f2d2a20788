"""Pools that cannot connect: what clients get, when the pool retries, how it recovers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import psycopg
import psycopg_pool
import pytest
from fix_pools import backends, idle, make, terminate, until

import azpg

if TYPE_CHECKING:
    from fix_api import Api
    from fix_servers import Postgres

    from azpg.emulator import Emulator

pytestmark = pytest.mark.compat

POOLS: dict[tuple[str, str], Any] = {
    ("sync", "pool"): azpg.ConnectionPool,
    ("async", "pool"): azpg.AsyncConnectionPool,
    ("sync", "null"): azpg.NullConnectionPool,
    ("async", "null"): azpg.AsyncNullConnectionPool,
}

both = pytest.mark.parametrize("kind", ["pool", "null"])


class PasswordCallback:
    """A password callback that counts its calls and can return a wrong password."""

    def __init__(self, postgres: Postgres) -> None:
        self.postgres = postgres
        self.correct = True
        self.calls = 0

    def __call__(self) -> str:
        """Return the password, or a wrong one."""
        self.calls += 1
        return self.postgres.password if self.correct else "wrong"

    def kwargs(self, api: Api) -> dict[str, Any]:
        """Return connect()'s arguments with this callback."""
        return self.postgres.conninfo(password=api.callback(self))


@pytest.fixture
def password(postgres: Postgres) -> PasswordCallback:
    """Return a callback for a server with SCRAM."""
    return PasswordCallback(postgres)


# Permanent failures


@both
def test_getconn_raises_a_permanent_failure_at_once(api: Api, azure: Emulator, kind: str) -> None:
    """getconn() raises the LoginError after one attempt, and the pool stays open."""
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
def test_all_waiting_clients_get_a_permanent_failure(api: Api, azure: Emulator, kind: str) -> None:
    """Each of several clients that wait raises its own instance of the error."""
    pool = make(api, pool_class=POOLS[api.kind, kind], max_size=4, kwargs={"user": "nobody"})
    api.run(pool.open())
    waiting = [api.begin(pool.getconn, 60) for _ in range(8)]
    errors = [future.exception(60) for future in waiting]
    assert all(isinstance(error, azpg.LoginError) for error in errors)
    assert len({id(error) for error in errors}) == len(errors)
    api.run(pool.close())


def test_a_later_success_does_not_lose_the_error_of_a_waiting_client(
    api: Api, azure: Emulator
) -> None:
    """A client that was dequeued gets the error, also if another attempt succeeds meanwhile."""
    pool = make(api, min_size=1, kwargs={"user": "nobody"})
    fail_waiting = pool._fail_waiting

    def fail_waiting_and_succeed() -> Any:
        failed = fail_waiting()
        pool._history.record_success()
        return failed

    pool._fail_waiting = fail_waiting_and_succeed
    api.run(pool.open())
    with pytest.raises(azpg.LoginError, match="nobody"):
        api.run(pool.getconn(timeout=60))
    api.run(pool.close())


def test_waiting_clients_do_not_fail_while_a_connection_is_open(
    api: Api, password: PasswordCallback
) -> None:
    """While one connection is open, the permanent failure of a second one fails no client."""
    with api.pool(**password.kwargs(api), min_size=1, max_size=2) as pool:
        conn = api.run(pool.getconn())
        password.correct = False
        waiting = api.begin(pool.getconn, 60)
        until(lambda: pool.get_stats().get("connections_errors"))
        api.run(pool.putconn(conn))
        assert waiting.result(60) is conn
        api.run(pool.putconn(conn))


@both
def test_a_pool_that_has_connected_recovers(
    api: Api, password: PasswordCallback, kind: str
) -> None:
    """A permanent failure does not close the pool: it serves clients once it can connect."""
    options: dict[str, Any] = {"min_size": 3} if kind == "pool" else {}
    pool = make(api, pool_class=POOLS[api.kind, kind], kwargs=password.kwargs(api), **options)
    api.run(pool.open(wait=True))
    password.correct = False
    if kind == "pool":
        api.run(pool.drain())
        until(lambda: pool.get_stats()["pool_size"] == 0)
    with pytest.raises(azpg.LoginError):
        api.run(pool.getconn(timeout=60))
    with pytest.raises(azpg.LoginError):
        api.run(pool.wait(60))
    assert not pool.closed
    password.correct = True
    until(lambda: api.begin(pool.wait, 60).exception(60) is None)
    assert api.row_of_pool(pool, "select current_user") == ("app",)
    if kind == "pool":
        until(lambda: idle(pool) == 3)
    api.run(pool.close())


@both
def test_a_permanent_failure_is_retried_once_a_second_at_most(
    api: Api, password: PasswordCallback, kind: str
) -> None:
    """However many clients call getconn(), the pool connects at most once a second."""
    pool = make(api, pool_class=POOLS[api.kind, kind], max_size=4, kwargs=password.kwargs(api))
    password.correct = False
    started = time.monotonic()
    api.run(pool.open())
    for timeout in (60, *[0.03] * 50):
        with pytest.raises(azpg.LoginError):
            api.run(pool.getconn(timeout))
    opening = 4 if kind == "pool" else 0
    assert password.calls <= opening + 1 + time.monotonic() - started
    api.run(pool.close())


def test_waiting_clients_do_not_shorten_the_cooldown(api: Api, password: PasswordCallback) -> None:
    """While clients wait for the one open connection, the pool connects at most once a second."""
    with api.pool(**password.kwargs(api), min_size=1, max_size=4) as pool:
        conn = api.run(pool.getconn())
        password.correct = False
        calls, started = password.calls, time.monotonic()
        for _ in range(30):
            with pytest.raises(psycopg_pool.PoolTimeout):
                api.run(pool.getconn(timeout=0.03))
        assert password.calls - calls <= 2 + time.monotonic() - started
        api.run(pool.putconn(conn))


def test_a_pool_grows_back_to_min_size(api: Api, password: PasswordCallback) -> None:
    """A pool that permanent failures have shrunk grows to min_size after a checkout."""
    with api.pool(**password.kwargs(api), min_size=3) as pool:
        conn = api.run(pool.getconn())
        password.correct = False
        for pid in backends(pool):
            api.row(conn, "select pg_terminate_backend(%s, 5000)", pid)
        waiting = api.begin(pool.getconn, 60)
        until(lambda: pool.get_stats()["pool_size"] == 1)
        api.run(pool.putconn(conn))
        api.run(pool.putconn(waiting.result(60)))
        password.correct = True

        def full() -> bool:
            api.row_of_pool(pool, "select 1")
            return idle(pool) == 3

        until(full)


# Transient failures


@both
def test_a_pool_timeout_has_the_last_failure_as_its_cause(
    api: Api, mortal: Emulator, kind: str
) -> None:
    """A PoolTimeout of getconn() has the last failure in its message, too."""
    pool = make(api, pool_class=POOLS[api.kind, kind], max_size=4, kwargs={"connect_timeout": 2})
    api.run(pool.open(wait=True))
    fault: Any = {"connect": "refuse"} if kind == "pool" else {"connect": "stall"}
    with mortal.fault(**fault):
        mortal.cut()
        with pytest.raises(psycopg_pool.PoolTimeout) as caught:
            api.run(pool.getconn(timeout=3))
    cause = caught.value.__cause__
    assert isinstance(cause, azpg.UnreachableError)
    assert cause.kind == ("refused" if kind == "pool" else "timeout")
    assert str(cause) in str(caught.value)
    assert api.row_of_pool(pool, "select current_user") == ("myapp",)
    api.run(pool.close())


def test_a_pool_timeout_without_a_failure_has_no_cause(api: Api, azure: Emulator) -> None:
    """If all connections are in use, the PoolTimeout is psycopg_pool's."""
    with api.pool(min_size=1) as pool:
        conn = api.run(pool.getconn())
        with pytest.raises(psycopg_pool.PoolTimeout) as caught:
            api.run(pool.getconn(timeout=0.1))
        assert caught.value.__cause__ is None
        assert "0.10 sec" in str(caught.value)
        api.run(pool.putconn(conn))


def test_a_pool_is_full_again_soon_after_a_failure(api: Api, mortal: Emulator) -> None:
    """The first delays are short: the pool recovers within seconds after the server is back."""
    with api.pool(min_size=3) as pool:
        before = backends(pool)
        with mortal.fault(connect="refuse"):
            mortal.cut()
            with pytest.raises(psycopg_pool.PoolTimeout):
                api.run(pool.getconn(timeout=1))
        until(lambda: idle(pool) == 3)
        assert not backends(pool) & before


def test_waiting_clients_are_served_after_reconnect_timeout(api: Api, mortal: Emulator) -> None:
    """While a client waits, the pool retries also after reconnect_timeout."""
    with api.pool(min_size=1, reconnect_timeout=0.1) as pool:
        with mortal.fault(connect="refuse"):
            mortal.cut()
            waiting = api.begin(pool.getconn, 60)
            until(lambda: pool.get_stats().get("connections_errors", 0) >= 5)
        api.run(pool.putconn(waiting.result(60)))


def test_null_pools_call_reconnect_failed(api: Api, mortal: Emulator) -> None:
    """A null pool calls reconnect_failed, which psycopg_pool's does not."""
    called: list[Any] = []

    def reconnect_failed(pool: Any) -> None:
        called.append(pool)

    async def reconnect_failed_async(pool: Any) -> None:
        called.append(pool)

    pool = make(
        api,
        pool_class=POOLS[api.kind, "null"],
        max_size=1,
        reconnect_timeout=0.1,
        reconnect_failed=reconnect_failed if api.kind == "sync" else reconnect_failed_async,
    )
    api.run(pool.open())
    conn = api.run(pool.getconn())
    waiting = api.begin(pool.getconn, 60)
    until(lambda: pool.get_stats()["requests_waiting"])
    with mortal.fault(connect="refuse"):
        mortal.cut()
        api.run(pool.putconn(conn))
        until(lambda: called)
    assert called == [pool]
    api.run(pool.close())
    assert isinstance(waiting.exception(60), psycopg_pool.PoolClosed)


# Null pools and statistics


def test_create_pool_takes_a_pool_class(api: Api, azure: Emulator) -> None:
    """pool_class= makes a null pool, which closes a connection when it is returned."""
    with api.pool(pool_class=POOLS[api.kind, "null"], max_size=2) as pool:
        assert type(pool) is POOLS[api.kind, "null"]
        conn = api.run(pool.getconn())
        assert api.row(conn, "select current_user") == ("myapp",)
        api.run(pool.putconn(conn))
        assert conn.closed
        assert pool.get_stats()["pool_size"] == 0


def test_statistics_of_tokens(api: Api, azure: Emulator) -> None:
    """get_stats() has the number of token requests and failures, and the seconds to expiry."""
    with api.pool(min_size=1) as pool:
        stats = pool.get_stats()
        assert (stats["tokens_fetched"], stats["tokens_failed"]) == (1, 0)
        assert 0 < stats["token_seconds_to_expiry"] <= 3600
        assert pool.pop_stats()["tokens_fetched"] == 1


def test_no_statistics_of_tokens_with_a_password(api: Api, password: PasswordCallback) -> None:
    """A pool with a password has no statistics of tokens."""
    with api.pool(**password.kwargs(api), min_size=1) as pool:
        assert not [name for name in pool.get_stats() if name.startswith("token")]


def test_a_connection_closed_in_use_does_not_keep_clients_waiting(
    api: Api, password: PasswordCallback
) -> None:
    """If a client closes the last open connection, waiting clients get the permanent failure."""
    with api.pool(**password.kwargs(api), min_size=1) as pool:
        conn = api.run(pool.getconn())
        password.correct = False
        waiting = api.begin(pool.getconn, 60)
        until(lambda: pool.get_stats()["requests_waiting"])
        api.run(conn.close())
        api.run(pool.putconn(conn))
        assert isinstance(waiting.exception(60), azpg.LoginError)


def test_a_connection_registered_during_the_check(api: Api) -> None:
    """One worker may register a connection while another one lists them."""
    pool = make(api)
    made: list[Any] = []

    class ClosedConnection:
        """A closed connection; reading `closed` registers another one."""

        @property
        def closed(self) -> bool:
            made.append(ClosedConnection())
            pool._register(made[-1])
            return True

    pool._register(first := ClosedConnection())
    failure = azpg.LoginError("refused", kind="role", hint="")
    pool._history.record_failure(failure, pool._history.changes)
    assert str(pool._permanent_failure()) == "refused"
    assert made
    assert first.closed


@pytest.mark.parametrize("kind", ["pool", "null"])
def test_close_returns_a_broken_connection(api: Api, azure: Emulator, kind: str) -> None:
    """With close_returns=True the pool replaces a connection that broke and was closed."""
    pool_class: Any = api.pool_class
    if kind == "null":
        pool_class = azpg.NullConnectionPool if api.kind == "sync" else azpg.AsyncNullConnectionPool
    size = {"min_size": 0, "max_size": 1}
    kwargs = {"server": "myserver"}
    pool = make(api, pool_class=pool_class, kwargs=kwargs, close_returns=True, **size)
    api.run(pool.open())
    for _ in range(3):
        conn = api.run(pool.getconn(timeout=20))
        (pid,) = api.row(conn, "select pg_backend_pid()")
        terminate(api, {pid})
        with pytest.raises(psycopg.OperationalError):
            api.run(conn.execute("select 1"))
        assert conn.closed
        for _ in range(2):
            api.run(conn.close())
    conn = api.run(pool.getconn(timeout=20))
    assert api.row(conn, "select 1") == (1,)
    api.run(conn.close())
    assert pool.get_stats()["pool_size"] <= 1
    api.run(pool.close())
