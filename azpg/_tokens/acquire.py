"""Call a credential for a token: in the request's thread, or on the event loop that owns it."""

from __future__ import annotations

import asyncio
import inspect
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from azpg._tracebacks import callers_error
from azpg.errors import ConfigError

from . import credential_errors, credentials
from .credentials import DefaultCredential, ServicePrincipal
from .token import Token

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from azure.core.credentials import AccessToken, AccessTokenInfo

    from .request import Outcome, TokenRequest
    from .token import ClockReading


class CredentialHolder:
    """The credential that a function made for a cache entry, and the loop that owns an async one.

    The entry keeps neither a credential object that was passed nor a function: it would keep them
    alive. What the function made is azpg's to close.
    """

    def __init__(self) -> None:
        self.made: object = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self._closer: AsyncGenerator[None] | None = None

    def use_loop(self, loop: asyncio.AbstractEventLoop | None) -> asyncio.AbstractEventLoop | None:
        """Return the loop that awaits an async credential: the caller's if none runs any more."""
        if self.loop is None or not self.loop.is_running():
            if self.loop is not loop and credentials.is_async(self.made):
                self.made = self._closer = None  # it was closed with its loop
            self.loop = loop
        return self.loop

    def close_with_loop(self, credential: object) -> None:
        """Have the running event loop close an async credential that a function made.

        `asyncio.run()` closes the async generators that were started on its loop before it closes
        the loop. A task that waits for the end would be seen by `asyncio.all_tasks()`.
        """
        if credential is self.made and self._closer is None:
            self._closer = _close_at_the_end(credential)
            with suppress(StopIteration):  # it yields at once
                self._closer.__anext__().send(None)

    def close(self, credential: object) -> None:
        """Close a sync credential that a function made, unless it returned the same one again."""
        close = getattr(credential, "close", None)
        if credential is self.made or close is None or inspect.iscoroutinefunction(close):
            return
        with suppress(Exception):  # nobody uses it any more
            close()


async def _close_at_the_end(credential: Any) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        if hasattr(credential, "close"):
            await credential.close()


class TokenSource:
    """Acquire the tokens of a credential, or of a function that makes one, for one scope."""

    def __init__(self, credential: object, scope: str) -> None:
        self._credential = credential
        self._scope = scope

    @property
    def name(self) -> str:
        """The name of the credential for messages."""
        return credentials.describe(self._credential)

    def credential(self, holder: CredentialHolder) -> object:
        """Return the credential object, made by its function if it does not exist yet."""
        if credentials.is_credential(self._credential):
            return self._credential
        if holder.made is None:
            made = cast("Callable[[], object]", self._credential)()
            if problem := credentials.proxy_error("what it returned", made):
                raise ConfigError(problem)
            holder.made = made
        return holder.made

    def fetch(
        self,
        holder: CredentialHolder,
        request: TokenRequest,
        read_clocks: Callable[[], ClockReading],
    ) -> Outcome:
        """Return a new token, or the failure, of whatever kind, for those who wait for it."""
        credentials.LAST_RESPONSE.set(None)
        try:
            credential = self.credential(holder)
            request.any_context = credentials.is_azure_identitys(credential)
            request.interactive = credentials.is_interactive(credential)
            response = self._call(credential, holder, request)
            request.credential_name = credentials.describe_chain(credential)
            text = _require_text(response.token)
            refresh_on = getattr(response, "refresh_on", None)
            return Token.from_response(text, response.expires_on, refresh_on, read_clocks())
        except _CredentialTimeoutError:
            return credential_errors.timeout(self.name, request.timeout)
        except CancelledError as error:
            # Canceled with its event loop, which is no failure for callers on other loops.
            failure = credential_errors.classify(self.name, error)
            return failure._replace(loop_closed=True, is_repeatable=False)
        except NoEventLoopError as error:
            return credential_errors.classify(self.name, error)._replace(is_repeatable=False)
        except BaseException as error:  # noqa: BLE001  # the callers that wait must be told
            failure = credential_errors.classify(
                self.name,
                error,
                credentials.LAST_RESPONSE.get(),
                expects_endpoint=self._expects_endpoint(holder),
            )
            return failure._replace(cause=callers_error(error))

    def _expects_endpoint(self, holder: CredentialHolder) -> bool:
        """Return whether a failure without a response means that an endpoint is away."""
        seen = isinstance(self._credential, DefaultCredential | ServicePrincipal)
        return seen and credentials.expects_endpoint(holder.made)

    def _call(
        self, credential: Any, holder: CredentialHolder, request: TokenRequest
    ) -> AccessToken | AccessTokenInfo:
        get = getattr(credential, "get_token_info", None) or credential.get_token
        response = get(self._scope)
        if inspect.iscoroutine(response):
            loop = request.loop
            if loop is None or not loop.is_running():
                response.close()
                raise NoEventLoopError
            request.awaited = True
            loop.call_soon_threadsafe(holder.close_with_loop, credential)
            task = asyncio.run_coroutine_threadsafe(response, loop)
            try:
                response = task.result(request.timeout)
            except TimeoutError:
                if not task.cancel():  # it had ended, so the error is its own
                    raise
                raise _CredentialTimeoutError from None
        return cast("AccessToken | AccessTokenInfo", response)


def _require_text(token: object) -> str:
    if isinstance(token, str) and token and token.isascii() and token.isprintable():
        return token
    raise ValueError("its token is no plain text")


class _CredentialTimeoutError(Exception):
    """An async credential took longer than its callers wait."""


class NoEventLoopError(Exception):
    """An async credential cannot be awaited."""

    def __str__(self) -> str:
        return (
            "it is an async credential, and no event loop is running to await it: use "
            "connect_async(), or the credential of the same name in azure.identity"
        )
