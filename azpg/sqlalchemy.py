"""SQLAlchemy's dialect `postgresql+azpg://`, sync and async: its psycopg dialect on azpg."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NoReturn

import psycopg
from sqlalchemy import event
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg, PGDialectAsync_psycopg
from sqlalchemy.engine import URL

from azpg._redact import quote

from ._conninfo.options import hide_secrets
from ._redact import Secret
from .connection import AsyncConnection, Connection
from .errors import ConfigError, ConnectError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy.engine import Engine
    from sqlalchemy.engine.interfaces import ConnectArgsType

__all__ = ["AsyncDialect", "Dialect"]


class _OnAzpg(PGDialect_psycopg):
    """What both dialects are: a URL read as azpg's options, and azpg's errors told apart."""

    supports_statement_cache = True

    @classmethod
    def get_async_dialect_cls(cls, url: URL) -> type[AsyncDialect]:  # noqa: ARG003  # SQLAlchemy's
        return AsyncDialect

    def create_connect_args(self, url: URL) -> ConnectArgsType:
        _, options = super().create_connect_args(url)  # type: ignore[no-untyped-call]
        try:
            return [], hide_secrets(_read(options, url.query))
        except ConfigError as error:
            if url.password is None and not _secrets(url):
                raise
            problems = error.problems

        def refuse(*_: object) -> NoReturn:
            raise ConfigError(problems)

        # Raised here, the error would show create_engine's frame, which has the whole URL
        event.listen(self, "do_connect", refuse)
        return [], {}

    @classmethod
    def engine_created(cls, engine: Engine) -> None:
        """Hide the secrets of the URL's query where the engine is shown."""
        engine.url = _URL(*engine.url)

    def is_disconnect(self, e: Any, connection: Any, cursor: Any) -> bool:
        # A connect that may yet succeed is told by `error.connection_invalidated`.
        passes = isinstance(e, ConnectError) and e.transient
        return passes or super().is_disconnect(e, connection, cursor)  # type: ignore[no-untyped-call]

    def on_connect(self) -> Callable[[Any], None]:
        """Return what is called with each new connection of an engine."""
        configure = super().on_connect()  # type: ignore[no-untyped-call]

        def check_and_configure(conn: Any) -> None:
            _require_azpg(conn)
            configure(conn)

        return check_and_configure


def _require_azpg(conn: Any) -> None:
    """Refuse a connection that `creator=`, or an event, has made without azpg."""
    made = getattr(conn, "driver_connection", conn)
    if isinstance(made, Connection | AsyncConnection):
        return
    conn.close()
    kind = "AsyncConnection" if isinstance(made, psycopg.AsyncConnection) else "Connection"
    raise ConfigError(
        f"azpg did not make the engine's connection (its class is {type(made).__name__}), so its "
        f"server is not verified: leave out creator= (async: async_creator=), or have it call "
        f"azpg.{kind}.connect; for psycopg's own connections use postgresql+psycopg://"
    )


class Dialect(_OnAzpg):
    """Connect SQLAlchemy's engines as `azpg.connect` connects.

    The URL names what its options take as text; an object, such as `credential`, goes into
    `connect_args`, which win. A URL needs no host where `server`, or PGHOST, says where to.

    Raise `ConfigError`, from `create_engine`, where the URL cannot be meant.

    >>> engine = create_engine("postgresql+azpg:///mydb?server=myserver")
    >>> with engine.connect() as conn:
    ...     conn.exec_driver_sql("select 1").scalar_one()
    1
    """

    supports_statement_cache = True

    # The classmethod itself, so that no frame of ours holds a password when it raises
    connect = staticmethod(Connection.connect)  # type: ignore[assignment]


class AsyncDialect(PGDialectAsync_psycopg, _OnAzpg):
    """Connect SQLAlchemy's async engines as `azpg.connect_async` connects.

    >>> engine = create_async_engine("postgresql+azpg:///mydb?server=myserver")
    >>> async with engine.connect() as conn:
    ...     (await conn.exec_driver_sql("select 1")).scalar_one()
    1
    """

    supports_statement_cache = True

    def create_connect_args(self, url: URL) -> ConnectArgsType:
        """Return what `azpg.connect_async` takes, read from a URL."""
        args, options = super().create_connect_args(url)
        # Called by SQLAlchemy's adapter in place of psycopg's own
        return args, {"async_creator_fn": AsyncConnection.connect, **options}


# What a URL says


class _URL(URL):
    """A URL that shows no secret of its query, as SQLAlchemy's shows no password."""

    def render_as_string(self, hide_password: bool = True) -> str:
        masked = dict.fromkeys(_secrets(self), "***") if hide_password else {}
        return URL(*self).update_query_dict(masked).render_as_string(hide_password)


def _secrets(url: URL) -> list[str]:
    """Return which parameters of a URL's query may hold a secret."""
    return [
        name
        for name, value in hide_secrets(url.query).items()
        if any(isinstance(each, Secret) for each in (value, *value))
    ]


def _read(options: Mapping[str, Any], query: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with the types that azpg takes; a URL has text only."""
    read = dict(options)
    problems = []
    for name, value in query.items():
        if name in _OBJECTS:
            problems.append(f"{name} in a URL is text: pass connect_args={{{name!r}: …}}")
        elif not isinstance(value, str) and read[name] == value:
            problems.append(f"{name} stands {len(value)} times in the URL: write it once")
        elif name in _READERS:
            try:
                read[name] = _READERS[name](value)
            except ValueError as error:
                problems.append(f"{name}={quote(value)} in the URL is no {error}")
    if problems:
        raise ConfigError(problems)
    return read


_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True} | {
    "false": False, "no": False, "off": False, "0": False
}  # fmt: skip


def _boolean(text: str) -> bool:
    try:
        return _BOOLEANS[text.lower()]
    except KeyError:
        raise ValueError("true or false") from None


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError("number of seconds")
    return seconds


def _count(text: str) -> int | None:
    if text.lower() == "none":
        return None
    if not text.isdecimal():
        raise ValueError("whole number or None")
    return int(text)


_READERS: Mapping[str, Callable[[str], object]] = {
    "autocommit": _boolean,
    "pgbouncer": _boolean,
    "prepare_threshold": _count,
    "retry_timeout": _seconds,
}

_OBJECTS = frozenset({"context", "credential", "cursor_factory", "row_factory"})
