"""SQLAlchemy's dialects for `postgresql+azpg://`, sync and async: its psycopg dialects on azpg."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NoReturn

import psycopg

try:
    from sqlalchemy import event
    from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg, PGDialectAsync_psycopg
    from sqlalchemy.engine import URL
except ModuleNotFoundError as error:
    if error.name != "sqlalchemy":
        raise
    raise ModuleNotFoundError(
        "azpg.sqlalchemy needs a package: pip install 'sqlalchemy[asyncio]>=2.0.42'",
        name="sqlalchemy",
    ) from error

from ._conninfo.options import hide_secrets
from ._redact import Secret, quote
from ._spelling import as_url_parameters, used
from .connection import AsyncConnection, Connection
from .errors import ConfigError, ConnectError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy.engine import Engine
    from sqlalchemy.engine.interfaces import ConnectArgsType

__all__ = ["AsyncDialect", "Dialect"]


class _AzpgDialectMixin(PGDialect_psycopg):
    """What both dialects share: they convert a URL to azpg's options and handle azpg's errors."""

    supports_statement_cache = True

    @classmethod
    def get_async_dialect_cls(cls, url: URL) -> type[AsyncDialect]:  # noqa: ARG003  # SQLAlchemy's
        return AsyncDialect

    def create_connect_args(self, url: URL) -> ConnectArgsType:
        _, options = super().create_connect_args(url)  # type: ignore[no-untyped-call]
        try:
            with used(as_url_parameters):
                return [], hide_secrets(_convert_options(options, url.query))
        except ConfigError as error:
            if url.password is None and not _secret_parameters(url):
                raise
            problems = error.problems

        def raise_config_error(*_: object) -> NoReturn:
            raise ConfigError(problems)

        # Raised here, the traceback would show create_engine()'s frame with the password
        event.listen(self, "do_connect", raise_config_error)
        return [], {}

    @classmethod
    def engine_created(cls, engine: Engine) -> None:
        """Mask the secrets of the URL's query in the engine's repr."""
        engine.url = _RedactedURL(*engine.url)

    def is_disconnect(self, e: Any, connection: Any, cursor: Any) -> bool:
        # Applications retry if `connection_invalidated` is set: set it for transient failures
        transient = isinstance(e, ConnectError) and e.transient
        return transient or super().is_disconnect(e, connection, cursor)  # type: ignore[no-untyped-call]

    def on_connect(self) -> Callable[[Any], None]:
        """Return a function that the engine calls with each new connection."""
        configure = super().on_connect()  # type: ignore[no-untyped-call]

        def check_and_configure(conn: Any) -> None:
            _require_azpg_connection(conn)
            configure(conn)

        return check_and_configure


def _require_azpg_connection(conn: Any) -> None:
    """Raise `ConfigError` if `creator=` or an event listener made a connection without azpg."""
    driver_conn = getattr(conn, "driver_connection", conn)
    if isinstance(driver_conn, Connection | AsyncConnection):
        return
    conn.close()
    kind = "AsyncConnection" if isinstance(driver_conn, psycopg.AsyncConnection) else "Connection"
    class_name = type(driver_conn).__name__
    raise ConfigError(
        f"azpg did not make the engine's connection (its class is {class_name}), so "
        f"its server is not verified: leave out creator= (async: async_creator=), or have it call "
        f"azpg.{kind}.connect; for psycopg's own connections use postgresql+psycopg://"
    )


class _EngineConnection(Connection[Any]):
    """Connects with messages that spell options as a URL does."""

    _spelling = as_url_parameters


class _AsyncEngineConnection(AsyncConnection[Any]):
    """The same for async engines."""

    _spelling = as_url_parameters


class Dialect(_AzpgDialectMixin):
    """The dialect of `postgresql+azpg://`: its engines connect with `azpg.connect`.

    The URL's query accepts the options of `azpg.connect` that are text, numbers or booleans, and
    libpq's keywords. Pass objects, such as `credential`, in `connect_args`, which take precedence
    over the URL. A URL needs no host if its query has `server`, or if PGHOST is set.

    Raises:
        ConfigError: (`create_engine`) The URL is invalid; it lists every problem. If the URL
            contains a password, the first connection raises it instead, because the frame of
            `create_engine` would show the URL in a traceback.

    >>> engine = create_engine("postgresql+azpg:///mydb?server=myserver")
    >>> with engine.connect() as conn:
    ...     conn.exec_driver_sql("select 1").scalar_one()
    1
    """

    supports_statement_cache = True

    # Not a method: its frame would show the password in a traceback
    connect = staticmethod(_EngineConnection.connect)  # type: ignore[assignment]


class AsyncDialect(PGDialectAsync_psycopg, _AzpgDialectMixin):
    """The async dialect of `postgresql+azpg://`: its engines connect with `azpg.connect_async`.

    URL, `connect_args` and errors are those of `Dialect`.

    >>> engine = create_async_engine("postgresql+azpg:///mydb?server=myserver")
    >>> async with engine.connect() as conn:
    ...     (await conn.exec_driver_sql("select 1")).scalar_one()
    1
    """

    supports_statement_cache = True

    def create_connect_args(self, url: URL) -> ConnectArgsType:
        """Return the arguments of `azpg.connect_async` for a URL."""
        args, options = super().create_connect_args(url)
        # SQLAlchemy's adapter calls it instead of psycopg's AsyncConnection.connect()
        return args, {"async_creator_fn": _AsyncEngineConnection.connect, **options}


# URLs


class _RedactedURL(URL):
    """A URL that masks the secrets of its query too, not only the password."""

    def render_as_string(self, hide_password: bool = True) -> str:
        masked = dict.fromkeys(_secret_parameters(self), "***") if hide_password else {}
        return URL(*self).update_query_dict(masked).render_as_string(hide_password)


def _secret_parameters(url: URL) -> list[str]:
    """Return the names of the parameters of a URL's query that may contain a secret."""
    return [
        name
        for name, value in hide_secrets(url.query).items()
        if any(isinstance(each, Secret) for each in (value, *value))
    ]


def _convert_options(options: Mapping[str, Any], query: Mapping[str, Any]) -> dict[str, Any]:
    """Convert options that a URL has as text to the types that `azpg.connect` takes."""
    converted = dict(options)
    problems = []
    for name, value in query.items():
        if name in _OBJECT_OPTIONS:
            problems.append(f"{name} in a URL is text: pass connect_args={{{name!r}: …}}")
        elif not isinstance(value, str) and converted[name] == value:
            problems.append(f"{name} is in the URL {len(value)} times: write it once")
        elif name in _CONVERTERS:
            try:
                converted[name] = _CONVERTERS[name](value)
            except ValueError as error:
                problems.append(f"{name}={quote(value)} in the URL is not {error}")
    if problems:
        raise ConfigError(problems)
    return converted


_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True} | {
    "false": False, "no": False, "off": False, "0": False
}  # fmt: skip


def _parse_bool(text: str) -> bool:
    try:
        return _BOOLEANS[text.lower()]
    except KeyError:
        raise ValueError("true or false") from None


def _parse_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError("a number of seconds")
    return seconds


def _parse_count(text: str) -> int | None:
    if text.lower() == "none":
        return None
    if not text.isdecimal():
        raise ValueError("a whole number or None")
    return int(text)


_CONVERTERS: Mapping[str, Callable[[str], object]] = {
    "autocommit": _parse_bool,
    "pgbouncer": _parse_bool,
    "prepare_threshold": _parse_count,
    "retry_timeout": _parse_seconds,
}

_OBJECT_OPTIONS = frozenset({"context", "credential", "cursor_factory", "row_factory"})
