"""Validate the arguments of a pool, hide the secrets in them and wrap its callbacks."""

from __future__ import annotations

import dis
import functools
import inspect
import itertools
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_origin

import psycopg
from psycopg.pq import TransactionStatus

from azpg._connect import ConnectRequest
from azpg._conninfo.options import (
    PSYCOPG_OPTIONS,
    ConnectOptions,
    hide_secret,
    hide_secrets,
)
from azpg._conninfo.sources import parse
from azpg._diagnosis.explain import explain
from azpg._libpq import libpq_info
from azpg._redact import Secret, redact
from azpg._tokens.credentials import is_async_function
from azpg.connection import AsyncConnection, Connection
from azpg.errors import ConfigError, ConnectError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from psycopg._connection_base import BaseConnection

    from azpg._tokens.entra import EntraPassword

C = TypeVar("C", bound="BaseConnection[Any]")


def resolve_arguments(
    conninfo: str, options: Mapping[str, Any], *, is_async: bool
) -> ConnectRequest:
    """Resolve the arguments of a pool's connections, or raise `ConfigError`."""
    given = {name: value for name, value in options.items() if name not in PSYCOPG_OPTIONS}
    given["conninfo"] = conninfo
    return ConnectRequest(ConnectOptions.from_mapping(given), is_async=is_async)


def _has_own_connect(connection_class: Any) -> bool:
    """Return whether a connection class overrides `connect`, which may then have more arguments."""
    cls = get_origin(connection_class) or connection_class
    return next(each for each in cls.__mro__ if "connect" in vars(each)) not in (
        Connection,
        AsyncConnection,
    )


def merge_kwargs(
    conninfo: object,
    keywords: Mapping[str, Any],
    kwargs: object,
    connection_class: type,
    *,
    is_async: bool,
) -> tuple[Any, Any]:
    """Return the `conninfo` and `kwargs` of the pool class, or raise `ConfigError`.

    They are validated here if they are values; the connection class validates each answer of a
    function, and its own arguments.

    Args:
        conninfo: create_pool()'s `conninfo`.
        keywords: The arguments of the connections that were given as keywords.
        kwargs: create_pool()'s `kwargs`, as psycopg_pool has it, or None.
        connection_class: The class of the connections.
        is_async: Whether the pool is async, so that a function in `kwargs` may be.
    """
    check_callbacks(is_async=is_async, conninfo=conninfo, kwargs=kwargs)
    if callable(kwargs):
        _, problems = _merge(keywords, {})
        if problems:
            raise ConfigError(problems)
        return conninfo, _merging_function(SecretKwargs(dict(keywords)), kwargs, is_async=is_async)
    merged, problems = _merge(keywords, {} if kwargs is None else kwargs)
    if conninfo and "conninfo" in merged:
        problems.append(_GIVEN_TWICE.format("conninfo"))
    conninfo = merged.pop("conninfo", conninfo)
    if not callable(conninfo) and not _has_own_connect(connection_class):
        try:
            resolve_arguments(cast("str", conninfo), merged, is_async=is_async)
        except ConfigError as error:
            problems += error.problems
            if len(problems) == len(error.problems):
                raise
    if problems:
        raise ConfigError(problems)
    return conninfo, merged


_GIVEN_TWICE = "{} is given twice, as a keyword and in kwargs: leave out one"


def _merge(keywords: Mapping[str, Any], kwargs: object) -> tuple[dict[str, Any], list[str]]:
    """Return the keywords with the entries of `kwargs`, and the problems with them."""
    if not isinstance(kwargs, dict) or not all(isinstance(name, str) for name in kwargs):
        given = "str" if isinstance(kwargs, str) else type(kwargs).__name__
        problem = f"kwargs is {given}: pass a dict of connect()'s arguments"
        return dict(keywords), [f"{problem}, or a function that returns one"]
    merged = {**keywords, **kwargs}
    problems = [_GIVEN_TWICE.format(name) for name in keywords if name in kwargs]
    if "retry_timeout" in merged:
        problems.append(
            "retry_timeout is for connect(): a pool tries again by itself, for reconnect_timeout "
            "seconds"
        )
    return merged, problems


def _merging_function(
    keywords: SecretKwargs, function: Callable[[], Any], *, is_async: bool
) -> Callable[[], Any]:
    """Return a function that returns the keywords with what another function returns."""

    def merge(returned: object) -> dict[str, Any]:
        merged, problems = _merge(keywords, returned)
        if "conninfo" in merged:
            problems.append("conninfo is in what kwargs returned: pass it to create_pool() itself")
        if problems:
            raise ConfigError(problems)
        return merged

    # Error reports show the variables of these frames

    def call() -> dict[str, Any]:
        return merge(hide_secret("kwargs", function()))

    async def call_async() -> dict[str, Any]:
        returned = hide_secret("kwargs", function())
        if inspect.isawaitable(returned):
            returned = hide_secret("kwargs", await returned)
        return merge(returned)

    return call_async if is_async else call


class SecretKwargs(dict[str, Any]):
    """The `kwargs` of a pool: a dict whose repr masks secrets, also those that are put in later.

    As in psycopg_pool, what the caller changes in the dict that it was made from counts too.
    """

    __slots__ = ("_given", "_seen")

    def __init__(self, given: dict[str, Any]) -> None:
        super().__init__(hide_secrets(given))
        self._given = given
        self._seen = self.copy_to_dict()

    def __repr__(self) -> str:
        return repr(hide_secrets(self))

    def __reduce__(self) -> tuple[type[SecretKwargs], tuple[dict[str, Any]]]:
        return SecretKwargs, (self.copy_to_dict(),)

    def copy(self) -> SecretKwargs:
        """Return an independent copy, whose repr masks secrets too."""
        return SecretKwargs(self.copy_to_dict())

    def copy_to_dict(self) -> dict[str, Any]:
        """Return the entries, with each text that may hold a secret as a `Secret`."""
        return hide_secrets(dict(self))

    def take_changes(self) -> None:
        """Apply what has changed in the caller's dict."""
        if self._given == self._seen:
            return
        given = hide_secrets(dict(self._given))
        for name in self._seen.keys() - given.keys():
            self.pop(name, None)
        self.update({k: v for k, v in given.items() if self._seen.get(k) != v})
        self._seen = given


def hide_conninfo(conninfo: object) -> Any:
    """Return a connection string, as a `Secret` if it contains a secret or is invalid."""
    if not isinstance(conninfo, str) or not conninfo or isinstance(conninfo, Secret):
        return conninfo
    secret_keywords = {name.encode() for name in libpq_info().secrets}
    try:
        has_secret = any(o.val and o.keyword in secret_keywords for o in parse(conninfo))
    except (psycopg.Error, UnicodeError):
        has_secret = True
    return Secret(conninfo) if has_secret else str(conninfo)


def hide_kwargs(kwargs: object) -> Any:
    """Return the `kwargs` of a pool, as a `SecretKwargs` if they are a dict."""
    if isinstance(kwargs, dict) and not isinstance(kwargs, SecretKwargs):
        return SecretKwargs(kwargs)
    return kwargs


def find_entra_password(
    conninfo: object, kwargs: object, *, is_async: bool
) -> EntraPassword | None:
    """Return the source of a pool's tokens, or None.

    It is unknown if `conninfo` or `kwargs` is a function of the caller's: only a connection calls
    that function.
    """
    if not isinstance(conninfo, str) or not isinstance(kwargs, dict | None):
        return None
    try:
        return resolve_arguments(conninfo, kwargs or {}, is_async=is_async).entra
    except ConfigError:
        return None


def check_connection_class(connection_class: object, *, is_async: bool) -> None:
    """Raise `ConfigError` if a class is not azpg's connection class or a subclass of it."""
    required = AsyncConnection if is_async else Connection
    # psycopg documents MyConnection[Row], which is not a class itself
    cls = get_origin(connection_class) or connection_class
    if isinstance(cls, type) and issubclass(cls, required):
        return
    name = getattr(cls, "__name__", type(cls).__name__)
    if isinstance(cls, type) and issubclass(cls, Connection | AsyncConnection):
        pool = "create_pool() and ConnectionPool" if is_async else "create_pool_async()"
        raise ConfigError(
            f"connection_class={name} is {'a sync' if is_async else 'an async'} class: "
            f"{'an async' if is_async else 'a sync'} pool takes a subclass of "
            f"azpg.{required.__name__}, and {name} is for {pool}"
        )
    if cls in (psycopg.Connection, psycopg.AsyncConnection):
        fix = "leave out connection_class="
    elif isinstance(cls, type):
        fix = f"write class {name}(azpg.{required.__name__}): … in place of psycopg's class"
    else:
        fix = f"pass a class, class MyConnection(azpg.{required.__name__}): …"
    raise ConfigError(
        f"connection_class={name} connects without azpg: no server would be verified, and no "
        f"token fetched. {fix[0].upper()}{fix[1:]}"
    )


def check_callbacks(*, is_async: bool, **callbacks: object) -> None:
    """Raise `ConfigError` if a function that a pool calls is of the wrong kind.

    Args:
        is_async: Whether the pool is async.
        **callbacks: The functions by the names of the pool's options; None is not a function. Of
            `conninfo` and `kwargs` only functions count.
    """
    problems = [
        problem
        for name, function in callbacks.items()
        if function is not None
        and (problem := _callback_error(name, function, is_async=is_async)) is not None
    ]
    if problems:
        raise ConfigError(problems)


def _callback_error(name: str, function: object, *, is_async: bool) -> str | None:
    is_source = name in ("conninfo", "kwargs")  # of arguments, and not only a function
    pool_class = "AsyncConnectionPool" if is_async else "ConnectionPool"
    argument = "" if is_source else "pool" if name == "reconnect_failed" else "conn"
    write = f"write {'async ' if is_async else ''}def {name}({argument}): …"
    if name == "check" and (function is True or _is_check_connection(function)):
        write = f"write check=azpg.{pool_class}.check_connection"
    if not callable(function):
        return None if is_source else f"⟦{name}⟧ is {type(function).__name__}: {write}"
    if is_async_function(function) and not is_async:
        return (
            f"⟦{name}⟧ is an async function, and a sync pool does not await it: {write}, or use "
            f"create_pool_async()"
        )
    # psycopg_pool calls these in both ways
    takes_sync = is_source or name == "reconnect_failed"
    if is_async and not takes_sync and _returns_nothing(function):
        return f"⟦{name}⟧ is a sync function, and an async pool awaits it: {write}"
    return None


def _is_check_connection(function: object) -> bool:
    return getattr(function, "__name__", "") == "check_connection"


def _returns_nothing(function: object) -> bool:
    """Return whether a call of a function surely returns None, which cannot be awaited.

    A function that is not async itself may still return an awaitable.
    """
    function = inspect.unwrap(cast("Callable[..., object]", function))
    function = getattr(function, "__func__", function)
    if not inspect.isfunction(function) or is_async_function(function):
        return False
    if inspect.isgeneratorfunction(function):
        return False
    code = [each for each in dis.get_instructions(function) if each.opname != "CACHE"]
    returned = [
        each if each.opname == "RETURN_CONST" else before
        for before, each in itertools.pairwise(code)
        if each.opname.startswith("RETURN_") and each.opname != "RETURN_GENERATOR"
    ]
    return bool(returned) and all(
        "_CONST" in each.opname and each.argval is None for each in returned
    )


def wrap_configure(function: Callable[[C], None] | None) -> Callable[[C], None] | None:
    """Return a `configure` whose failures are a `ConnectError` and close the connection."""
    if function is None:
        return None

    @functools.wraps(function)
    def configure(conn: C) -> None:
        with _configuring(conn, function):
            function(conn)

    return configure


def wrap_configure_async(
    function: Callable[[C], Awaitable[None]] | None,
) -> Callable[[C], Awaitable[None]] | None:
    """Return what `wrap_configure` returns, for an async pool."""
    if function is None:
        return None

    @functools.wraps(function)
    async def configure(conn: C) -> None:
        with _configuring(conn, function):
            await function(conn)

    return configure


_CONFIGURE_RAISED = "correct the function that the pool got as ⟦configure=⟧"
_LEFT_OPEN = (
    "end the function that the pool got as ⟦configure=⟧ with conn.commit(), or make its "
    "connections with ⟦autocommit=True⟧"
)


@contextmanager
def _configuring(conn: BaseConnection[Any], function: object) -> Iterator[None]:
    """Close a connection that the caller's `configure` fails for, and raise a `ConnectError`."""
    try:
        yield
        _check_idle(conn, function)
    except BaseException as error:
        was_closed = conn.closed
        conn.pgconn.finish()  # not close(): that may return the connection to the pool
        if not isinstance(error, Exception):
            raise
        raise ConnectError(
            f"configure raised {type(error).__name__}: {redact(str(error))}",
            kind="configure",
            hint=_LEFT_OPEN if "left in status" in str(error) else _CONFIGURE_RAISED,
            transient=was_closed or explain(error).transient,
        ) from error


def _check_idle(conn: BaseConnection[Any], function: object) -> None:
    """Raise psycopg_pool's error if `configure` has left a transaction open."""
    if (status := conn.pgconn.transaction_status) != TransactionStatus.IDLE:
        raise psycopg.ProgrammingError(
            f"connection left in status {TransactionStatus(status).name} by configure function "
            f"{function}: discarded"
        )
