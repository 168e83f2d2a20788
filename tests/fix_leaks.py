"""Tokens that are known, and the search for one in all that a program may show or store."""

from __future__ import annotations

import gc
import json
import logging
import pickle
import traceback
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.pretty import pretty_repr
from sentry_sdk.serializer import serialize
from sentry_sdk.utils import safe_repr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fix_credentials import Credentials, WithGetToken

    from azpg.emulator import Emulator

# What they refer to is the program itself, or is looked at as a frame.
_STOP = (
    types.ModuleType,
    type,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.FrameType,
    types.TracebackType,
    types.CodeType,
)
_MOST = 200_000

_TESTS = str(Path(__file__).parent)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += [each.__cause__, each.__context__]
            if isinstance(each, BaseExceptionGroup):
                waiting += each.exceptions


def _frames(error: BaseException) -> Iterator[types.FrameType]:
    """Yield every frame behind an error but those of the tests, which know the secret."""
    for each in _chain(error):
        for frame, _ in traceback.walk_tb(each.__traceback__):
            if not frame.f_code.co_filename.startswith(_TESTS):
                yield frame


def _reports(frame: types.FrameType) -> Iterator[str]:
    """Yield a frame's variables as tracebacks, Sentry, rich and structlog show them."""
    yield json.dumps(serialize(frame.f_locals, is_vars=True))
    for value in frame.f_locals.values():
        yield safe_repr(value)  # traceback's capture_locals, which ends at an object half made
        yield pretty_repr(value, max_length=10, max_string=80)


def _objects(roots: list[Any], spared: tuple[Any, ...]) -> Iterator[Any]:
    """Yield what can be reached from the roots, without going through the program itself."""
    seen = {id(each) for each in spared}
    waiting = list(roots)
    while waiting and len(seen) < _MOST:
        each = waiting.pop()
        if id(each) not in seen and not isinstance(each, _STOP):
            seen.add(id(each))
            yield each
            waiting += gc.get_referents(each)
    assert len(seen) < _MOST


def _holds(value: Any, secret: str) -> bool:
    if isinstance(value, str):
        return secret in value
    return isinstance(value, bytes | bytearray) and secret.encode() in value


class Leaks:
    """Everything of one test that a secret may leak through."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    def none_in_logs(self, secret: str) -> None:
        """Check every record of every logger, at DEBUG."""
        for record in self._caplog.records:
            shown = f"{record.getMessage()} {record.args!r} {record.exc_text} {vars(record)!r}"
            assert secret not in shown, record.name

    def none_shown(self, error: BaseException, secret: str) -> None:
        """Check what is printed or reported: texts, reprs of frames' locals, pickles, logs."""
        self.none_in_logs(secret)
        for each in _chain(error):
            assert secret not in f"{each} {each!r} {each.args!r} {vars(each)!r}"
            assert secret.encode() not in pickle.dumps(each)
        for frame in _frames(error):
            assert not [each for each in _reports(frame) if secret in each], frame.f_code

    def none_held(self, error: BaseException, secret: str, *spared: Any) -> None:
        """Check also what is reached from an error, its pgconn and its frames by any reference.

        `spared` are the caller's own objects, such as the credential.
        """
        self.none_shown(error, secret)
        roots: list[Any] = list(_chain(error))
        roots += [value for frame in _frames(error) for value in frame.f_locals.values()]
        for each in _objects(roots, spared):
            assert not _holds(each, secret), type(each)


@pytest.fixture
def leaks(caplog: pytest.LogCaptureFixture) -> Leaks:
    """Record every logger at DEBUG, and look for secrets."""
    for name in (None, "azpg", "azure", "msal", "psycopg", "psycopg.pool"):
        caplog.set_level(logging.DEBUG, logger=name)
    return Leaks(caplog)


class Tokens:
    """A credential whose tokens are the emulator's, and remembered."""

    def __init__(self, emulator: Emulator, make: Callable[..., WithGetToken]) -> None:
        self.given: list[str] = []
        self._emulator = emulator
        self._failure: str | None = None
        self.credential = make(self._give)

    def fail(self, text: str) -> None:
        """Let the credential raise from now on."""
        self._failure = text

    def _give(self) -> str:
        if self._failure is not None:
            raise ConnectionError(self._failure)
        self.given.append(self._emulator.token())
        return self.given[-1]


@pytest.fixture
def tokens(azure: Emulator, credentials: Credentials) -> Tokens:
    """Make a credential whose tokens are known."""
    return Tokens(azure, credentials.with_get_token)
