"""What a framework writes around azpg keeps its types; checked by mypy and pyright, never run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, assert_type

import psycopg
import psycopg_pool
from azure.identity import DefaultAzureCredential
from psycopg.rows import DictRow, TupleRow, dict_row, namedtuple_row
from psycopg.rows import Row as PsycopgRow

import azpg

Row = TypeVar("Row")
Tuple = tuple[Any, ...]
Dict = dict[str, Any]
DictPool = psycopg_pool.ConnectionPool[psycopg.Connection[DictRow]]
AsyncDictPool = psycopg_pool.AsyncConnectionPool[psycopg.AsyncConnection[DictRow]]


class Tenant(azpg.Connection[TupleRow]):
    """A framework's own connection."""

    def use(self, tenant: str) -> None:
        """Work for a tenant."""
        self.execute("select set_config('app.tenant', %s, false)", [tenant])


class AsyncTenant(azpg.AsyncConnection[TupleRow]):
    """A framework's own async connection."""

    async def use(self, tenant: str) -> None:
        """Work for a tenant."""
        await self.execute("select set_config('app.tenant', %s, false)", [tenant])


class Generic(azpg.Connection[PsycopgRow]):
    """A framework's own connection with any rows."""


class Pool(azpg.ConnectionPool[azpg.Connection[TupleRow]]):
    """A framework's own pool."""


class AsyncPool(azpg.AsyncConnectionPool[azpg.AsyncConnection[TupleRow]]):
    """A framework's own async pool."""


def subclasses() -> None:
    """connect() of a subclass returns it, and its cursors have its rows."""
    conn = Tenant.connect(server="myserver")
    assert_type(conn, Tenant)
    conn.use("north")
    assert_type(conn.execute("select 1").fetchone(), Tuple | None)
    with Tenant.connect(server="myserver") as entered:
        assert_type(entered, Tenant)


def rows_of_subclasses() -> None:
    """Name the rows of a subclass, and its cursors have them."""
    conn = Generic[DictRow].connect(server="myserver", row_factory=dict_row)
    assert_type(conn, Generic[DictRow])
    assert_type(conn.execute("select 1").fetchone(), Dict | None)
    pool = azpg.create_pool(connection_class=Generic[DictRow], row_factory=dict_row)
    assert_type(pool, azpg.ConnectionPool[Generic[DictRow]])


async def async_subclasses() -> None:
    """The async twin does."""
    conn = await AsyncTenant.connect(server="myserver")
    assert_type(conn, AsyncTenant)
    await conn.use("north")
    assert_type(await (await conn.execute("select 1")).fetchall(), list[Tuple])


def pools_of_subclasses() -> None:
    """A pool gives what its connection class makes."""
    pool = azpg.ConnectionPool(connection_class=Tenant, kwargs={"server": "myserver"}, open=False)
    assert_type(pool, azpg.ConnectionPool[Tenant])
    with pool.connection() as conn:
        assert_type(conn, Tenant)
    assert_type(azpg.create_pool(server="myserver", pool_class=Pool), Pool)
    tenants = azpg.create_pool(server="myserver", connection_class=Tenant, min_size=1)
    assert_type(tenants, azpg.ConnectionPool[Tenant])
    null = azpg.create_pool(pool_class=azpg.NullConnectionPool[psycopg.Connection[Dict]])
    assert_type(null, azpg.NullConnectionPool[psycopg.Connection[Dict]])


async def async_pools_of_subclasses() -> None:
    """The async twin does."""
    pool = azpg.AsyncConnectionPool(connection_class=AsyncTenant, open=False)
    assert_type(pool, azpg.AsyncConnectionPool[AsyncTenant])
    async with pool.connection() as conn:
        assert_type(conn, AsyncTenant)


def cursors() -> None:
    """Cursors have the connection's rows, or those of a factory of their own."""
    conn = azpg.connect(server="myserver", row_factory=dict_row)
    assert_type(conn.cursor(), psycopg.Cursor[dict[str, Any]])
    assert_type(conn.cursor("named"), psycopg.ServerCursor[dict[str, Any]])
    assert_type(conn.cursor(row_factory=namedtuple_row).fetchone() is None, bool)
    for row in conn.execute("select 1"):
        assert_type(row, dict[str, Any])


def takes_psycopg(conn: psycopg.Connection[Row]) -> Row | None:
    """Stand for code that knows psycopg alone."""
    return conn.execute("select 1").fetchone()


def as_psycopg() -> None:
    """What azpg makes goes wherever psycopg's does, with its rows."""
    conn = azpg.connect(server="myserver", row_factory=dict_row)
    assert_type(takes_psycopg(conn), dict[str, Any] | None)


# psycopg's own types as annotations, as programs and libraries have them


def saver(conn: psycopg.Connection[DictRow] | DictPool, pipe: object = None) -> None:
    """Stand for a library that takes a connection or pool with rows of one type."""


async def async_saver(conn: psycopg.AsyncConnection[DictRow] | AsyncDictPool) -> None:
    """Stand for its async twin."""


async def open_async(pool: psycopg_pool.AsyncConnectionPool | None = None) -> None:
    """Stand for a library that takes any async pool."""


def open_sync(pool: psycopg_pool.ConnectionPool) -> None:
    """Stand for a library that takes any pool."""


def configure(conn: azpg.Connection[Any]) -> None:
    """Stand for a callback that is annotated with azpg's class."""


def configure_psycopg(conn: psycopg.Connection[Any]) -> None:
    """Stand for a callback that is annotated with psycopg's class."""


async def configure_async(conn: azpg.AsyncConnection[Any]) -> None:
    """Stand for the async callback."""


def reconnect_failed(pool: psycopg_pool.ConnectionPool[Any]) -> None:
    """Stand for a callback of a pool."""


def pools_as_psycopg() -> None:
    """A pool goes wherever psycopg_pool's does, with its rows, and into azpg's own annotation."""
    saver(azpg.create_pool(server="myserver", row_factory=dict_row))
    saver(azpg.connect(server="myserver", row_factory=dict_row))
    open_sync(azpg.create_pool(server="myserver"))
    open_sync(azpg.ConnectionPool("", kwargs={"server": "myserver"}, open=False))
    open_sync(azpg.create_pool(pool_class=azpg.NullConnectionPool))
    pool: psycopg_pool.ConnectionPool = azpg.create_pool(server="myserver")
    own: azpg.ConnectionPool = azpg.create_pool(server="myserver")
    rows: psycopg_pool.ConnectionPool[psycopg.Connection[Dict]] = azpg.create_pool(
        row_factory=dict_row
    )
    for each in (pool, own, rows):
        each.close()
    azpg.create_pool(configure=configure, check=configure, reset=configure)
    azpg.create_pool(configure=configure_psycopg, check=azpg.ConnectionPool.check_connection)
    azpg.create_pool(reconnect_failed=reconnect_failed)
    saver(azpg.create_pool(kwargs={"server": "myserver"}, row_factory=dict_row))
    azpg.create_pool(lambda: "dbname=mydb", kwargs=lambda: {"server": "myserver"})


async def async_pools_as_psycopg() -> None:
    """The async twin does."""
    await async_saver(azpg.create_pool_async(server="myserver", row_factory=dict_row))
    await open_async(azpg.create_pool_async(server="myserver"))
    opened = await azpg.create_pool_async(server="myserver")
    await open_async(opened)
    pool: psycopg_pool.AsyncConnectionPool = azpg.create_pool_async(server="myserver")
    own: azpg.AsyncConnectionPool = azpg.create_pool_async(server="myserver")
    for each in (pool, own):
        await each.close()
    azpg.create_pool_async(configure=configure_async, check=configure_async)
    assert_type(azpg.create_pool_async(pool_class=AsyncPool), AsyncPool)


def a_framework(
    server: str,
    *,
    credential: DefaultAzureCredential | None = None,
    password: Callable[[], str] | None = None,
    cloud: azpg.Cloud | None = None,
) -> azpg.Connection[dict[str, Any]]:
    """Pass on what is injected, None too."""
    return azpg.connect(
        server=server,
        credential=credential,
        password=password,
        cloud=cloud,
        row_factory=dict_row,
        prepare_threshold=None,
    )
