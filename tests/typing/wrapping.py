"""What a framework writes around azpg keeps its types; checked by mypy and pyright, never run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, assert_type

import psycopg
import psycopg_pool
from azure.identity import DefaultAzureCredential
from psycopg.rows import TupleRow, dict_row, namedtuple_row

import azpg

Row = TypeVar("Row")
Tuple = tuple[Any, ...]


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


class Pool(azpg.ConnectionPool[azpg.Connection[TupleRow]]):
    """A framework's own pool."""


def subclasses() -> None:
    """connect() of a subclass returns it, and its cursors have its rows."""
    conn = Tenant.connect(server="myserver")
    assert_type(conn, Tenant)
    conn.use("north")
    assert_type(conn.execute("select 1").fetchone(), Tuple | None)
    with Tenant.connect(server="myserver") as entered:
        assert_type(entered, Tenant)


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
    assert_type(
        azpg.create_pool(server="myserver", pool_class=Pool),
        azpg.ConnectionPool[azpg.Connection[Tuple]],
    )


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
    pool: psycopg_pool.ConnectionPool[azpg.Connection[Tuple]] = azpg.create_pool(server="myserver")
    pool.close()


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
