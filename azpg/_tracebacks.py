"""Remove secrets from an exception that leaves azpg; its traceback and its history stay.

After a failed connect, psycopg's frames hold the password in their local variables, and so does
the `pgconn` of psycopg's error. Error reports show both.
"""

from __future__ import annotations

import gc
import inspect
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from psycopg.errors import FinishedPGconn

from ._libpq import libpq_info
from ._redact import quotes_token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType, TracebackType

_DRIVERS = frozenset({"psycopg", "psycopg_binary", "psycopg_c", "psycopg_pool", "asyncpg"})
"""packages whose errors may hold a password, in their message or their `pgconn`"""

_IDENTITY_PACKAGES = frozenset(
    {"azure", "msal", "msal_extensions", "requests", "urllib3", "aiohttp"}
)
"""packages with which azure-identity requests tokens; the responses hold them"""

_CLEARED_PACKAGES = _DRIVERS | _IDENTITY_PACKAGES | {"azpg"}
"""packages whose frames may hold a password or token in their local variables"""

_CALLERS_OF_DRIVERS = frozenset({"azpg.connection", "azpg.asyncpg"})
"""modules that call a driver's connect, and no code of the caller's"""


def redact_exception(
    error: BaseException,
    handled: BaseException | None,
    redact: Callable[[str], str] | None = None,
) -> None:
    """Remove secrets from an exception and from those it came from, in place.

    The local variables of finished frames of azpg and the drivers are cleared, and each `pgconn`
    is redacted. Frames of the caller, and of a callback or credential of the caller's, stay.

    Args:
        error: the exception that is about to be raised.
        handled: what the caller was handling when it called azpg (`sys.exception()`): its frames
            are the caller's.
        redact: returns the message of a driver's error without secrets.
    """
    for each in _history(error, handled):
        _clear_frames(each.__traceback__)
        if _package(type(each).__module__) not in _DRIVERS:
            continue
        pgconn = getattr(each, "pgconn", None)
        if isinstance(pgconn, FinishedPGconn):
            _redact_pgconn(pgconn, redact)
        if redact is not None:
            each.args = tuple(redact(arg) if isinstance(arg, str) else arg for arg in each.args)
            for name, value in vars(each).items():
                if isinstance(value, str):
                    setattr(each, name, redact(value))


def callers_error(error: BaseException) -> BaseException | None:
    """Return what a credential raised if that is the caller's own code, otherwise None.

    Its traceback then begins with the caller's frame. The frames of azure-identity are cleared.
    """
    if _package(type(error).__module__) in _IDENTITY_PACKAGES or shows_token(error):
        return None
    traceback = error.__traceback__
    while traceback is not None:
        package = _package(traceback.tb_frame.f_globals.get("__name__"))
        if package != "azpg" and package not in sys.stdlib_module_names:
            break
        traceback = traceback.tb_next
    if traceback is None or package in _IDENTITY_PACKAGES:
        return None
    error.__traceback__ = traceback
    redact_exception(error, None)
    return error


def shows_token(error: BaseException) -> bool:
    """Return whether the message of an exception, or of one that it came from, quotes a token."""
    return any(quotes_token(str(each)) for each in _history(error, None))


def _package(module: object) -> str:
    return str(module).partition(".")[0]


def _history(error: BaseException, handled: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and all that it came from, except what the caller was handling."""
    seen = {id(handled), id(None)}
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting += [each.__cause__, each.__context__]
        if isinstance(each, BaseExceptionGroup):
            waiting += each.exceptions


def _redact_pgconn(pgconn: FinishedPGconn, redact: Callable[[str], str] | None) -> None:
    secrets = {name.encode() for name in libpq_info().secrets}
    pgconn.password = b""
    pgconn.info = [
        option._replace(val=None) if option.keyword in secrets else option for option in pgconn.info
    ]
    if redact is not None:
        message = pgconn.error_message.decode(errors="replace")
        pgconn.error_message = redact(message).encode()


def _clear_frames(traceback: TracebackType | None) -> None:
    """Clear the local variables of the finished frames that may hold secrets.

    Those are the frames of `_CLEARED_PACKAGES`, and of other code that they call: the standard
    library, and what wraps a driver's connect, such as a tracer. A frame that `_connect` or
    `_tokens` calls is the caller's own callback or credential, which stays.
    """
    clear = calls_driver = False
    while traceback is not None:
        frame = traceback.tb_frame
        module = frame.f_globals.get("__name__")
        package = _package(module)
        if package in _CLEARED_PACKAGES:
            clear = True
            calls_driver = module in _CALLERS_OF_DRIVERS
        elif package not in sys.stdlib_module_names:
            clear = clear and calls_driver
        if clear and _is_finished(frame):
            with suppress(RuntimeError):  # it is still being executed
                frame.clear()
        traceback = traceback.tb_next


_SUSPENDABLE = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


def _is_finished(frame: FrameType) -> bool:
    """Return False for a suspended coroutine or generator, which `frame.clear()` would close.

    An exception object that is raised in two tasks has frames of both in its traceback. Python
    refuses to clear a suspended frame from 3.13 on.
    """
    if sys.version_info >= (3, 13) or not frame.f_code.co_flags & _SUSPENDABLE:
        return True
    # A frame refers to its code only once it is finished
    return any(each is frame.f_code for each in gc.get_referents(frame))
