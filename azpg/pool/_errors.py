"""What keeps a pool from connecting: azpg's errors that are psycopg_pool's `PoolTimeout` too.

Code that catches `PoolTimeout` around `open(wait=True)`, `wait()` and `getconn()` goes on working
when azpg raises the real cause. The classes are written out, because a class that is made at run
time does not pickle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg_pool import PoolTimeout

from azpg._diagnosis.explain import explain
from azpg.errors import (
    ConnectError,
    ConnectTimeoutError,
    CredentialError,
    LoginError,
    TLSError,
    UnreachableError,
)

if TYPE_CHECKING:
    import psycopg


class PoolConnectError(ConnectError, PoolTimeout):
    """The pool cannot connect, or had no connection in time."""

    __module__ = "azpg.pool"


class PoolCredentialError(CredentialError, PoolTimeout):
    """The pool cannot connect: no token or password could be obtained."""

    __module__ = "azpg.pool"


class PoolLoginError(LoginError, PoolTimeout):
    """The pool cannot connect: the server rejected the authentication."""

    __module__ = "azpg.pool"


class PoolTLSError(TLSError, PoolTimeout):
    """The pool cannot connect: the server could not be verified."""

    __module__ = "azpg.pool"


class PoolUnreachableError(UnreachableError, PoolTimeout):
    """The pool cannot connect: no server could be reached."""

    __module__ = "azpg.pool"


class PoolConnectTimeoutError(ConnectTimeoutError, PoolTimeout):
    """The pool cannot connect: no server answered in time."""

    __module__ = "azpg.pool"


_POOL_ERRORS: dict[type[BaseException], type[ConnectError]] = {
    ConnectError: PoolConnectError,
    CredentialError: PoolCredentialError,
    LoginError: PoolLoginError,
    TLSError: PoolTLSError,
    UnreachableError: PoolUnreachableError,
    ConnectTimeoutError: PoolConnectTimeoutError,
}


TIMEOUT_HINT = (
    "fix what the last connection failed with, or give the pool more time: timeout= is how long a "
    "client waits"
)


CONNECTING_HINT = (
    "run azpg doctor to see what does not answer, or give the pool more time: timeout= is how long "
    "a client waits"
)


def pool_error(error: psycopg.Error) -> psycopg.Error:
    """Return an error of a connection as the pool's: as a `PoolTimeout` too.

    It keeps the attributes, the traceback, the cause and the context. A `ConfigError` stays what it
    is, because it is not a timeout, and so does an error of the caller's own class.
    """
    if (pool_class := _POOL_ERRORS.get(type(error))) is None:
        return error
    converted = pool_class.__new__(pool_class)
    converted.args = error.args
    vars(converted).update(vars(error))
    converted.__cause__ = error.__cause__
    converted.__context__ = error.__context__
    converted.__suppress_context__ = error.__suppress_context__
    return converted.with_traceback(error.__traceback__)


def connecting_error(timeout: PoolTimeout) -> PoolConnectError:
    """Return the error to raise for a pool's timeout while a connection attempt is in progress."""
    return PoolConnectError(str(timeout), kind="pool-timeout", hint=CONNECTING_HINT, transient=True)


def timeout_error(
    timeout: PoolTimeout, failure: Exception, what: str = "the last connection failed: "
) -> PoolConnectError:
    """Return the error to raise for a pool's timeout, after the latest failure to connect.

    Args:
        timeout: The timeout.
        failure: The latest failure.
        what: What failed.
    """
    hint: str = getattr(failure, "hint", "")
    message = str(failure).removesuffix(f"\nHINT: {hint}")
    if getattr(failure, "kind", "") == "configure":  # the message says so
        what = ""
    error = PoolConnectError(
        f"{timeout}; {what}{message}",
        kind="pool-timeout",
        hint=hint or explain(failure).hint or TIMEOUT_HINT,
        transient=True,
    )
    error.__cause__ = failure
    return error
