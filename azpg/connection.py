"""Connection and AsyncConnection: psycopg's own, connected the right way; connect(), conninfo()."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import AsyncRowFactory, Row, RowFactory

from . import _cancel, _connect_steps, _fork
from ._connect import Call
from ._tls.roots import shared_path
from .errors import clean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psycopg.abc import AdaptContext, ConnDict, ConnParam, PQGenConn
    from psycopg.pq.abc import PGconn

    from ._clouds import Cloud
    from ._connect import AsyncPassword, Password
    from ._tokens.credentials import Credential, SyncCredential


class Unset:
    """Tell an argument that was left out from every value it may have."""

    def __repr__(self) -> str:
        return "..."


UNSET: Final = Unset()
Threshold: TypeAlias = int | Unset | None


def _with_sslmode(shown: str, pgconn: PGconn) -> str:
    """Add the sslmode to what psycopg shows of a connection, where it shows a server."""
    head, bracket, tail = shown.rpartition(")")
    try:
        (mode,) = (each.val for each in pgconn.info if each.keyword == b"sslmode")
    except psycopg.OperationalError:  # closed
        return shown
    return f"{head} sslmode={mode.decode()}){tail}" if bracket and mode else shown


def _said(kwargs: Mapping[str, Any]) -> ConnDict:
    return {name: value for name, value in kwargs.items() if value is not None}


class Connection(psycopg.Connection[Row]):
    """A psycopg connection, made over verified TLS and signed in with Microsoft Entra.

    It is used wherever psycopg takes a connection class, and differs only in `connect()`.
    """

    __module__ = "azpg"

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
        prepare_threshold: Threshold = UNSET,
        context: AdaptContext | None = None,
        row_factory: RowFactory[Row] | None = None,
        cursor_factory: type[psycopg.Cursor[Row]] | None = None,
        **kwargs: ConnParam,
    ) -> Self:
        """Connect to Azure Database for PostgreSQL and return the new connection.

        The conninfo is libpq's key/value string or URI; environment variables and service files
        count as in libpq, and `kwargs` are its keywords and win.

        `server` is the server's short name, or its full one; `host` given beside it is the way
        there. `credential` is an azure-identity credential or a function that makes one, without
        it the default one, for which `client_id` chooses the identity. `password` signs in as a
        PostgreSQL role instead: text, or a function asked for each new connection. `pgbouncer`
        goes to port 6432 without prepared statements. `cloud` is an `azpg.Cloud` or its name, by
        default the host's. The rest is psycopg's own.

        `retry_timeout` is how many seconds transient failures (refused, starting, full, no answer)
        are retried in all, each with one warning: by default 30, or the `connect_timeout` that was
        asked for, where that is less; 0 tries once. Give a job 180: a failover of a server with
        high availability takes 60 to 120 s
        (https://learn.microsoft.com/azure/postgresql/high-availability/concepts-high-availability).

        Raise `ConfigError` for a call that cannot be meant, with all its problems; `ConnectError`
        or one of its kinds when no connection could be made.

        >>> with azpg.connect(server="myserver", dbname="mydb") as conn:
        ...     conn.execute("select 1").fetchone()
        (1,)
        """
        call = Call(
            conninfo,
            kwargs,
            server=server,
            credential=credential,
            client_id=client_id,
            password=password,
            pgbouncer=pgbouncer,
            cloud=cloud,
            retry_timeout=retry_timeout,
            is_async=False,
        )
        del conninfo, kwargs, password  # an error's traceback shows this frame
        try:
            while call.error is None:
                try:
                    if call.pause:
                        time.sleep(call.pause)
                    return _fork.track_connection(
                        super().connect(
                            autocommit=autocommit,
                            prepare_threshold=call.prepare_threshold
                            if isinstance(prepare_threshold, Unset)
                            else prepare_threshold,
                            context=context,
                            row_factory=row_factory,
                            cursor_factory=cursor_factory,
                            **call.libpq_params(
                                call.answer(), call.addresses() if call.plan.reach else []
                            ),
                        )
                    )
                except psycopg.Error as ex:
                    call.failed(ex)
        except BaseException as ex:  # noqa: BLE001  # raised again
            del call  # and the frames below, which hold the password
            raise clean(ex)  # noqa: B904  # itself
        error = call.error
        del call
        raise error

    def cancel(self) -> None:
        """Cancel the current operation; the request is encrypted as the connection is.

        It takes 5 s at most. Before libpq 17 it is psycopg's own, which is not encrypted.
        """
        if self._should_cancel():
            _cancel.cancel(self.pgconn, super().cancel)

    def __repr__(self) -> str:
        return _with_sslmode(super().__repr__(), self.pgconn)

    @classmethod
    def _get_connection_params(cls, conninfo: str, **kwargs: Any) -> ConnDict:
        # Settled already: psycopg need not parse them again
        if conninfo:
            return super()._get_connection_params(conninfo, **kwargs)
        return kwargs if None not in kwargs.values() else _said(kwargs)

    @classmethod
    def _connect_gen(cls, conninfo: str = "", **others: Any) -> PQGenConn[Self]:
        if others:  # of another psycopg, whose own steps know what they mean
            return (yield from super()._connect_gen(conninfo, **others))
        return cls((yield from _connect_steps.connect(conninfo)))


class AsyncConnection(psycopg.AsyncConnection[Row]):
    """A psycopg async connection, made over verified TLS and signed in with Microsoft Entra.

    It is used wherever psycopg takes a connection class, and differs only in `connect()`.
    """

    __module__ = "azpg"

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
        prepare_threshold: Threshold = UNSET,
        context: AdaptContext | None = None,
        row_factory: AsyncRowFactory[Row] | None = None,
        cursor_factory: type[psycopg.AsyncCursor[Row]] | None = None,
        **kwargs: ConnParam,
    ) -> Self:
        """Connect to Azure Database for PostgreSQL and return the new connection.

        The options are those of `azpg.connect`; `credential` and `password` may be async too, and
        sync ones are called in a thread, so that the event loop never waits.

        Raise `ConfigError` for a call that cannot be meant, with all its problems; `ConnectError`
        or one of its kinds when no connection could be made.

        >>> async with await azpg.connect_async(server="myserver", dbname="mydb") as conn:
        ...     await (await conn.execute("select 1")).fetchone()
        (1,)
        """
        call = Call(
            conninfo,
            kwargs,
            server=server,
            credential=credential,
            client_id=client_id,
            password=password,
            pgbouncer=pgbouncer,
            cloud=cloud,
            retry_timeout=retry_timeout,
            is_async=True,
        )
        del conninfo, kwargs, password
        try:
            while call.error is None:
                try:
                    if call.pause:
                        await asyncio.sleep(call.pause)
                    return _fork.track_connection(
                        await super().connect(
                            autocommit=autocommit,
                            prepare_threshold=call.prepare_threshold
                            if isinstance(prepare_threshold, Unset)
                            else prepare_threshold,
                            context=context,
                            row_factory=row_factory,
                            cursor_factory=cursor_factory,
                            **call.libpq_params(
                                await call.answer_async(),
                                await call.addresses_async() if call.plan.reach else [],
                            ),
                        )
                    )
                except psycopg.Error as ex:
                    call.failed(ex)
        except BaseException as ex:  # noqa: BLE001  # raised again
            del call
            raise clean(ex)  # noqa: B904  # itself
        error = call.error
        del call
        raise error

    def cancel(self) -> None:
        """Cancel the current operation; the request is encrypted as the connection is.

        It blocks the event loop, for 5 s at most: `await conn.cancel_safe()` does not. Before
        libpq 17 it is psycopg's own, which is not encrypted.
        """
        if self._should_cancel():
            _cancel.cancel(self.pgconn, super().cancel)

    def __repr__(self) -> str:
        return _with_sslmode(super().__repr__(), self.pgconn)

    @classmethod
    async def _get_connection_params(cls, conninfo: str, **kwargs: Any) -> ConnDict:
        if conninfo:
            return await super()._get_connection_params(conninfo, **kwargs)
        return kwargs if None not in kwargs.values() else _said(kwargs)

    @classmethod
    def _connect_gen(cls, conninfo: str = "", **others: Any) -> PQGenConn[Self]:
        if others:  # of another psycopg, whose own steps know what they mean
            return (yield from super()._connect_gen(conninfo, **others))
        return cls((yield from _connect_steps.connect(conninfo)))


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
    """Return what `connect` would hand to libpq, as a key/value string without any secret.

    The arguments are those of `azpg.connect` that say where to, as whom and how. Nothing is
    connected and no token is asked for, so a user that only the token names is not in it; a
    `host` beside `server` is looked up.

    Raise `ConfigError` for a call that cannot be meant, with all its problems.

    >>> azpg.conninfo(server="myserver", dbname="mydb")
    '...host=myserver.postgres.database.azure.com ...sslmode=verify-full ...'
    """
    call = Call(
        conninfo,
        kwargs,
        server=server,
        credential=credential,
        client_id=client_id,
        password=password,
        pgbouncer=pgbouncer,
        cloud=cloud,
        is_async=True,
    )
    del conninfo, kwargs, password
    if (error := call.error) is not None:
        del call
        raise error
    try:
        params = call.shown_params(call.addresses())
        if "sslrootcert" in params:
            params["sslrootcert"] = shared_path(params["sslrootcert"])
        return make_conninfo("", **params)
    except BaseException as ex:  # noqa: BLE001  # raised again
        del call
        raise clean(ex)  # noqa: B904  # itself


if TYPE_CHECKING:
    # Type checkers cannot tell Row through a classmethod of the bare class; these say it exactly.

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
        prepare_threshold: Threshold = UNSET,
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
        prepare_threshold: Threshold = UNSET,
        context: AdaptContext | None = None,
        row_factory: AsyncRowFactory[Row] | None = None,
        cursor_factory: type[psycopg.AsyncCursor[Row]] | None = None,
        **kwargs: ConnParam,
    ) -> AsyncConnection[Row]: ...

else:
    # The classmethods themselves, so that no frame of ours holds a password when they raise
    connect = Connection.connect
    connect_async = AsyncConnection.connect
