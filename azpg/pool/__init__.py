"""create_pool() and create_pool_async(): a pool whose every new connection signs in freshly."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, cast, get_origin

import psycopg
import psycopg_pool
from psycopg.rows import Row

from azpg._conninfo.options import hide_secrets
from azpg.abc import UNSET
from azpg.connection import AsyncConnection, Connection
from azpg.errors import ConfigError, clean

from ._options import judged
from ._pools import AsyncConnectionPool, AsyncNullConnectionPool, ConnectionPool, NullConnectionPool

if TYPE_CHECKING:
    from psycopg.abc import AdaptContext, ConnParam
    from psycopg.rows import AsyncRowFactory, RowFactory
    from psycopg_pool.abc import (
        AsyncConnectFailedCB,
        AsyncConnectionCB,
        ConnectFailedCB,
        ConnectionCB,
    )

    from azpg._clouds import Cloud
    from azpg.abc import AsyncPassword, Credential, Password, PrepareThreshold, SyncCredential

__all__ = [
    "AsyncConnectionPool",
    "AsyncNullConnectionPool",
    "ConnectionPool",
    "NullConnectionPool",
    "create_pool",
    "create_pool_async",
]


def create_pool(
    conninfo: str = "",
    *,
    server: str | None = None,
    credential: SyncCredential | None = None,
    client_id: str | None = None,
    password: Password | None = None,
    pgbouncer: bool | None = None,
    cloud: Cloud | str | None = None,
    autocommit: bool = False,
    prepare_threshold: PrepareThreshold = UNSET,
    context: AdaptContext | None = None,
    row_factory: RowFactory[Row] | None = None,
    cursor_factory: type[psycopg.Cursor[Row]] | None = None,
    pool_class: type[ConnectionPool[Any]] = ConnectionPool,
    min_size: int | None = None,
    max_size: int | None = None,
    open: bool = True,  # noqa: A002  # psycopg_pool's name
    configure: ConnectionCB[Connection[Row]] | None = None,
    check: ConnectionCB[Connection[Row]] | None = None,
    reset: ConnectionCB[Connection[Row]] | None = None,
    name: str | None = None,
    close_returns: bool = False,
    timeout: float = 30.0,
    max_waiting: int = 0,
    max_lifetime: float = 3600.0,
    max_idle: float = 600.0,
    reconnect_timeout: float = 300.0,
    reconnect_failed: ConnectFailedCB | None = None,
    num_workers: int = 3,
    **kwargs: ConnParam,
) -> ConnectionPool[Connection[Row]]:
    """Return a pool whose every new connection signs in freshly, so that it outlives any token.

    The options of the connection are those of `azpg.connect`, without `retry_timeout`, as a pool
    tries again by itself; the others are psycopg_pool's, all times in seconds. The pool is
    returned when `min_size` connections are made, by default 4; `open=False` connects nothing yet.
    `pool_class` is one of ConnectionPool's kind: `azpg.NullConnectionPool`, which keeps no
    connection (`min_size` is 0), or one of your own.

    Raise `ConfigError` for a call that cannot be meant, `ConnectError` or one of its kinds for a
    failure that no further try can mend, psycopg_pool's `PoolTimeout` with its cause when there
    are no `min_size` connections within `timeout`.

    >>> with azpg.create_pool(server="myserver", dbname="mydb", max_size=10) as pool:
    ...     with pool.connection() as conn:
    ...         conn.execute("select 1").fetchone()
    (1,)
    """
    try:
        options = _options(locals(), is_async=False)
    finally:
        del conninfo, password, kwargs  # an error's traceback shows this frame
    _check_pool_class(pool_class, ConnectionPool)
    connection_class = cast("type[Connection[Row]]", Connection)
    pool = pool_class(connection_class=connection_class, open=False, **options)
    error = _open(pool, timeout) if open else None
    del options
    if error is None:
        return pool
    del pool
    raise error


def create_pool_async(
    conninfo: str = "",
    *,
    server: str | None = None,
    credential: Credential | None = None,
    client_id: str | None = None,
    password: AsyncPassword | None = None,
    pgbouncer: bool | None = None,
    cloud: Cloud | str | None = None,
    autocommit: bool = False,
    prepare_threshold: PrepareThreshold = UNSET,
    context: AdaptContext | None = None,
    row_factory: AsyncRowFactory[Row] | None = None,
    cursor_factory: type[psycopg.AsyncCursor[Row]] | None = None,
    pool_class: type[AsyncConnectionPool[Any]] = AsyncConnectionPool,
    min_size: int | None = None,
    max_size: int | None = None,
    open: bool = True,  # noqa: A002  # psycopg_pool's name
    configure: AsyncConnectionCB[AsyncConnection[Row]] | None = None,
    check: AsyncConnectionCB[AsyncConnection[Row]] | None = None,
    reset: AsyncConnectionCB[AsyncConnection[Row]] | None = None,
    name: str | None = None,
    close_returns: bool = False,
    timeout: float = 30.0,
    max_waiting: int = 0,
    max_lifetime: float = 3600.0,
    max_idle: float = 600.0,
    reconnect_timeout: float = 300.0,
    reconnect_failed: AsyncConnectFailedCB | None = None,
    num_workers: int = 3,
    **kwargs: ConnParam,
) -> AsyncConnectionPool[AsyncConnection[Row]]:
    """Return an async pool whose every new connection signs in freshly: `await` it, or enter it.

    The options are those of `azpg.create_pool`; `credential` and `password` may be async too.
    `await` and `async with` wait until `min_size` connections are made; with `open=False` they
    wait for none, and `await` opens nothing.

    Raise `ConfigError` for a call that cannot be meant; `await` and `async with` raise
    `ConnectError` or one of its kinds for a failure that no further try can mend, and
    psycopg_pool's `PoolTimeout` with its cause when there are no `min_size` connections within
    `timeout`.

    >>> async with azpg.create_pool_async(server="myserver", dbname="mydb") as pool:
    ...     async with pool.connection() as conn:
    ...         await (await conn.execute("select 1")).fetchone()
    (1,)
    """
    try:
        options = _options(locals(), is_async=True)
    finally:
        del conninfo, password, kwargs  # as above
    _check_pool_class(pool_class, AsyncConnectionPool)
    connection_class = cast("type[AsyncConnection[Row]]", AsyncConnection)
    pool = pool_class(connection_class=connection_class, open=False, **options)
    pool._awaits_connections = open  # noqa: SLF001  # the class is azpg's
    return pool


_POOL_OPTIONS = frozenset(inspect.signature(psycopg_pool.ConnectionPool).parameters) - {"kwargs"}


def _options(given: dict[str, Any], *, is_async: bool) -> dict[str, Any]:
    """Return the pool class's own options for those of create_pool, once they can be meant."""
    keywords: dict[str, object] = given.pop("kwargs")
    del given["pool_class"]
    connection = {name: value for name, value in given.items() if name not in _POOL_OPTIONS}
    error: psycopg.Error | None = None
    try:
        judged(given["conninfo"], connection | keywords, is_async=is_async)
    except psycopg.Error as ex:
        error = clean(ex)
    if "retry_timeout" in keywords:
        error = ConfigError(
            "retry_timeout is for connect(): a pool tries again by itself, for reconnect_timeout "
            "seconds"
        )
    if error is not None:
        del given, keywords, connection
        raise error
    pool = {name: value for name, value in given.items() if name in _POOL_OPTIONS - {"open"}}
    kwargs = {name: value for name, value in connection.items() if value is not UNSET} | keywords
    # The pool's class may refuse them, and its error shows create_pool's own frame
    return hide_secrets(pool | {"kwargs": kwargs}, known=_POOL_OPTIONS - {"conninfo"})


def _check_pool_class(given: object, right: type) -> None:
    """Raise `ConfigError` for a pool class that is not azpg's, or not of this kind."""
    found = get_origin(given) or given
    if not (isinstance(found, type) and issubclass(found, right)):
        name = getattr(found, "__name__", type(found).__name__)
        raise ConfigError(
            f"pool_class={name} is not a subclass of azpg.{right.__name__}: leave it out, or write "
            f"class {name}(azpg.{right.__name__}): …"
        )


def _open(pool: ConnectionPool[Any], timeout: float) -> psycopg.Error | None:
    """Open a pool and wait until it is full; return what kept it from that."""
    try:
        pool.open(wait=True, timeout=timeout)
    except psycopg.Error as error:
        return error.with_traceback(None)
    except BaseException:
        pool.close()
        raise
    return None
