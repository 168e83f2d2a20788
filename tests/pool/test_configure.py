"""A pool whose configure= fails: what clients get, what is retried and what is logged."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from typing import TYPE_CHECKING, Any

import psycopg
import psycopg_pool
import pytest
from fix_pools import make

import azpg

if TYPE_CHECKING:
    from fix_api import Api
    from fix_servers import Postgres

WORKERS = 2

both = pytest.mark.parametrize("kind", ["pool", "null"])


def make_pool(api: Api, postgres: Postgres, kind: str, function: Any, **options: Any) -> Any:
    """Construct a pool with configure= of the API's kind."""

    async def awaited(conn: Any) -> None:
        function(conn)

    pool_class: Any = api.pool_class
    if kind == "null":
        pool_class = azpg.NullConnectionPool if api.kind == "sync" else azpg.AsyncNullConnectionPool
        options.setdefault("max_size", 2)
    else:
        options.setdefault("min_size", 1)
    kwargs = {"host": postgres.socket, "user": "admin", "password": "x", "dbname": "postgres"}
    configure = function if api.kind == "sync" else awaited
    return make(api, pool_class=pool_class, kwargs=kwargs, configure=configure, **options)


class VectorError(ValueError):
    """An error of a program, which cannot be copied."""

    def __init__(self, name: str, *, schema: str) -> None:
        super().__init__(f"no type {name} in {schema}")


def register_vector(conn: Any) -> None:
    """Fail as pgvector does before its extension exists."""
    conn.pgconn.exec_(b"select 1")
    raise VectorError("vector", schema="public")


@both
def test_a_permanent_failure_of_configure_is_raised_at_once(
    api: Api, postgres: Postgres, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is a ConnectError of the kind configure; its cause is the callback's own error."""
    pool = make_pool(api, postgres, kind, register_vector)
    started = time.monotonic()
    with caplog.at_level(logging.WARNING), pytest.raises(azpg.ConnectError) as caught:
        api.run(pool.open(wait=True))
    assert time.monotonic() - started < 5
    assert (caught.value.kind, caught.value.transient) == ("configure", False)
    assert type(caught.value.__cause__) is VectorError
    frames = traceback.extract_tb(caught.value.__cause__.__traceback__)
    assert frames[-1].name == "register_vector"
    assert "connection failed" not in str(caught.value)
    assert "VectorError" in str(caught.value)
    assert not caplog.records  # raised, so not logged too
    api.run(pool.close())


@both
def test_all_clients_get_an_error_of_their_own(api: Api, postgres: Postgres, kind: str) -> None:
    """Clients that wait raise different instances with the same cause."""
    pool = make_pool(api, postgres, kind, register_vector, max_size=2)
    api.run(pool.open())
    waiting = [api.begin(pool.getconn, 60) for _ in range(4)]
    errors = [future.exception(60) for future in waiting]
    api.run(pool.close())
    assert len({id(error) for error in errors}) == 4
    assert {type(error.__cause__) for error in errors} == {VectorError}  # type: ignore[union-attr]


@both
@pytest.mark.parametrize("failure", ["closed", "transient"])
def test_a_transient_failure_of_configure_is_retried(
    api: Api, postgres: Postgres, kind: str, failure: str
) -> None:
    """It is retried if the connection was closed, or the error's SQLSTATE is transient."""
    calls: list[int] = []

    def configure(conn: Any) -> None:
        calls.append(1)
        if len(calls) == 1 and failure == "closed":
            conn.pgconn.finish()
            raise ValueError
        if len(calls) == 1:
            raise psycopg.errors.CannotConnectNow

    pool = make_pool(api, postgres, kind, configure)
    api.run(pool.open(wait=True))
    assert len(calls) == 2
    assert api.row_of_pool(pool, "select 1") == (1,)
    api.run(pool.close())


@both
def test_a_timeout_names_configure(api: Api, postgres: Postgres, kind: str) -> None:
    """If configure keeps failing, the timeout says so and does not call it a failed connection."""

    def configure(_: Any) -> None:
        raise psycopg.errors.CannotConnectNow

    pool = make_pool(api, postgres, kind, configure)
    api.run(pool.open())
    with pytest.raises(psycopg_pool.PoolTimeout) as caught:
        api.run(pool.getconn(timeout=2))
    api.run(pool.close())
    assert "configure raised CannotConnectNow" in str(caught.value)
    assert "connection failed" not in str(caught.value)
    assert isinstance(caught.value, azpg.ConnectError)
    assert caught.value.kind == "pool-timeout"


@both
def test_an_open_transaction_is_permanent(api: Api, postgres: Postgres, kind: str) -> None:
    """A configure that does not commit is an error, as in psycopg_pool, and is named."""

    def configure(conn: Any) -> None:
        conn.pgconn.exec_(b"begin")

    pool = make_pool(api, postgres, kind, configure)
    with pytest.raises(azpg.ConnectError, match="INTRANS") as caught:
        api.run(pool.open(wait=True))
    assert caught.value.kind == "configure"
    api.run(pool.close())


def test_a_permanent_failure_that_no_client_gets_is_logged_once(
    api: Api, postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a client the log tells it, once for all workers, and not that 300 s have passed."""
    pool = make_pool(api, postgres, "pool", register_vector, min_size=3)
    with caplog.at_level(logging.WARNING):
        api.run(pool.open())
        deadline = time.monotonic() + 30
        while pool.get_stats()["pool_size"]:
            assert time.monotonic() < deadline
    api.run(pool.close())
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1, messages
    assert "VectorError" in messages[0]


def test_a_canceled_callback_costs_no_worker(postgres: Postgres) -> None:
    """If configure awaits what another task cancels, the attempt is retried, and no task ends."""
    calls: list[int] = []

    async def configure(_: Any) -> None:
        calls.append(1)
        if len(calls) <= WORKERS + 1:
            raise asyncio.CancelledError

    async def main() -> None:
        kwargs = {"host": postgres.socket, "user": "admin", "password": "x", "dbname": "postgres"}
        pool: Any = azpg.AsyncConnectionPool(
            kwargs=kwargs, min_size=1, num_workers=WORKERS, configure=configure, open=False
        )
        await pool.open(wait=True)
        assert (await pool.getconn()).closed is False
        await pool.close()

    asyncio.run(main())
    assert len(calls) == WORKERS + 2
