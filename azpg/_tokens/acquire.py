"""Call a credential for a token: in the request's thread, or on the event loop that owns it.

A function that is passed as the credential makes a credential, which is kept, or returns the text
of a token, and is then called for each new one. What it returns first decides.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from concurrent.futures import CancelledError
from contextlib import suppress
from types import CoroutineType
from typing import TYPE_CHECKING, Any, cast

from azpg import _jwt
from azpg._tracebacks import callers_error
from azpg.errors import ConfigError

from . import credential_errors, credentials
from .credentials import DefaultCredential, ServicePrincipal
from .token import Token

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    from azure.core.credentials import AccessToken, AccessTokenInfo

    from .request import Outcome, TokenRequest
    from .token import ClockReading


class CredentialHolder:
    """The credential that a function made for a cache entry, and the loop that owns an async one.

    The entry keeps neither a credential object that was passed nor a function: it would keep them
    alive. What the function made is azpg's to close.
    """

    def __init__(self, *, returns_text: bool | None = None) -> None:
        self.returns_text = returns_text
        """whether the function returns the text of a token; None until it has returned"""
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

    def credential_name(self, holder: CredentialHolder) -> str:
        """Return the name of the credential and, for a chain, of the member that succeeded."""
        return credentials.describe_chain(self._credential if holder.made is None else holder.made)

    def _credential_or_text(self, holder: CredentialHolder, request: TokenRequest) -> object:
        """Return the credential object, or the text of a new token, from its function if needed."""
        if credentials.is_credential(self._credential):
            return self._credential
        if holder.made is not None:
            return holder.made
        returned = cast("Callable[[], object]", self._credential)()
        if type(returned) is CoroutineType:  # not isinstance: it calls the function of a proxy
            returned = _await(returned, request, "it is an async function")
        if problem := credentials.proxy_error("what it returned", returned):
            raise ConfigError(problem)
        is_text = isinstance(returned, str)
        if not is_text and not credentials.is_credential(returned):
            raise _FunctionError(_no_credential_problem(returned))
        if holder.returns_text is None:
            holder.returns_text = is_text
        if holder.returns_text != is_text:
            first, now = ("credential", "text") if is_text else ("text", "credential")
            raise _FunctionError(f"it returned a {first} at first and now a {now}: return only one")
        if not is_text:
            holder.made = returned
        return returned

    def fetch(
        self,
        holder: CredentialHolder,
        request: TokenRequest,
        read_clocks: Callable[[], ClockReading],
    ) -> Outcome:
        """Return a new token, or the failure, of whatever kind, for those who wait for it."""
        credentials.LAST_RESPONSE.set(None)
        try:
            credential = self._credential_or_text(holder, request)
            if isinstance(credential, str):
                return _token_from_text(credential, read_clocks())
            request.any_context = credentials.is_azure_identitys(credential)
            request.interactive = credentials.is_interactive(credential)
            response = self._call(credential, holder, request)
            request.credential_name = credentials.describe_chain(credential)
            text = _require_text(response.token)
            refresh_on = getattr(response, "refresh_on", None)
            return Token.from_response(text, response.expires_on, refresh_on, read_clocks())
        except _CredentialTimeoutError:
            return credential_errors.timeout(self.name, request.timeout)
        except _FunctionError as error:
            resource = self._scope.removesuffix("/.default")
            return credential_errors.from_function(self.name, str(error), resource)
        except CancelledError as error:
            # Canceled with its event loop, which is not a failure for callers on other loops.
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
                environment_hint=credentials.environment_hint(),
                client_id=credentials.client_id_source(self._credential),
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
            if loop is not None and loop.is_running():
                loop.call_soon_threadsafe(holder.close_with_loop, credential)
            response = _await(response, request, "it is an async credential")
        return cast("AccessToken | AccessTokenInfo", response)


def _await(awaitable: Coroutine[Any, Any, Any], request: TokenRequest, what: str) -> Any:
    """Return the result of a coroutine, which runs on the event loop of the request."""
    loop = request.loop
    if loop is None or not loop.is_running():
        awaitable.close()
        raise NoEventLoopError(what)
    request.awaited = True
    task = asyncio.run_coroutine_threadsafe(awaitable, loop)
    try:
        return task.result(request.timeout)
    except TimeoutError:
        if not task.cancel():  # it had ended, so the error is its own
            raise
        raise _CredentialTimeoutError from None


def _token_from_text(text: str, now: ClockReading) -> Token:
    """Return the token whose text a function returned; its claims say when it expires."""
    if not _JWT.fullmatch(text):
        raise _FunctionError(
            "it returned text that is not a token: return the token alone, without Bearer, quotes, "
            "spaces or line breaks"
        )
    claims = _jwt.claims(text)
    if service := _jwt.other_service(claims):
        raise _FunctionError(
            f"it returned a token for {service}, which no database accepts and which opens more "
            f"than a database"
        )
    expires_on = claims.get("exp")
    if not isinstance(expires_on, int | float) or not 0 < expires_on < MAX_EXPIRY:
        raise _FunctionError("it returned a token that does not say when it expires (exp)")
    return Token.from_response(text, float(expires_on), None, now)


def _no_credential_problem(returned: object) -> str:
    kind = type(returned).__name__
    if isinstance(getattr(returned, "token", None), str):
        return f"it returned {kind}: return its .token, or the credential itself"
    return f"it returned {kind}, which is neither a credential nor the text of a token"


_JWT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")

MAX_EXPIRY = 2**40
"""A later `exp`, in seconds since 1970, is invalid: claims may hold any number, and infinity."""


def _require_text(token: object) -> str:
    if isinstance(token, str) and token and token.isascii() and token.isprintable():
        return token
    raise ValueError("its token is not plain text")


class _CredentialTimeoutError(Exception):
    """An async credential took longer than its callers wait."""


class _FunctionError(Exception):
    """A function that is passed as the credential returned something else."""


class NoEventLoopError(Exception):
    """An async credential or function cannot be awaited."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what}, and no event loop is running to await it: use connect_async(), or "
            + (
                "the credential of the same name in azure.identity"
                if "credential" in what
                else "a plain function"
            )
        )
