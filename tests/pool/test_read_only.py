"""A pool of writable connections whose server becomes read-only, as a fenced primary does."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import psycopg_pool
import pytest
from fix_pools import idle, make, until

import azpg
from azpg.pool._liveness import turned_read_only

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fix_api import Api
    from fix_servers import Postgres

both = pytest.mark.parametrize("kind", ["pool", "null"])


@contextmanager
def fenced(postgres: Postgres) -> Iterator[None]:
    """Make all sessions of a server read-only."""

    def set_read_only(value: str) -> None:
        with psycopg.connect(
            host=postgres.socket, user="admin", dbname="postgres", autocommit=True
        ) as conn:
            conn.execute("set default_transaction_read_only = off")
            conn.execute(f"alter system set default_transaction_read_only = {value}")
            conn.execute("select pg_reload_conf()")
        while True:
            with psycopg.connect(host=postgres.socket, user="admin", dbname="postgres") as conn:
                if conn.info.parameter_status("default_transaction_read_only") == value:
                    return

    try:
        set_read_only("on")
        yield
    finally:
        set_read_only("off")


def open_pool(api: Api, postgres: Postgres, kind: str, **options: Any) -> Any:
    """Open a pool of sessions of its own."""
    pool_class: Any = api.pool_class
    size: dict[str, Any] = {"min_size": 3}
    if kind == "null":
        pool_class = azpg.NullConnectionPool if api.kind == "sync" else azpg.AsyncNullConnectionPool
        size = {"max_size": 1}
    configure = options.pop("configure", None)
    kwargs = {"host": postgres.socket, "user": "admin", "password": "x", "dbname": "postgres"}
    pool = make(api, pool_class=pool_class, kwargs=kwargs | options, configure=configure, **size)
    api.run(pool.open(wait=True))
    return pool


def write(api: Api, pool: Any) -> int:
    """Write by a connection of a pool; return its server process."""
    conn = api.run(pool.getconn(timeout=20))
    try:
        api.run(conn.execute("create temporary table t (number integer) on commit drop"))
        api.run(conn.execute("select nextval('written')"))
        pid: int = conn.info.backend_pid
        api.run(conn.rollback())
        return pid
    finally:
        api.run(pool.putconn(conn))


@pytest.fixture(autouse=True)
def written(postgres: Postgres) -> Iterator[None]:
    """Create what is written to."""
    with psycopg.connect(
        host=postgres.socket, user="admin", dbname="postgres", autocommit=True
    ) as conn:
        conn.execute("create sequence written")
        yield
        conn.execute("drop sequence written")


def test_the_connections_to_a_fenced_server_are_replaced(api: Api, postgres: Postgres) -> None:
    """After one failed write no client gets a session of the fenced server, until it is back."""
    pool = open_pool(api, postgres, "pool", target_session_attrs="read-write")
    before = {write(api, pool) for _ in range(6)}
    with fenced(postgres):
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            write(api, pool)
        for _ in range(2):
            with pytest.raises(psycopg_pool.PoolTimeout):
                api.run(pool.getconn(timeout=0.3))
    until(lambda: idle(pool) == 3)
    assert write(api, pool) not in before
    api.run(pool.close())


def test_a_null_pool_passes_on_no_fenced_connection(api: Api, postgres: Postgres) -> None:
    """A client that waits does not get a session that has turned read-only."""
    pool = open_pool(api, postgres, "null", target_session_attrs="read-write")
    conn = api.run(pool.getconn())
    pid = conn.info.backend_pid
    waiting = api.begin(pool.getconn, 20)
    until(lambda: pool.get_stats()["requests_waiting"])
    with fenced(postgres):
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            api.run(conn.execute("select nextval('written')"))
        api.run(pool.putconn(conn))
    other = waiting.result(30)
    assert other.info.backend_pid != pid
    api.run(pool.putconn(other))
    api.run(pool.close())


@both
def test_a_pool_that_does_not_ask_for_writes_keeps_its_connections(
    api: Api, postgres: Postgres, kind: str
) -> None:
    """Without target_session_attrs a server that is read-only is what the program wanted."""
    pool = open_pool(api, postgres, kind)
    with fenced(postgres):
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            write(api, pool)
        assert api.row_of_pool(pool, "select 1") == (1,)
    api.run(pool.close())


@both
@pytest.mark.parametrize("end", ["closed", "broken"])
def test_a_connection_that_ended_gives_its_slot_back(
    api: Api, postgres: Postgres, kind: str, end: str
) -> None:
    """What the server reported is not asked of a connection that a client closed or broke."""
    pool = open_pool(api, postgres, kind, target_session_attrs="read-write")
    for _ in range(3):  # it has at most three
        conn = api.run(pool.getconn(timeout=20))
        if end == "closed":
            api.run(conn.close())
        else:
            with pytest.raises(psycopg.OperationalError):
                api.run(conn.execute("select pg_terminate_backend(pg_backend_pid())"))
        api.run(pool.putconn(conn))
    assert write(api, pool)
    api.run(pool.close())


def test_a_setting_of_configure_is_no_fence(api: Api, postgres: Postgres) -> None:
    """What the connection reported when it was made is compared, so it is not replaced for ever."""

    def configure(conn: Any) -> None:
        conn.pgconn.exec_(b"set default_transaction_read_only = on")

    async def configure_async(conn: Any) -> None:
        configure(conn)

    function = configure if api.kind == "sync" else configure_async
    pool = open_pool(api, postgres, "pool", target_session_attrs="read-write", configure=function)
    pids = {api.row_of_pool(pool, "select pg_backend_pid()")[0] for _ in range(9)}
    assert len(pids) <= 3
    api.run(pool.close())


class Reported:
    """What a server reports about itself."""

    def __init__(self, *on: bytes) -> None:
        self.on = on
        self.pgconn = self
        self.closed = False

    def parameter_status(self, name: bytes) -> bytes:
        """Return a parameter, as libpq does."""
        return b"on" if name in self.on else b"off"


@pytest.mark.parametrize(
    ("asked", "on", "turned"),
    [
        (2, [], False),
        (2, [b"in_hot_standby"], True),
        (2, [b"default_transaction_read_only"], True),
        (1, [b"in_hot_standby"], True),
        (1, [b"default_transaction_read_only"], False),
    ],
)
def test_a_primary_may_be_read_only(asked: int, on: list[bytes], turned: bool) -> None:
    """read-write looks at both parameters, primary only at in_hot_standby."""
    conn: Any = Reported(*on)
    assert turned_read_only(conn, (False,) * asked) is turned
    assert not turned_read_only(conn, None)
    assert not turned_read_only(conn, (True,) * asked)
