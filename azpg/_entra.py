"""EntraPassword: the lock, the flight and the credential call behind a token used as password."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import os
import sys
import threading
import time
import weakref
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

from . import _diagnose, _token
from ._clouds import AZURE_PUBLIC, CLOUDS, Cloud, cloud_named
from .errors import ConfigError, CredentialError

if TYPE_CHECKING:
    from collections.abc import Callable

    from azure.core.credentials import AccessToken, AccessTokenInfo, TokenProvider
    from azure.core.credentials_async import AsyncTokenProvider

    AnyCredential: TypeAlias = TokenProvider | AsyncTokenProvider
    Credential: TypeAlias = AnyCredential | Callable[[], AnyCredential]
    SyncCredential: TypeAlias = TokenProvider | Callable[[], TokenProvider]


class TokenStats(NamedTuple):
    """Count what an `EntraPassword` has done; no secret in it."""

    fetched: int
    failed: int
    seconds_to_expiry: float | None


class EntraPassword:
    """Give a valid Microsoft Entra token wherever a password callback is taken.

    `credential` is any azure-identity credential, sync or async, or a function that makes one;
    without it the default credential of the cloud's authority, made once per process (`client_id`
    chooses its user-assigned or workload identity). `cloud` is an `azpg.Cloud` or its name.
    `timeout` is in seconds, for one token.

    The token is fetched once for all that share the credential and cloud: threads, tasks, event
    loops, pools. Calling the object returns it as text, `call_async()` does the same without
    blocking the event loop. A sync credential is called in a thread, and needs no aiohttp.

    Raise `CredentialError` when no token can be had, `ConfigError` for a cloud of no known name.

    >>> import psycopg_pool, azure.identity
    >>> token = azpg.EntraPassword(azure.identity.AzureCliCredential())
    >>> asyncpg.connect(..., password=token.call_async)
    """

    __module__ = "azpg"

    def __init__(
        self,
        credential: Credential | None = None,
        *,
        cloud: Cloud | str = AZURE_PUBLIC,
        client_id: str | None = None,
        timeout: float = 30.0,
    ) -> None:
        self.cloud = _cloud(cloud)
        self.timeout = timeout
        if credential is not None and client_id is not None:
            raise ConfigError("client_id is for the default credential: give it to the credential")
        self._credential: object = (
            _shared.default(self.cloud.authority, client_id) if credential is None else credential
        )
        self._slot = _shared.slot(self._credential, self.cloud.scope)

    def __repr__(self) -> str:
        return f"<azpg.EntraPassword of {_name(self._credential)} for {self.cloud.name}>"

    def __call__(self) -> str:
        """Return a valid token, waiting for one at most `timeout` seconds."""
        return self.token().text

    async def call_async(self) -> str:
        """Return a valid token without blocking the event loop."""
        return (await self.token_async()).text

    def user(self) -> str:
        """Return the role that the token's owner has by custom.

        Raise `CredentialError` where the token holds no name, as a service principal's does.
        """
        return user_of(self.token())

    def invalidate(self) -> None:
        """Forget the token held, so that the next call asks the credential."""
        self._slot.token = None

    def stats(self) -> TokenStats:
        """Return how many tokens were fetched, how many tries failed, and the seconds left."""
        slot = self._slot
        left = None if slot.token is None else max(0.0, slot.token.expires_on - time.time())
        return TokenStats(slot.fetched, slot.failed, left)

    # Below: what azpg's own connections call.

    def token(self) -> _token.Token:
        """Return a valid token with what is known of it."""
        while (token := self._held()) is None:
            flight = self._board(None)
            try:
                outcome = flight.result(self.timeout)
            except TimeoutError:
                self._slot.leave(flight)
                raise self._late().error() from None
            if (token := flight.landed(outcome, None)) is not None:
                break
        return token

    async def token_async(self) -> _token.Token:
        """Return a valid token with what is known of it, without blocking the event loop."""
        loop = asyncio.get_running_loop()
        while (token := self._held()) is None:
            flight = self._board(loop)
            try:
                outcome = await asyncio.wait_for(asyncio.wrap_future(flight), self.timeout)
            except TimeoutError:
                self._slot.leave(flight)
                raise self._late().error() from None
            if (token := flight.landed(outcome, loop)) is not None:
                break
        return token

    def _held(self) -> _token.Token | None:
        token = self._slot.token
        return token if token is not None and token.usable(time.monotonic()) else None

    def _board(self, loop: asyncio.AbstractEventLoop | None) -> _Flight:
        """Return the flight under way, or start one."""
        slot = self._slot
        with slot.lock:
            if slot.loop is None or not slot.loop.is_running():
                slot.loop = loop
            if slot.flight is not None:
                return slot.flight
            slot.flight = flight = _Flight(slot.loop)
            # Running: a waiter that is cancelled cannot cancel what others wait for.
            flight.set_running_or_notify_cancel()
        _in_thread(lambda: self._fly(flight))
        return flight

    def _fly(self, flight: _Flight) -> None:
        outcome: _Outcome
        try:
            answer = self._ask(flight.loop)
            if not (answer.token and answer.token.isascii() and answer.token.isprintable()):
                raise ValueError("its token is no plain text")  # noqa: TRY301
            outcome = _token.received(
                answer.token, answer.expires_on, now=time.monotonic(), wall=time.time()
            )
        except _LateError:
            outcome = self._late()
        except CancelledError as error:
            # With the loop it ran on: that is no word of the credential's to those on other loops.
            outcome = _Failure(*_diagnose.credential(_name(self._credential), error), lost=True)
        except BaseException as error:  # noqa: BLE001  # whoever waits must hear of it
            outcome = _Failure(*_diagnose.credential(_name(self._credential), error))
        self._slot.land(flight, outcome)

    def _ask(self, loop: asyncio.AbstractEventLoop | None) -> AccessToken | AccessTokenInfo:
        credential: Any = self._made()
        get = getattr(credential, "get_token_info", None) or credential.get_token
        answer = get(self.cloud.scope)
        if inspect.iscoroutine(answer):
            if loop is None or not loop.is_running():
                answer.close()
                raise _NoLoop
            task = asyncio.run_coroutine_threadsafe(answer, loop)
            try:
                answer = task.result(self.timeout)
            except TimeoutError:
                if not task.cancel():  # it had ended, so the error is its own
                    raise
                raise _LateError from None
        return cast("AccessToken | AccessTokenInfo", answer)

    def _made(self) -> object:
        slot = self._slot
        if is_credential(self._credential):
            return self._credential
        if slot.made is None:
            slot.made = cast("Callable[[], object]", self._credential)()
        return slot.made

    def _late(self) -> _Failure:
        return _Failure(*_diagnose.credential_late(_name(self._credential), self.timeout))


class _LateError(Exception):
    """An async credential took longer than its callers wait."""


class _NoLoop(Exception):  # noqa: N818  # never leaves this module
    def __str__(self) -> str:
        return "it is an async credential, and no event loop is running to await it"


class _Failure(NamedTuple):
    """What every waiter of a failed flight is told, each in an exception of its own."""

    text: str
    kind: str
    hint: str
    lost: bool = False
    """an async credential's loop ended under it: callers elsewhere try again"""

    def error(self) -> CredentialError:
        return CredentialError(self.text, kind=self.kind, hint=self.hint)


_Outcome: TypeAlias = _token.Token | _Failure


class _Flight(Future[_Outcome]):
    """One request for a token that any number of callers wait for."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        super().__init__()
        self.loop = loop
        """where an async credential is awaited"""

    def landed(
        self, outcome: _Outcome, loop: asyncio.AbstractEventLoop | None
    ) -> _token.Token | None:
        """Return the token for a caller on `loop`, or None where it should try again."""
        if not isinstance(outcome, _Failure):
            return outcome
        if outcome.lost and self.loop is not loop:
            return None
        raise outcome.error()


class _Slot:
    """The token of one credential and scope, and the flight that fetches it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.token: _token.Token | None = None
        self.flight: _Flight | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        """the loop that owns an async credential"""
        self.made: object = None
        """what the factory made, where one was given"""
        self.fetched = self.failed = 0

    def land(self, flight: _Flight, outcome: _Outcome) -> None:
        with self.lock:
            if self.flight is flight:
                self.flight = None
            if isinstance(outcome, _Failure):
                self.failed += 1
                if outcome.lost and self.loop is flight.loop:
                    self.loop = None
            else:
                self.fetched += 1
                self.token = outcome
        flight.set_result(outcome)

    def leave(self, flight: _Flight) -> None:
        with self.lock:
            if self.flight is flight:
                self.flight = None


class _DefaultCredential:
    """Make a cloud's default credential; azure-identity is imported no earlier than here."""

    def __init__(self, authority: str, client_id: str | None) -> None:
        self.options: dict[str, str] = {}
        if "AZURE_AUTHORITY_HOST" not in os.environ:
            self.options["authority"] = authority
        if client_id is not None:
            self.options |= {
                "managed_identity_client_id": client_id,
                "workload_identity_client_id": client_id,
            }

    def __call__(self) -> object:
        from azure.identity import DefaultAzureCredential  # noqa: PLC0415

        return DefaultAzureCredential(**self.options)


class _Shared:
    """Every slot of the process, each found by its credential object and gone with it."""

    def __init__(self) -> None:
        self._slots: dict[int, tuple[Callable[[], object], dict[str, _Slot]]] = {}
        self._defaults: dict[tuple[str, str | None], _DefaultCredential] = {}

    def default(self, authority: str, client_id: str | None) -> _DefaultCredential:
        # setdefault is atomic: of two threads here, both get the first one's.
        return self._defaults.setdefault(
            (authority, client_id), _DefaultCredential(authority, client_id)
        )

    def slot(self, credential: object, scope: str) -> _Slot:
        # id() only says where to look: ids are used again, so the object itself decides.
        key = id(credential)
        entry = self._slots.get(key)
        if entry is not None and entry[0]() is not credential:
            self._slots.pop(key, None)
            entry = None
        if entry is None:
            entry = self._slots.setdefault(key, (self._hold(credential), {}))
        return entry[1].setdefault(scope, _Slot())

    def _hold(self, credential: object) -> Callable[[], object]:
        key = id(credential)

        def forget(dead: object) -> None:
            if self._slots.get(key, (None,))[0] is dead:
                self._slots.pop(key, None)

        try:
            return weakref.ref(credential, forget)
        except TypeError:  # it allows no weak reference: it lives as long as the process
            return lambda: credential


_shared = _Shared()


def is_credential(value: object) -> bool:
    """Tell whether it is a credential, not a function that makes one."""
    return hasattr(value, "get_token") or hasattr(value, "get_token_info")


def is_async(credential: object) -> bool:
    """Tell whether a credential has to be awaited."""
    get = getattr(credential, "get_token_info", None) or getattr(credential, "get_token", None)
    return inspect.iscoroutinefunction(get)


def user_of(token: _token.Token) -> str:
    """Return the role that a token's owner has by custom, or raise `CredentialError`."""
    read = _token.claims(token.text)
    if (name := _token.user(read)) is not None:
        return name
    raise CredentialError(
        _token.nameless(read),
        kind="no-user",
        hint='write user="…" with the name of its PostgreSQL role, for a service principal its '
        "display name in Microsoft Entra",
    )


def _cloud(cloud: Cloud | str) -> Cloud:
    if isinstance(cloud, Cloud):
        return cloud
    if (found := cloud_named(cloud)) is not None:
        return found
    names = ", ".join(repr(known.name) for known in CLOUDS)
    raise ConfigError(f"cloud={cloud!r} is none of {names}, nor an azpg.Cloud")


def _name(credential: object) -> str:
    if isinstance(credential, _DefaultCredential):
        return "DefaultAzureCredential"
    if is_credential(credential):
        return type(credential).__name__
    return getattr(credential, "__qualname__", type(credential).__name__)


def _in_thread(fly: Callable[[], None]) -> None:
    """Run it in a daemon thread of its own, or here when the interpreter is going down."""
    if sys.is_finalizing():  # Thread.start() would wait for ever
        return fly()
    context = contextvars.copy_context()
    try:
        threading.Thread(target=context.run, args=(fly,), name="azpg-token", daemon=True).start()
    except RuntimeError:
        fly()
