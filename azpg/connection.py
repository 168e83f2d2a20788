"""Connection and AsyncConnection, psycopg's own connected by azpg's rules; connect, conninfo."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import AsyncRowFactory, Row, RowFactory

from . import _attempt, _cancel, _deadline, _fork, _spelling
from ._connect import ConnectRequest, check_event_loop
from ._conninfo.options import ConnectOptions
from ._pgbouncer import announcement
from ._tls.roots import shared_path
from ._tracebacks import redact_exception
from .abc import UNSET, Unset

if TYPE_CHECKING:
    from psycopg.abc import AdaptContext, ConnDict, ConnParam, PQGenConn
    from psycopg.pq.abc import PGconn

    from ._clouds import Cloud
    from ._spelling import Spelling
    from .abc import AsyncPassword, Credential, Password, PrepareThreshold, SyncCredential


def _with_sslmode(text: str, pgconn: PGconn) -> str:
    """Add the sslmode to the repr of a connection, if it shows a server."""
    head, bracket, tail = text.rpartition(")")
    try:
        (mode,) = (each.val for each in pgconn.info if each.keyword == b"sslmode")
    except psycopg.OperationalError:  # closed
        return text
    return f"{head} sslmode={mode.decode()}){tail}" if bracket and mode else text


class Connection(psycopg.Connection[Row]):
    """A psycopg connection over verified TLS, authenticated with Microsoft Entra.

    Use it wherever psycopg accepts a connection class. Only `connect()` and `cancel()`, which
    encrypts its request, differ from psycopg's.
    """

    __module__ = "azpg"

    _checked_out_at = math.inf
    """when a pool handed it out, on the monotonic clock"""

    _spelling: ClassVar[Spelling | None] = None
    """how messages spell options, in a class of an integration, which makes this class' objects"""

    @classmethod
    def connect(  # type: ignore[override]  # psycopg takes password and the like as ConnParam
        cls,
        conninfo: str = "",
        *,
        server: str | None = None,
        credential: SyncCredential | None = None,
        client_id: str | None = None,
        password: Password | None = None,
        pgbouncer: bool | None = None,
        cloud: Cloud | str | None = None,
        retry_timeout: float | None = None,
        autocommit: bool = False,
        prepare_threshold: PrepareThreshold = UNSET,
        context: AdaptContext | None = None,
        row_factory: RowFactory[Row] | None = None,
        cursor_factory: type[psycopg.Cursor[Row]] | None = None,
        **kwargs: ConnParam,
    ) -> Self:
        """Open a connection to Azure Database for PostgreSQL.

        Environment variables and service files are read as in libpq. If several sources set the
        same parameter, a keyword argument takes precedence, then `conninfo`, the service file and
        the environment.

        Args:
            conninfo: Connection string of libpq, as key/value pairs or as a URI.
            server: Short name of the server, such as `"myserver"`, or its full name. The server's
                certificate is verified against it. With `server`, `host` is the address to connect
                to, such as the local end of an SSH tunnel.
            credential: An azure-identity credential, or a function that returns one or the text of
                a token. Default: one `DefaultAzureCredential` per process.
            client_id: Client ID of the managed or workload identity that the default credential
                uses.
            password: Password of a PostgreSQL role, instead of Microsoft Entra: text, or a function
                that is called for each new connection.
            pgbouncer: True connects to PgBouncer (port 6432, no prepared statements). Default: the
                port decides.
            cloud: An `azpg.Cloud` or its name. Default: the cloud of the host.
            retry_timeout: Seconds within which transient failures are retried with exponential
                backoff, each with a warning in the log; 0 for a single attempt. Default: 30, or
                `connect_timeout` if you pass a smaller one. Pass 180 in a job: a failover takes 60
                to 120 s, and scaling with near-zero downtime 40 to 60 s
                (https://learn.microsoft.com/azure/postgresql/high-availability/concepts-high-availability,
                https://learn.microsoft.com/azure/postgresql/scale/concepts-scaling-resources,
                2026-11-27).
            autocommit: Whether each statement is its own transaction.
            prepare_threshold: Executions of a query before psycopg prepares it; None for never.
                Default: 5, or None with PgBouncer.
            context: psycopg adapters of the connection.
            row_factory: Function that makes the rows, such as `psycopg.rows.dict_row`.
            cursor_factory: Class of the cursors.
            **kwargs: Further keywords of libpq, such as `dbname`, `user` or `connect_timeout`
                (seconds).

        Returns:
            The new connection.

        Raises:
            ConfigError: The arguments are invalid or contradict each other; it lists every
                problem, and nothing was sent.
            ConnectError: No connection could be made; usually one of its subclasses, such as
                `azpg.LoginError`.

        >>> with azpg.connect(server="myserver", dbname="mydb") as conn:
        ...     conn.execute("select 1").fetchone()
        (1,)
        """
        handled = sys.exception()
        spelling = _spelling.use(cls._spelling)
        made_class = cls if cls._spelling is None else cast("type[Self]", Connection)
        request: ConnectRequest | None = None
        try:
            request = ConnectRequest(
                ConnectOptions(
                    conninfo=conninfo,
                    keywords=kwargs,
                    server=server,
                    credential=credential,
                    client_id=client_id,
                    password=password,
                    pgbouncer=pgbouncer,
                    cloud=cloud,
                    retry_timeout=retry_timeout,
                ),
                is_async=False,
            )
            # Error reports show the variables of this frame
            conninfo, password, kwargs = "", None, {}
            if is_default := isinstance(prepare_threshold, Unset):
                prepare_threshold = request.prepare_threshold
            else:
                request.check_prepare_threshold(prepare_threshold)
            while True:
                try:
                    with request.attempt():
                        conn = super(Connection, made_class).connect(
                            autocommit=autocommit,
                            prepare_threshold=prepare_threshold,
                            context=context,
                            row_factory=row_factory,
                            cursor_factory=cursor_factory,
                            **request.libpq_params(request.login(), request.resolve_hosts()),
                        )
                except psycopg.Error as error:
                    delay = request.handle_failure(error)
                    if delay is None:
                        raise
                else:
                    announced = announcement(conn.pgconn)
                    if is_default and announced and announced.drops_prepared_statements:
                        conn.prepare_threshold = None
                    return _fork.track_connection(conn)
                _deadline.sleep(delay)
        except BaseException as error:
            conninfo, password, kwargs, request = "", None, {}, None
            redact_exception(error, handled)
            raise
        finally:
            _spelling.use(spelling)

    def close(self) -> None:
        """Close the connection, or return it to its pool if that has `close_returns`."""
        if self.closed and (pool := _returns_to(self)):
            pool.putconn(self)
        else:
            super().close()

    def cancel(self) -> None:
        """Cancel the current operation; the request is encrypted as the connection is.

        It takes 5 s at most. Before libpq 17 this is psycopg's own method, which does not encrypt.
        """
        if self._should_cancel():
            _cancel.cancel(self.pgconn, super().cancel)

    def cancel_safe(self, *, timeout: float = 30.0) -> None:
        """Cancel the current operation, as psycopg does, within a time.

        Args:
            timeout: seconds that the request may take.
        """
        handled = sys.exception()
        try:
            super().cancel_safe(timeout=timeout)
        except BaseException as error:
            # psycopg logs the error, and the frames of its traceback hold the request's socket
            redact_exception(error, handled)
            raise

    def __repr__(self) -> str:
        return _with_sslmode(super().__repr__(), self.pgconn)

    @classmethod
    def _get_connection_params(cls, conninfo: str, **kwargs: Any) -> ConnDict:
        # The parameters are complete: psycopg need not parse and merge them again
        if conninfo:
            return super()._get_connection_params(conninfo, **kwargs)
        return {name: value for name, value in kwargs.items() if value is not None}

    @classmethod
    def _connect_gen(cls, conninfo: str = "", **others: Any) -> PQGenConn[Self]:
        return _attempt.connect(super()._connect_gen(conninfo, **others), conninfo)


class AsyncConnection(psycopg.AsyncConnection[Row]):
    """A psycopg async connection over verified TLS, authenticated with Microsoft Entra.

    Use it wherever psycopg accepts a connection class. Only `connect()` and `cancel()`, which
    encrypts its request, differ from psycopg's.
    """

    __module__ = "azpg"

    _checked_out_at = math.inf
    """when a pool handed it out, on the monotonic clock"""

    _spelling: ClassVar[Spelling | None] = None
    """how messages spell options, in a class of an integration, which makes this class' objects"""

    @classmethod
    async def connect(  # type: ignore[override]  # as above
        cls,
        conninfo: str = "",
        *,
        server: str | None = None,
        credential: Credential | None = None,
        client_id: str | None = None,
        password: AsyncPassword | None = None,
        pgbouncer: bool | None = None,
        cloud: Cloud | str | None = None,
        retry_timeout: float | None = None,
        autocommit: bool = False,
        prepare_threshold: PrepareThreshold = UNSET,
        context: AdaptContext | None = None,
        row_factory: AsyncRowFactory[Row] | None = None,
        cursor_factory: type[psycopg.AsyncCursor[Row]] | None = None,
        **kwargs: ConnParam,
    ) -> Self:
        """Open an async connection to Azure Database for PostgreSQL.

        Args:
            conninfo: Connection string of libpq, as for `azpg.connect`.
            server: Short or full name of the server, as for `azpg.connect`.
            credential: An azure-identity credential, sync or async, or a sync or async function
                that returns one or the text of a token. A sync credential or function is called in
                a thread. Default: one `DefaultAzureCredential` per process.
            client_id: Client ID of the managed or workload identity that the default credential
                uses.
            password: Password of a PostgreSQL role, instead of Microsoft Entra: text, or a sync or
                async function that is called for each new connection. A sync function is called in
                a thread.
            pgbouncer: True connects to PgBouncer (port 6432, no prepared statements). Default: the
                port decides.
            cloud: An `azpg.Cloud` or its name. Default: the cloud of the host.
            retry_timeout: Seconds within which transient failures are retried, as for
                `azpg.connect`; 0 for a single attempt. Default: 30, or `connect_timeout` if you
                pass a smaller one.
            autocommit: Whether each statement is its own transaction.
            prepare_threshold: Executions of a query before psycopg prepares it; None for never.
                Default: 5, or None with PgBouncer.
            context: psycopg adapters of the connection.
            row_factory: Function that makes the rows, such as `psycopg.rows.dict_row`.
            cursor_factory: Class of the cursors.
            **kwargs: Further keywords of libpq, such as `dbname`, `user` or `connect_timeout`
                (seconds).

        Returns:
            The new connection.

        Raises:
            ConfigError: The arguments are invalid or contradict each other; it lists every
                problem, and nothing was sent.
            ConnectError: No connection could be made; usually one of its subclasses, such as
                `azpg.LoginError`.

        >>> async with await azpg.connect_async(server="myserver", dbname="mydb") as conn:
        ...     await (await conn.execute("select 1")).fetchone()
        (1,)
        """
        handled = sys.exception()
        spelling = _spelling.use(cls._spelling)
        made_class = cls if cls._spelling is None else cast("type[Self]", AsyncConnection)
        request: ConnectRequest | None = None
        try:
            check_event_loop()
            request = ConnectRequest(
                ConnectOptions(
                    conninfo=conninfo,
                    keywords=kwargs,
                    server=server,
                    credential=credential,
                    client_id=client_id,
                    password=password,
                    pgbouncer=pgbouncer,
                    cloud=cloud,
                    retry_timeout=retry_timeout,
                ),
                is_async=True,
            )
            # Error reports show the variables of this frame
            conninfo, password, kwargs = "", None, {}
            if is_default := isinstance(prepare_threshold, Unset):
                prepare_threshold = request.prepare_threshold
            else:
                request.check_prepare_threshold(prepare_threshold)
            while True:
                try:
                    with request.attempt():
                        conn = await super(AsyncConnection, made_class).connect(
                            autocommit=autocommit,
                            prepare_threshold=prepare_threshold,
                            context=context,
                            row_factory=row_factory,
                            cursor_factory=cursor_factory,
                            **request.libpq_params(
                                await request.login_async(), await request.resolve_hosts_async()
                            ),
                        )
                except psycopg.Error as error:
                    delay = request.handle_failure(error)
                    if delay is None:
                        raise
                else:
                    announced = announcement(conn.pgconn)
                    if is_default and announced and announced.drops_prepared_statements:
                        conn.prepare_threshold = None
                    return _fork.track_connection(conn)
                await _deadline.sleep_async(delay)
        except BaseException as error:
            conninfo, password, kwargs, request = "", None, {}, None
            redact_exception(error, handled)
            raise
        finally:
            _spelling.use(spelling)

    async def close(self) -> None:
        """Close the connection, or return it to its pool if that has `close_returns`."""
        if self.closed and (pool := _returns_to(self)):
            await pool.putconn(self)
        else:
            await super().close()

    def cancel(self) -> None:
        """Cancel the current operation; the request is encrypted as the connection is.

        It takes 5 s at most, and blocks the event loop for that time; `await conn.cancel_safe()`
        does not. Before libpq 17 this is psycopg's own method, which does not encrypt.
        """
        if self._should_cancel():
            _cancel.cancel(self.pgconn, super().cancel)

    async def cancel_safe(self, *, timeout: float = 30.0) -> None:  # noqa: ASYNC109  # psycopg's
        """Cancel the current operation, as psycopg does, without blocking the event loop.

        Args:
            timeout: seconds that the request may take.
        """
        handled = sys.exception()
        try:
            await super().cancel_safe(timeout=timeout)
        except BaseException as error:
            # The same as for a sync connection
            redact_exception(error, handled)
            raise

    def __repr__(self) -> str:
        return _with_sslmode(super().__repr__(), self.pgconn)

    @classmethod
    async def _get_connection_params(cls, conninfo: str, **kwargs: Any) -> ConnDict:
        # The parameters are complete: psycopg need not parse and merge them again
        if conninfo:
            return await super()._get_connection_params(conninfo, **kwargs)
        return {name: value for name, value in kwargs.items() if value is not None}

    @classmethod
    def _connect_gen(cls, conninfo: str = "", **others: Any) -> PQGenConn[Self]:
        return _attempt.connect(super()._connect_gen(conninfo, **others), conninfo)


def _returns_to(conn: Connection[Any] | AsyncConnection[Any]) -> Any:
    """Return the pool that `close()` returns a connection to, or None.

    psycopg does not return a connection that is closed already, because it broke: the pool would
    wait for it and not replace it.
    """
    pool = getattr(conn, "_pool", None)
    return pool if getattr(pool, "close_returns", False) else None


def conninfo(
    conninfo: str = "",
    *,
    server: str | None = None,
    credential: Credential | None = None,
    client_id: str | None = None,
    password: AsyncPassword | None = None,
    pgbouncer: bool | None = None,
    cloud: Cloud | str | None = None,
    **kwargs: ConnParam,
) -> str:
    """Return the connection string that `connect` passes to libpq, without secrets.

    It does not connect, and acquires no token, so it contains no user if only the token names one.
    If you pass both `server` and `host`, it resolves `host`.

    Args:
        conninfo: Connection string of libpq, as for `azpg.connect`.
        server: Short or full name of the server, as for `azpg.connect`.
        credential: Selects Microsoft Entra; it is not called.
        client_id: Selects Microsoft Entra.
        password: Selects a PostgreSQL role; it is not in the result.
        pgbouncer: True selects the port of PgBouncer.
        cloud: An `azpg.Cloud` or its name. Default: the cloud of the host.
        **kwargs: Further keywords of libpq.

    Returns:
        The connection string, as key/value pairs.

    Raises:
        ConfigError: The arguments are invalid or contradict each other; it lists every problem.
        psycopg.OperationalError: `host` cannot be resolved.

    >>> azpg.conninfo(server="myserver", dbname="mydb")
    '...host=myserver.postgres.database.azure.com ...sslmode=verify-full ...'
    """
    handled = sys.exception()
    request: ConnectRequest | None = None
    try:
        request = ConnectRequest(
            ConnectOptions(
                conninfo=conninfo,
                keywords=kwargs,
                server=server,
                credential=credential,
                client_id=client_id,
                password=password,
                pgbouncer=pgbouncer,
                cloud=cloud,
            ),
            is_async=True,
        )
        params = request.public_params(request.resolve_hosts())
    except BaseException as error:
        conninfo, password, kwargs, request = "", None, {}, None
        redact_exception(error, handled)
        raise
    if "sslrootcert" in params:
        params["sslrootcert"] = shared_path(params["sslrootcert"])
    return make_conninfo("", **params)


if TYPE_CHECKING:
    # A type checker cannot tell Row from a classmethod of the bare class, so these say it

    def connect(
        conninfo: str = "",
        *,
        server: str | None = None,
        credential: SyncCredential | None = None,
        client_id: str | None = None,
        password: Password | None = None,
        pgbouncer: bool | None = None,
        cloud: Cloud | str | None = None,
        retry_timeout: float | None = None,
        autocommit: bool = False,
        prepare_threshold: PrepareThreshold = UNSET,
        context: AdaptContext | None = None,
        row_factory: RowFactory[Row] | None = None,
        cursor_factory: type[psycopg.Cursor[Row]] | None = None,
        **kwargs: ConnParam,
    ) -> Connection[Row]: ...

    async def connect_async(
        conninfo: str = "",
        *,
        server: str | None = None,
        credential: Credential | None = None,
        client_id: str | None = None,
        password: AsyncPassword | None = None,
        pgbouncer: bool | None = None,
        cloud: Cloud | str | None = None,
        retry_timeout: float | None = None,
        autocommit: bool = False,
        prepare_threshold: PrepareThreshold = UNSET,
        context: AdaptContext | None = None,
        row_factory: AsyncRowFactory[Row] | None = None,
        cursor_factory: type[psycopg.AsyncCursor[Row]] | None = None,
        **kwargs: ConnParam,
    ) -> AsyncConnection[Row]: ...

else:
    # The classmethods themselves, so that no further frame of azpg holds a password
    connect = Connection.connect
    connect_async = AsyncConnection.connect
