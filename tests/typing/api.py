"""The public API as a caller sees it: checked by mypy and pyright, never run."""

from __future__ import annotations

from typing import Any, assert_type

import psycopg
from azure.identity import DefaultAzureCredential, ManagedIdentityCredential
from azure.identity.aio import DefaultAzureCredential as AsyncDefaultAzureCredential
from psycopg.rows import class_row, dict_row, scalar_row

import azpg

Tuple = tuple[Any, ...]
Dict = dict[str, Any]


class Person:
    """A row of a caller's own."""


def a_callback() -> str:
    """Return a password."""
    return ""


async def an_async_callback() -> str:
    """Return a password."""
    return ""


async def an_async_factory() -> AsyncDefaultAzureCredential:
    """Make a credential."""
    return AsyncDefaultAzureCredential()


def connections() -> None:
    """Row factories decide the types of rows; options have types of their own."""
    conn = azpg.connect(server="myserver", dbname="mydb", connect_timeout=5)
    assert_type(conn, azpg.Connection[Tuple])
    assert_type(conn.execute("select 1").fetchone(), Tuple | None)
    assert_type(azpg.connect(row_factory=dict_row), azpg.Connection[Dict])
    assert_type(azpg.connect(row_factory=class_row(Person)), azpg.Connection[Person])
    assert_type(azpg.connect(row_factory=scalar_row), azpg.Connection[Any])
    azpg.connect(credential=DefaultAzureCredential(), client_id=None, cloud="usgov")
    azpg.connect(credential=ManagedIdentityCredential, cloud=azpg.AZURE_CHINA)
    azpg.connect(credential=a_callback)
    azpg.connect(credential=lambda: a_callback())  # noqa: PLW0108  # as in notebooks
    azpg.connect(password=a_callback, prepare_threshold=None, autocommit=True)
    azpg.connect(password=azpg.EntraPassword(), retry_timeout=180, pgbouncer=True)
    assert_type(azpg.conninfo(server="myserver"), str)


async def async_connections() -> None:
    """The async twin takes async credentials and callbacks too."""
    conn = await azpg.connect_async(server="myserver")
    assert_type(conn, azpg.AsyncConnection[Tuple])
    assert_type(
        await azpg.connect_async(row_factory=dict_row, credential=AsyncDefaultAzureCredential()),
        azpg.AsyncConnection[Dict],
    )
    await azpg.connect_async(password=an_async_callback)
    await azpg.connect_async(credential=an_async_callback)
    await azpg.connect_async(credential=an_async_factory)
    await azpg.connect_async(credential=lambda: an_async_callback())  # noqa: PLW0108
    azpg.create_pool_async(credential=a_callback)
    await azpg.connect_async(password=a_callback)


def pools() -> None:
    """A pool gives connections of the row factory's type, and keeps psycopg_pool's options."""
    pool = azpg.create_pool(server="myserver", min_size=1, max_size=10, max_lifetime=1800)
    assert_type(pool, azpg.ConnectionPool[psycopg.Connection[Tuple]])
    with pool.connection() as conn:
        assert_type(conn, psycopg.Connection[Tuple])
    assert_type(
        azpg.create_pool(row_factory=dict_row),
        azpg.ConnectionPool[psycopg.Connection[Dict]],
    )


async def async_pools() -> None:
    """An async pool is awaited or entered."""
    pool = await azpg.create_pool_async(server="myserver", open=False)
    assert_type(pool, azpg.AsyncConnectionPool[psycopg.AsyncConnection[Tuple]])
    async with azpg.create_pool_async(row_factory=dict_row) as other, other.connection() as conn:
        assert_type(conn, psycopg.AsyncConnection[Dict])


async def tokens() -> None:
    """EntraPassword is a password callback, sync and async."""
    password = azpg.EntraPassword(DefaultAzureCredential(), cloud=azpg.AZURE_PUBLIC, timeout=10)
    azpg.EntraPassword(a_callback)
    azpg.EntraPassword(an_async_callback)
    assert_type(password(), str)
    assert_type(await password.call_async(), str)
    assert_type(password.user(), str)
    assert_type(password.stats().fetched, int)


def mistakes() -> None:
    """What cannot be meant is refused by the checker; each ignore is one that it needs."""
    azpg.connect(pgbouncer="yes")  # type: ignore[arg-type]
    azpg.connect(credential=AsyncDefaultAzureCredential())  # type: ignore[arg-type]
    azpg.connect(password=an_async_callback)  # type: ignore[arg-type]
    azpg.connect(credential=an_async_callback)  # type: ignore[arg-type]
    azpg.connect(credential=lambda: b"bytes")  # type: ignore[arg-type, return-value]
    azpg.create_pool(min_size="2")  # type: ignore[call-overload]
    azpg.create_pool(pool_class=dict)  # type: ignore[type-var]


def explanations() -> None:
    """Any error is explained, and always in the same form."""
    found = azpg.explain(ValueError())
    assert_type(found, azpg.Explanation)
    assert_type(found.kind, str)
    assert_type(found.hint, str)
    assert_type(found.transient, bool)
