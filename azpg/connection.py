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
from ._pgbouncer import drops_prepared_statements
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

    Use it wherever psycopg takes a connection class. It differs from psycopg's in `connect()` and
    in `cancel()`, which encrypts its request.
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

        Environment variables and service files count as in libpq. A value that is given in several
        places is taken from the keyword first, then from `conninfo`, the service file and the
        environment.

        Args:
            conninfo: a connection string, as in psycopg: libpq's key/value string or URI.
            server: the server's short name, such as `"myserver"`, or its full name. The server's
                certificate is verified against it. A `host` next to it is the address to connect
                to, such as the local end of an SSH tunnel.
            credential: a credential of azure-identity, or a function that makes one or that returns
                the text of a token and is called for each new one. Without it
                `DefaultAzureCredential` is used.
            client_id: the client id of the user-assigned or workload identity that the default
                credential uses.
            password: authenticates as a PostgreSQL role instead of with Microsoft Entra: a text, or
                a function that returns it and is called for every new connection.
            pgbouncer: True connects to PgBouncer, on port 6432 and without prepared statements; by
                default the port decides.
            cloud: an `azpg.Cloud` or its name; by default the host's.
            retry_timeout: seconds for which transient failures (refused, starting, full, no answer)
                are retried in all, each with a warning in the log; 0 means a single attempt. The
                default is 30, or `connect_timeout` if you gave a shorter one. 30 covers a restart
                of PgBouncer, a lack of connection slots and most network faults. Give a job 180: a
                failover takes 60 to 120 s and scaling with near-zero downtime 40 to 60 s
                (https://learn.microsoft.com/azure/postgresql/high-availability/concepts-high-availability,
                https://learn.microsoft.com/azure/postgresql/scale/concepts-scaling-resources,
                2026-11-27).
            autocommit: as in psycopg.
            prepare_threshold: as in psycopg; the default is 5, and None behind PgBouncer.
            context: as in psycopg.
            row_factory: as in psycopg.
            cursor_factory: as in psycopg.
            **kwargs: keywords of libpq, such as `dbname`, `user` or `connect_timeout` (seconds).

        Returns:
            The new connection, of the class it is called on.

        Raises:
            ConfigError: if the arguments are invalid or contradict each other; it lists every
                problem, and nothing has been sent.
            ConnectError: or one of its kinds, if no connection could be made.

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
                    if is_default and drops_prepared_statements(conn.pgconn):
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

    Use it wherever psycopg takes a connection class. It differs from psycopg's in `connect()` and
    in `cancel()`, which encrypts its request.
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
            conninfo: a connection string, as for `azpg.connect`.
            server: the server's short or full name, as for `azpg.connect`.
            credential: a credential of azure-identity or of azure.identity.aio, or a function, sync
                or async, that makes one or that returns the text of a token. A sync credential or
                function is called in a thread.
            client_id: the client id of the default credential's identity.
            password: authenticates as a PostgreSQL role: a text, or a function, sync or async, that
                returns it. A sync function is called in a thread.
            pgbouncer: True connects to PgBouncer, on port 6432 and without prepared statements.
            cloud: an `azpg.Cloud` or its name; by default the host's.
            retry_timeout: seconds for which transient failures are retried in all, by default 30;
                0 means a single attempt. Give a job 180, which covers failover and scaling.
            autocommit: as in psycopg.
            prepare_threshold: as in psycopg; the default is 5, and None behind PgBouncer.
            context: as in psycopg.
            row_factory: as in psycopg.
            cursor_factory: as in psycopg.
            **kwargs: keywords of libpq, such as `dbname`, `user` or `connect_timeout` (seconds).

        Returns:
            The new connection, of the class it is called on.

        Raises:
            ConfigError: if the arguments are invalid or contradict each other; it lists every
                problem, and nothing has been sent.
            ConnectError: or one of its kinds, if no connection could be made.

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
                    if is_default and drops_prepared_statements(conn.pgconn):
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
    """Return the connection string that `connect` would give to libpq, without any secret.

    It connects to nothing and acquires no token, so a user that only the token names is not in it.
    A `host` next to `server` is resolved.

    Args:
        conninfo: a connection string, as for `azpg.connect`.
        server: the server's short or full name, as for `azpg.connect`.
        credential: means authentication with Microsoft Entra; it is not called.
        client_id: means the same.
        password: means authentication as a PostgreSQL role; it is not in the result.
        pgbouncer: True means PgBouncer's port.
        cloud: an `azpg.Cloud` or its name; by default the host's.
        **kwargs: keywords of libpq.

    Returns:
        A key/value string.

    Raises:
        ConfigError: if the arguments are invalid or contradict each other; it lists every problem.
        psycopg.OperationalError: if a `host` next to `server` cannot be resolved.

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
