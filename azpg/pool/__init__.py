"""Connection pools: create_pool(), create_pool_async() and the pool classes."""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_origin, overload

import psycopg
import psycopg_pool
from psycopg.rows import Row

from azpg._conninfo.options import OPTION_NAMES, PSYCOPG_OPTIONS, hide_secrets
from azpg._tracebacks import redact_exception
from azpg.abc import UNSET
from azpg.connection import AsyncConnection, Connection
from azpg.errors import ConfigError

from ._arguments import check_connection_class, merge_kwargs
from ._base import CLOSE_TIMEOUT_SECONDS
from ._errors import (
    PoolConnectError,
    PoolConnectTimeoutError,
    PoolCredentialError,
    PoolLoginError,
    PoolTLSError,
    PoolUnreachableError,
)
from ._null import AsyncNullConnectionPool, NullConnectionPool
from ._pools import AsyncConnectionPool, ConnectionPool

if TYPE_CHECKING:
    from psycopg.abc import AdaptContext, ConnParam
    from psycopg.rows import AsyncRowFactory, RowFactory
    from psycopg_pool.abc import (
        AsyncConnectFailedCB,
        AsyncConnectionCB,
        AsyncConninfoParam,
        AsyncKwargsParam,
        ConnectFailedCB,
        ConnectionCB,
        ConninfoParam,
        KwargsParam,
    )

    from azpg._clouds import Cloud
    from azpg.abc import AsyncPassword, Credential, Password, PrepareThreshold, SyncCredential

__all__ = [
    "AsyncConnectionPool",
    "AsyncNullConnectionPool",
    "ConnectionPool",
    "NullConnectionPool",
    "PoolConnectError",
    "PoolConnectTimeoutError",
    "PoolCredentialError",
    "PoolLoginError",
    "PoolTLSError",
    "PoolUnreachableError",
    "create_pool",
    "create_pool_async",
]

P = TypeVar("P", bound=ConnectionPool[Any])
AP = TypeVar("AP", bound=AsyncConnectionPool[Any])
C = TypeVar("C", bound=Connection[Any])
AC = TypeVar("AC", bound=AsyncConnection[Any])

# For type checkers, the type parameter of a pool is psycopg.Connection: the parameter of
# psycopg_pool's classes is invariant, and code that accepts a pool names psycopg's class.


@overload
def create_pool(
    conninfo: ConninfoParam = "",
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
    kwargs: KwargsParam | None = None,
    connection_class: None = None,
    pool_class: None = None,
    min_size: int | None = None,
    max_size: int | None = None,
    open: bool = True,  # psycopg_pool's name
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
    **keywords: ConnParam,
) -> ConnectionPool[psycopg.Connection[Row]]: ...


@overload
def create_pool(conninfo: ConninfoParam = "", *, pool_class: type[P], **options: Any) -> P: ...


@overload
def create_pool(
    conninfo: ConninfoParam = "", *, connection_class: type[C], **options: Any
) -> ConnectionPool[C]: ...


def create_pool(
    conninfo: ConninfoParam = "",
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
    kwargs: KwargsParam | None = None,
    connection_class: type[Connection[Any]] | None = None,
    pool_class: type[ConnectionPool[Any]] | None = None,
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
    **keywords: ConnParam,
) -> ConnectionPool[Any]:
    """Return a connection pool that acquires a valid token for each new connection.

    By default the pool is open and has `min_size` connections when it is returned. Transient
    failures are retried with exponential backoff; permanent ones are raised at once.

    Args:
        conninfo: Connection string of libpq, as key/value pairs or as a URI, or a function that
            returns one before each new connection.
        server: Name of the server, for example "myserver" or its full host name.
        credential: An azure-identity credential, or a function that returns one or the text of a
            token. Default: one `DefaultAzureCredential` per process.
        client_id: Client ID of the managed or workload identity that the default credential uses.
        password: Password of a PostgreSQL role, instead of Microsoft Entra: text, or a function
            that is called for each new connection.
        pgbouncer: True connects to PgBouncer (port 6432, no prepared statements). Default: the
            port decides.
        cloud: An `azpg.Cloud` or its name. Default: the cloud of the host.
        autocommit: Whether each statement is its own transaction.
        prepare_threshold: Executions of a query before psycopg prepares it; None for never.
            Default: 5, or None with PgBouncer.
        context: psycopg adapters of the connections.
        row_factory: Function that makes the rows, such as `psycopg.rows.dict_row`.
        cursor_factory: Class of the cursors.
        kwargs: Further arguments of `azpg.connect`, as psycopg_pool's pools take them: a dict, or a
            function that returns one before each new connection.
        connection_class: Class of the connections: your own subclass of `azpg.Connection`. Default:
            `azpg.Connection`.
        pool_class: Class of the pool: `azpg.NullConnectionPool`, which keeps no connections, or
            your own subclass of an azpg pool class. Default: `azpg.ConnectionPool`.
        min_size: Connections that the pool keeps. Default: 4, or 0 in a null pool.
        max_size: Maximum number of connections. Default: `min_size`, or unlimited in a null pool.
        open: Whether to open the pool and wait for `min_size` connections. With False nothing
            connects until `pool.open()` or `with pool`.
        configure: Function called with each new connection.
        check: Function called with a connection before the pool hands it out; to discard the
            connection it raises. Without it azpg still checks whether the server has closed the
            connection.
        reset: Function called with each connection that is returned to the pool.
        name: Name of the pool in logs and threads.
        close_returns: Whether `conn.close()` returns the connection to the pool.
        timeout: Seconds that a client waits for a connection, and `create_pool` for `min_size`
            connections.
        max_waiting: Maximum number of clients that wait at a time; 0 for unlimited.
        max_lifetime: Seconds after which a connection is replaced. It may outlive its token: the
            server checks a token only when a client connects.
        max_idle: Seconds after which an unused connection above `min_size` is closed.
        reconnect_timeout: Seconds that the pool retries one connection before it calls
            `reconnect_failed`.
        reconnect_failed: Function called with the pool if it cannot connect for
            `reconnect_timeout` seconds.
        num_workers: Number of threads that make and close connections.
        **keywords: Further keywords of libpq, such as `dbname`, which take precedence over
            `conninfo`. There is no `retry_timeout`: use `timeout` and `reconnect_timeout`.

    Returns:
        The pool, which is also a `psycopg_pool.ConnectionPool`.

    Raises:
        ConfigError: The arguments are invalid or contradict each other; it lists every problem.
        ConnectError: A permanent failure, as one of its subclasses, such as `LoginError`; or there
            are fewer than `min_size` connections after `timeout` seconds; a failed connection is
            its `__cause__`. It is a `psycopg_pool.PoolTimeout` too.

    >>> with azpg.create_pool(server="myserver", dbname="mydb", max_size=10) as pool:
    ...     with pool.connection() as conn:
    ...         conn.execute("select 1").fetchone()
    (1,)
    """
    handled = sys.exception()
    pool: ConnectionPool[Any] | None = None
    try:
        arguments = _pool_arguments(locals(), is_async=False)
        # Error reports show the variables of this frame
        conninfo, password, kwargs, keywords = "", None, None, {}
        made_class: type[ConnectionPool[Any]] = pool_class or ConnectionPool
        pool = made_class(open=False, **arguments)
        if open:
            _open_and_wait(pool, timeout)
    except BaseException as error:
        conninfo, password, kwargs, keywords, arguments, pool = "", None, None, {}, {}, None
        redact_exception(error, handled)
        raise
    return pool


@overload
def create_pool_async(
    conninfo: AsyncConninfoParam = "",
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
    kwargs: AsyncKwargsParam | None = None,
    connection_class: None = None,
    pool_class: None = None,
    min_size: int | None = None,
    max_size: int | None = None,
    open: bool = True,  # psycopg_pool's name
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
    **keywords: ConnParam,
) -> AsyncConnectionPool[psycopg.AsyncConnection[Row]]: ...


@overload
def create_pool_async(
    conninfo: AsyncConninfoParam = "", *, pool_class: type[AP], **options: Any
) -> AP: ...


@overload
def create_pool_async(
    conninfo: AsyncConninfoParam = "", *, connection_class: type[AC], **options: Any
) -> AsyncConnectionPool[AC]: ...


def create_pool_async(
    conninfo: AsyncConninfoParam = "",
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
    kwargs: AsyncKwargsParam | None = None,
    connection_class: type[AsyncConnection[Any]] | None = None,
    pool_class: type[AsyncConnectionPool[Any]] | None = None,
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
    **keywords: ConnParam,
) -> AsyncConnectionPool[Any]:
    """Return an async connection pool that acquires a valid token for each new connection.

    `async with` and `await` open the pool and return when `min_size` connections are made.
    Transient failures are retried with exponential backoff; permanent ones are raised at once.
    Call it in a coroutine: the pool belongs to the running event loop.

    Args:
        conninfo: Connection string of libpq, as key/value pairs or as a URI, or a function that
            returns one before each new connection.
        server: Name of the server, for example "myserver" or its full host name.
        credential: An azure-identity credential, or a function that returns one or the text of a
            token. Default: one `DefaultAzureCredential` per process. It may be async.
        client_id: Client ID of the managed or workload identity that the default credential uses.
        password: Password of a PostgreSQL role, instead of Microsoft Entra: text, or a function
            that is called for each new connection. The function may be async.
        pgbouncer: True connects to PgBouncer (port 6432, no prepared statements). Default: the
            port decides.
        cloud: An `azpg.Cloud` or its name. Default: the cloud of the host.
        autocommit: Whether each statement is its own transaction.
        prepare_threshold: Executions of a query before psycopg prepares it; None for never.
            Default: 5, or None with PgBouncer.
        context: psycopg adapters of the connections.
        row_factory: Function that makes the rows, such as `psycopg.rows.dict_row`.
        cursor_factory: Class of the cursors.
        kwargs: Further arguments of `azpg.connect_async`, as psycopg_pool's pools take them: a
            dict, or a function, sync or async, that returns one before each new connection.
        connection_class: Class of the connections: your own subclass of `azpg.AsyncConnection`.
            Default: `azpg.AsyncConnection`.
        pool_class: Class of the pool: `azpg.AsyncNullConnectionPool`, which keeps no
            connections, or your own subclass of an azpg pool class. Default:
            `azpg.AsyncConnectionPool`.
        min_size: Connections that the pool keeps. Default: 4, or 0 in a null pool.
        max_size: Maximum number of connections. Default: `min_size`, or unlimited in a null pool.
        open: Whether `async with` and `await` wait for `min_size` connections. With False
            `async with` opens the pool without waiting, and `await` does not open it.
        configure: Async function called with each new connection.
        check: Async function called with a connection before the pool hands it out; to discard the
            connection it raises. Without it azpg still checks whether the server has closed the
            connection.
        reset: Async function called with each connection that is returned to the pool.
        name: Name of the pool in logs and threads.
        close_returns: Whether `conn.close()` returns the connection to the pool.
        timeout: Seconds that a client waits for a connection, and `async with` and `await` for
            `min_size` connections.
        max_waiting: Maximum number of clients that wait at a time; 0 for unlimited.
        max_lifetime: Seconds after which a connection is replaced. It may outlive its token: the
            server checks a token only when a client connects.
        max_idle: Seconds after which an unused connection above `min_size` is closed.
        reconnect_timeout: Seconds that the pool retries one connection before it calls
            `reconnect_failed`.
        reconnect_failed: Async function called with the pool if it cannot connect for
            `reconnect_timeout` seconds.
        num_workers: Number of tasks that make and close connections.
        **keywords: Further keywords of libpq, such as `dbname`, which take precedence over
            `conninfo`. There is no `retry_timeout`: use `timeout` and `reconnect_timeout`.

    Returns:
        The pool, which is also a `psycopg_pool.AsyncConnectionPool`. It is not open yet.

    Raises:
        ConfigError: The arguments are invalid or contradict each other; it lists every problem.
        ConnectError: (`async with`, `await`) A permanent failure, as one of its subclasses, such
            as `LoginError`; or there are fewer than `min_size` connections after `timeout` seconds;
            a failed connection is its `__cause__`. It is a `psycopg_pool.PoolTimeout` too.

    >>> async with azpg.create_pool_async(server="myserver", dbname="mydb") as pool:
    ...     async with pool.connection() as conn:
    ...         await (await conn.execute("select 1")).fetchone()
    (1,)
    """
    handled = sys.exception()
    try:
        arguments = _pool_arguments(locals(), is_async=True)
        # Error reports show the variables of this frame
        conninfo, password, kwargs, keywords = "", None, None, {}
        made_class: type[AsyncConnectionPool[Any]] = pool_class or AsyncConnectionPool
        pool = made_class(open=False, **arguments)
        pool._awaits_connections = open  # noqa: SLF001  # azpg's own class
    except BaseException as error:
        conninfo, password, kwargs, keywords, arguments = "", None, None, {}, {}
        redact_exception(error, handled)
        raise
    return pool


_POOL_PARAMETERS = frozenset(inspect.signature(psycopg_pool.ConnectionPool).parameters) - {"kwargs"}


def _pool_arguments(arguments: dict[str, Any], *, is_async: bool) -> dict[str, Any]:
    """Return the pool class's arguments for those of create_pool(), or raise `ConfigError`."""
    required = AsyncConnectionPool if is_async else ConnectionPool
    _check_pool_class(arguments["pool_class"] or required, required)
    connection_class = arguments["connection_class"]
    if connection_class is None:
        connection_class = AsyncConnection if is_async else Connection
    check_connection_class(connection_class, is_async=is_async)
    # The defaults are the same in create_pool_async()
    defaults = cast("dict[str, Any]", create_pool.__kwdefaults__)
    options = {k: v for k, v in arguments.items() if k in {*OPTION_NAMES, *PSYCOPG_OPTIONS}}
    given = {k: v for k, v in options.items() if v is not defaults[k]}
    conninfo, kwargs = merge_kwargs(
        arguments["conninfo"],
        given | arguments["keywords"],
        arguments["kwargs"],
        connection_class,
        is_async=is_async,
    )
    pool = {k: v for k, v in arguments.items() if k in _POOL_PARAMETERS - {"open"}}
    pool |= {"conninfo": conninfo, "kwargs": kwargs, "connection_class": connection_class}
    # If the pool class raises, the traceback shows create_pool()'s frame
    return hide_secrets(pool, known=_POOL_PARAMETERS - {"conninfo"})


def _check_pool_class(pool_class: object, required: type) -> None:
    """Raise `ConfigError` if a class is not `required` or a subclass of it."""
    cls = get_origin(pool_class) or pool_class
    if isinstance(cls, type) and issubclass(cls, required):
        return
    name = getattr(cls, "__name__", type(cls).__name__)
    fix = f"leave it out, or write class {name}(azpg.{required.__name__}): …"
    if isinstance(cls, type) and cls.__module__.partition(".")[0] in {"azpg", "psycopg_pool"}:
        null = "Null" if "Null" in name else ""
        fix = f"pass azpg.{required.__name__.replace('Connection', f'{null}Connection')}"
    raise ConfigError(f"pool_class={name} is not a subclass of azpg.{required.__name__}: {fix}")


def _open_and_wait(pool: ConnectionPool[Any], timeout: float) -> None:
    """Open a pool and wait for `min_size` connections."""
    try:
        pool.open(wait=True, timeout=timeout)
    except psycopg.Error:
        raise  # the pool has closed itself
    except BaseException:
        pool.close(CLOSE_TIMEOUT_SECONDS)
        raise
