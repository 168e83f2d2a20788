"""EntraPassword: a Microsoft Entra token as password, fetched once and renewed ahead."""

from __future__ import annotations

import asyncio
import inspect
import random
import time
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Self, cast

from azpg._clouds import AZURE_PUBLIC, CLOUDS, Cloud, cloud_by_name
from azpg._redact import quote
from azpg.errors import ConfigError

from . import credential_errors, credentials
from .cache import SLOTS, Failure, Flight, Outcome, clocks
from .token import Token, received

if TYPE_CHECKING:
    from collections.abc import Callable

    from azure.core.credentials import AccessToken, AccessTokenInfo

    from .credentials import Credential


class TokenStats(NamedTuple):
    """Count what an `EntraPassword` has done; no secret in it."""

    fetched: int
    failed: int
    seconds_to_expiry: float | None


class EntraPassword:
    """Give a valid Microsoft Entra token wherever a password callback is taken.

    `credential` is any azure-identity credential, sync or async, or a function that makes one;
    without it the default credential of the cloud's authority, made once per process (`client_id`
    chooses its user-assigned or workload identity). Pass one object per user, and no proxy: tokens
    are cached by the object. `cloud` is an `azpg.Cloud` or its name. `timeout` is in seconds, for
    one token.

    The token is fetched once for all that share the credential and cloud: threads, tasks, event
    loops, pools. Calling the object returns it as text, `call_async()` does the same without
    blocking the event loop. A sync credential is called in a thread, and needs no aiohttp.

    Raise `CredentialError` when no token can be had, `ConfigError` for a cloud of no known name.

    >>> token = azpg.EntraPassword(azure.identity.ManagedIdentityCredential())
    >>> token.user()
    'myapp'
    >>> dsn = azpg.conninfo(server="myserver", user="myapp")
    >>> psycopg.connect(dsn, password=token()).close()
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
        self.cloud = cloud if isinstance(cloud, Cloud) else _known(cloud)
        self.timeout = timeout
        if credential is not None and client_id is not None:
            raise ConfigError("client_id is for the default credential: give it to the credential")
        self._credential: object = (
            SLOTS.default(self.cloud.authority, client_id) if credential is None else credential
        )
        self._slot = SLOTS.slot(self._credential, self.cloud.scope)

    def __repr__(self) -> str:
        return f"<azpg.EntraPassword of {credentials.name(self._credential)} for {self.cloud.name}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an azpg.EntraPassword is not pickled: make one in each process")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self  # frameworks copy their settings: there is still one token

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
        return self.token().role()

    def invalidate(self) -> None:
        """Forget the token held, so that the next call asks the credential."""
        self._slot.held = None

    def stats(self) -> TokenStats:
        """Return how many tokens were fetched, how many tries failed, and the seconds left."""
        slot = self._slot
        left = None if slot.held is None else max(0.0, slot.held.token.left(clocks()))
        return TokenStats(slot.fetched, slot.failed, left)

    # Below: what azpg itself calls.

    def answered_by(self) -> str:
        """Return the name of the credential, and of a chain the one that answered."""
        return credentials.spoke(self._made())

    def token(self) -> Token:
        """Return a valid token with what is known of it."""
        end, alone = time.monotonic() + self.timeout, False
        while alone or (token := self._in_hand(None)) is None:
            flight, started = self._board(None, alone=alone)
            try:
                outcome = flight.result(max(0.0, end - time.monotonic()))
            except TimeoutError:
                self._slot.leave(flight)
                raise self._late().error() from None
            if (token := flight.landed(outcome, None, started=started)) is not None:
                break
            alone = alone or isinstance(outcome, Token)
        return token

    async def token_async(self) -> Token:
        """Return a valid token with what is known of it, without blocking the event loop."""
        loop = asyncio.get_running_loop()
        end, alone = time.monotonic() + self.timeout, False
        while alone or (token := self._in_hand(loop)) is None:
            flight, started = self._board(loop, alone=alone)
            try:
                left = max(0.0, end - time.monotonic())
                outcome = await asyncio.wait_for(asyncio.wrap_future(flight), left)
            except TimeoutError:
                self._slot.leave(flight)
                raise self._late().error() from None
            if (token := flight.landed(outcome, loop, started=started)) is not None:
                break
            alone = alone or isinstance(outcome, Token)
        return token

    def drop(self, refused: str) -> None:
        """Forget a token that the server refused, so that the next call asks for another."""
        self._slot.drop(refused)

    def _in_hand(self, loop: asyncio.AbstractEventLoop | None) -> Token | None:
        """Return the token held while it is usable; in time, start the flight for the next."""
        slot, now = self._slot, clocks()
        held = slot.held
        if held is None or (state := held.state(now)) == "spent":
            return None
        if state == "due" and not slot.personal:
            if (flight := slot.flight) is None:
                self._board(loop)
            elif flight.started < now.monotonic - self.timeout:
                slot.land(flight, self._late(), credentials.name(self._credential))
        return held.token

    def _board(
        self, loop: asyncio.AbstractEventLoop | None, *, alone: bool = False
    ) -> tuple[Flight, bool]:
        return self._slot.board(loop, self.timeout, self._fly, alone=alone)

    def _fly(self, flight: Flight) -> None:
        name = credentials.name(self._credential)
        outcome: Outcome
        try:
            outcome = self._fetch(flight)
            if self._slot.stuck(outcome):
                outcome = self._fetch(flight)
            made = self._made()
            name = credentials.spoke(made)
            self._slot.personal = credentials.asks_a_person(made)
            flight.any_context = credentials.is_azure_identitys(made)
        except _LateError:
            outcome = self._late()
        except CancelledError as error:
            # With the loop it ran on: that is no word of the credential's to those on other loops.
            outcome = Failure(*credential_errors.credential(name, error), lost=True)
        except BaseException as error:  # noqa: BLE001  # whoever waits must hear of it
            outcome = Failure(*credential_errors.credential(name, error))
        self._slot.land(flight, outcome, name)

    def _fetch(self, flight: Flight) -> Token:
        answer = self._ask(flight)
        text: object = answer.token
        if not (isinstance(text, str) and text and text.isascii() and text.isprintable()):
            raise ValueError("its token is no plain text")
        refresh_on = getattr(answer, "refresh_on", None)
        return received(text, answer.expires_on, refresh_on, now=clocks(), chance=random.uniform)

    def _ask(self, flight: Flight) -> AccessToken | AccessTokenInfo:
        credential: Any = self._made()
        get = getattr(credential, "get_token_info", None) or credential.get_token
        answer = get(self.cloud.scope)
        if inspect.iscoroutine(answer):
            loop = flight.loop
            if loop is None or not loop.is_running():
                answer.close()
                raise _NoLoop
            flight.awaited = True
            task = asyncio.run_coroutine_threadsafe(answer, loop)
            try:
                answer = task.result(self.timeout)
            except TimeoutError:
                if not task.cancel():  # it had ended, so the error is its own
                    raise
                raise _LateError from None
        return cast("AccessToken | AccessTokenInfo", answer)

    def _made(self) -> object:
        if credentials.is_credential(self._credential):
            return self._credential
        slot = self._slot
        if slot.made is None:
            made = cast("Callable[[], object]", self._credential)()
            if problem := credentials.proxied("what it returned", made):
                raise ConfigError(problem)
            slot.made = made
        return slot.made

    def _late(self) -> Failure:
        name = credentials.name(self._credential)
        return Failure(*credential_errors.credential_late(name, self.timeout), transient=True)


class _LateError(Exception):
    """An async credential took longer than its callers wait."""


class _NoLoop(Exception):  # noqa: N818  # never leaves this module
    def __str__(self) -> str:
        return (
            "it is an async credential, and no event loop is running to await it: use "
            "connect_async(), or the credential of the same name in azure.identity"
        )


def _known(cloud: str) -> Cloud:
    if (found := cloud_by_name(cloud)) is not None:
        return found
    names = ", ".join(repr(known.name) for known in CLOUDS)
    raise ConfigError(f"cloud={quote(cloud)} is none of {names}, nor an azpg.Cloud")
