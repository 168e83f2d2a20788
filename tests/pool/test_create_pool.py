"""create_pool(): authentication of each connection, what opening waits for, what it raises."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg_pool
import pytest
from fix_pools import idle, make, until

import azpg

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_api import Api
    from fix_clock import Clock
    from fix_credentials import Credentials
    from fix_servers import Postgres
    from fix_tunnel import Tunnel

    from azpg.emulator import Emulator

pytestmark = pytest.mark.compat

WHO = "select current_user"


# Authentication


def test_a_pool_authenticates_with_tokens(api: Api, azure: Emulator) -> None:
    """create_pool() takes connect()'s options and returns once `min_size` connections are made."""
    with api.pool(server="myserver", min_size=3) as pool:
        assert idle(pool) == 3
        assert api.row_of_pool(pool, WHO) == ("myapp",)
        assert isinstance(pool, psycopg_pool.ConnectionPool | psycopg_pool.AsyncConnectionPool)


def test_a_pool_connects_to_pgbouncer(api: Api, azure: Emulator) -> None:
    """The connections have the port and the prepare threshold that connect() uses for PgBouncer."""
    with api.pool(server="myserver", pgbouncer=True, min_size=1) as pool:
        conn = api.run(pool.getconn())
        assert conn.info.port == 6432
        assert conn.prepare_threshold is None
        api.run(pool.putconn(conn))


def test_every_new_connection_calls_the_password_callback(api: Api, postgres: Postgres) -> None:
    """A password callback is called once for each physical connection, also after a drain."""
    calls: list[str] = []

    def password() -> str:
        calls.append("")
        return postgres.password

    with api.pool(**postgres.conninfo(password=api.callback(password)), min_size=3) as pool:
        assert len(calls) == 3
        api.row_of_pool(pool, WHO)
        assert len(calls) == 3
        api.run(pool.drain())
        until(lambda: idle(pool) == 3)
        assert len(calls) == 6


def test_a_pool_outlives_its_tokens(
    api: Api, mortal: Emulator, credentials: Credentials, clock: Clock
) -> None:
    """Connections made after a token has expired authenticate with a new one, repeatedly."""
    clock.of(mortal)
    before = mortal.counts
    with api.pool(credential=credentials.managed_identity(), min_size=2) as pool:
        for _ in range(3):
            mortal.expire_tokens()
            clock.goes_on(3600)
            made = pool.get_stats()["connections_num"]
            api.run(pool.drain())
            until(lambda made=made: pool.get_stats()["connections_num"] == made + 2)  # type: ignore[misc]  # bound now
            until(lambda: idle(pool) == 2)
            assert api.row_of_pool(pool, WHO) == ("myapp",)
        assert "connections_errors" not in pool.get_stats()
    spent = mortal.counts - before
    assert spent.sign_ins == 8
    assert spent.refused_sign_ins == 0
    assert spent.token_requests == 4


def test_max_lifetime_replaces_connections(
    api: Api, mortal: Emulator, credentials: Credentials
) -> None:
    """A connection older than max_lifetime is replaced by one with a token that is valid then."""
    password = azpg.EntraPassword(credentials.of(mortal))
    with api.pool(password=password, min_size=1, max_lifetime=0.001) as pool:
        mortal.expire_tokens()
        password.invalidate()
        first = api.row_of_pool(pool, "select pg_backend_pid()")
        until(lambda: idle(pool) == 1)
        assert api.row_of_pool(pool, "select pg_backend_pid()") != first
        assert password.stats().fetched == 2


# Opening


def test_open_false_connects_nothing(api: Api, azure: Emulator, credentials: Credentials) -> None:
    """A pool with open=False requests no token and connects to no server until it is opened."""
    credential = credentials.of(azure)
    before = azure.counts
    with api.pool(credential=credential, min_size=1, open=False) as pool:
        assert pool.closed
        assert credential.calls == 0
        assert (azure.counts - before).connections == 0
        api.run(pool.open(wait=True))
        assert api.row_of_pool(pool, WHO) == ("myapp",)


def test_async_with_waits_for_connections(azure: Emulator) -> None:
    """`async with create_pool_async()` waits for `min_size` connections."""

    async def main() -> int:
        async with azpg.create_pool_async(min_size=2) as pool:
            return idle(pool)

    assert asyncio.run(main()) == 2


def test_async_with_of_an_unopened_pool_does_not_wait(free_port: int) -> None:
    """With open=False `async with` opens the pool without waiting, as in psycopg_pool."""

    async def main() -> int:
        address = {"host": "db.example", "hostaddr": "127.0.0.1", "port": free_port}
        pool = azpg.create_pool_async(**address, user="me", password="x", open=False)  # type: ignore[call-overload]  # one dict
        assert (await pool).closed
        async with pool:
            return idle(pool)

    assert asyncio.run(main()) == 0


PERMANENT = [
    ({"user": "nobody"}, {}, azpg.LoginError),
    ({}, {"certificate": "expired"}, azpg.TLSError),
    ({}, {"tls": "stripped"}, azpg.TLSError),
    ({}, {"identity": 400}, azpg.CredentialError),
    ({}, {"token": "expired"}, azpg.LoginError),
]
"""A pool's arguments, the fault of the emulator, and the permanent error."""


@pytest.mark.parametrize(
    ("options", "fault", "error"), PERMANENT, ids=["role", "cert", "tls", "credential", "token"]
)
def test_a_permanent_failure_is_raised_at_once(
    api: Api,
    azure: Emulator,
    credentials: Credentials,
    options: dict[str, Any],
    fault: dict[str, Any],
    error: type[azpg.ConnectError],
) -> None:
    """create_pool() raises it long before the timeout, and leaves no thread."""
    threads = set(threading.enumerate())
    started = time.monotonic()
    credential = credentials.managed_identity()
    with azure.fault(**fault), pytest.raises(error):
        api.open_pool(credential=credential, **options, min_size=2, timeout=60)
    assert time.monotonic() - started < 10
    if api.kind == "sync":
        until(lambda: set(threading.enumerate()) <= threads)


@pytest.mark.parametrize("method", ["open", "wait", "after the failure"])
def test_the_pool_classes_raise_a_permanent_failure(api: Api, azure: Emulator, method: str) -> None:
    """open(wait=True) and wait() raise it and close the pool."""
    pool = make(api, min_size=1, kwargs={"user": "nobody"})
    api.run(pool.open())
    if method == "after the failure":
        until(lambda: pool.get_stats().get("connections_errors"))
    with pytest.raises(azpg.LoginError, match="nobody"):
        api.run(pool.open(wait=True) if method == "open" else pool.wait())
    assert pool.closed


def test_invalid_arguments_are_all_reported(api: Api) -> None:
    """create_pool() validates its arguments before it starts a thread, and lists every problem."""
    threads = set(threading.enumerate())
    with pytest.raises(azpg.ConfigError) as caught:
        api.open_pool(sslmode="ful", databse="shop", open=False)
    assert len(caught.value.problems) >= 2
    assert set(threading.enumerate()) <= threads


def test_the_pool_classes_raise_a_config_error(api: Api) -> None:
    """open(wait=True) raises the ConfigError of an invalid conninfo at once."""
    pool = make(api, "sslmode=ful", min_size=1)
    started = time.monotonic()
    with pytest.raises(azpg.ConfigError, match="sslmode"):
        api.run(pool.open(wait=True))
    assert time.monotonic() - started < 20


def test_create_pool_async_validates_before_it_is_awaited() -> None:
    """create_pool_async() raises the ConfigError itself, not `await` or `async with`."""
    with pytest.raises(azpg.ConfigError, match="sslmode"):
        azpg.create_pool_async(server="myserver", sslmode="ful")


def test_a_pool_has_no_retry_timeout(api: Api) -> None:
    """retry_timeout is rejected, and the error names reconnect_timeout."""
    with pytest.raises(azpg.ConfigError, match="reconnect_timeout"):
        api.open_pool(server="myserver", retry_timeout=5)


def test_a_transient_failure_is_a_pool_timeout_with_its_cause(
    api: Api, azure: Emulator, free_port: int
) -> None:
    """After `timeout` a PoolTimeout has the failure in its message and as its cause."""
    started = time.monotonic()
    with pytest.raises(psycopg_pool.PoolTimeout, match=r"[Cc]onnection refused") as caught:
        api.open_pool(hostaddr="127.0.0.1", port=free_port, min_size=1, timeout=2)
    assert 1.9 < time.monotonic() - started < 20
    assert isinstance(caught.value.__cause__, azpg.UnreachableError)
    assert caught.value.__cause__.kind == "refused"


def test_a_transient_failure_is_retried(
    api: Api, azure: Emulator, free_port: int, dig: Callable[..., Tunnel]
) -> None:
    """The pool connects to a server that starts while the pool opens."""
    address = {"hostaddr": "127.0.0.1", "port": free_port}
    pool = make(api, min_size=1, kwargs=address)
    api.run(pool.open())
    until(lambda: pool.get_stats().get("connections_errors"))
    dig((azure.hostaddr, azure.port), ("127.0.0.1", free_port))
    api.run(pool.wait(60))
    assert idle(pool) == 1
    api.run(pool.close())


def test_a_canceled_async_with_leaves_no_task(free_port: int) -> None:
    """Canceling `async with create_pool_async()` while it waits closes the pool."""
    address: dict[str, Any] = {"host": "db.example", "hostaddr": "127.0.0.1", "port": free_port}

    async def enter() -> None:
        async with azpg.create_pool_async(**address, user="me", password="x"):
            pass

    async def wait() -> None:
        await azpg.create_pool_async(**address, user="me", password="x")

    async def main() -> None:
        for function in (enter, wait):
            task = asyncio.create_task(function())
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_no_thread_is_left_after_close(azure: Emulator) -> None:
    """close() ends every thread that the pool and its token requests started."""
    threads = set(threading.enumerate())
    pool = azpg.create_pool(min_size=2)
    pool.close()
    until(lambda: set(threading.enumerate()) <= threads)
    assert pool.closed
