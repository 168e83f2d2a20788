"""A pool behind a PgBouncer that accepts clients while it cannot reach its server."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import psycopg
import psycopg_pool
import pytest
from fix_pools import make, terminate
from psycopg import waiting

import azpg
from azpg._deadline import STOP_CHECK_SECONDS, Deadline, Stopped
from azpg.pool._round_trip import round_trip

if TYPE_CHECKING:
    from fix_api import Api
    from fix_servers import Postgres

    from azpg.emulator import Emulator


@pytest.mark.parametrize("kind", ["pool", "null"])
def test_no_client_gets_a_connection_that_does_not_work(
    api: Api, azure: Emulator, kind: str
) -> None:
    """After a connection broke in use, a new one counts only after it has answered."""
    pool_class: Any = api.pool_class
    size: dict[str, Any] = {"min_size": 1}
    if kind == "null":
        pool_class = azpg.NullConnectionPool if api.kind == "sync" else azpg.AsyncNullConnectionPool
        size = {"max_size": 1}
    azure.restart_pgbouncer()  # so that it has no idle connection
    pool = make(api, pool_class=pool_class, kwargs={"pgbouncer": True}, **size)
    api.run(pool.open(wait=True))
    conn = api.run(pool.getconn())
    (pid,) = api.row(conn, "select pg_backend_pid()")
    try:
        terminate(api, {pid})
        with azure.slots_used_up():
            with pytest.raises(psycopg.OperationalError):
                api.run(conn.execute("select 1"))
            api.run(pool.putconn(conn))
            with pytest.raises(psycopg_pool.PoolTimeout) as caught:
                api.run(pool.getconn(timeout=6))
            assert isinstance(caught.value, azpg.ConnectError)
    finally:
        azure.restart_pgbouncer()  # it leaves the server alone for 15 s otherwise
    assert api.row_of_pool(pool, "select 1") == (1,)
    api.run(pool.close())


@pytest.mark.parametrize("end", ["time", "closed", "broken"])
def test_the_check_of_a_new_connection_ends(api: Api, postgres: Postgres, end: str) -> None:
    """It ends if the server does not answer in time, the pool closes or the connection breaks."""
    wait: Any = waiting.wait if api.kind == "sync" else waiting.wait_async
    seconds = 20.0 if end == "broken" else 0.3
    conn = psycopg.connect(host=postgres.socket, user="admin", dbname="postgres")
    pid = conn.info.backend_pid
    started = time.monotonic()
    deadline = Deadline(started + seconds, seconds, "timeout", lambda: end == "closed")
    os.kill(pid, signal.SIGTERM if end == "broken" else signal.SIGSTOP)
    try:
        with pytest.raises(Stopped if end == "closed" else psycopg.OperationalError):
            api.run(wait(round_trip(conn.pgconn, deadline), conn.pgconn.socket, STOP_CHECK_SECONDS))
    finally:
        conn.pgconn.finish()
        if end != "broken":
            os.kill(pid, signal.SIGCONT)
    assert time.monotonic() - started < 3
