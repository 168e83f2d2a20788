"""One request for a token: the context it runs in, its result, and which callers may use that."""

from __future__ import annotations

import contextvars
import decimal
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeAlias

from .credential_errors import TokenFailure
from .token import Token

if TYPE_CHECKING:
    import asyncio

Outcome: TypeAlias = Token | TokenFailure


class TokenRequest:
    """A call of the credential that is in progress, in the context of the caller that started it.

    Any number of callers wait for its result. They may use the token if the credential would have
    given them the same one: if it reads no context variable, or if they are in the same context.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop | None,
        *,
        started: float,
        timeout: float,
        credential_name: str,
    ) -> None:
        self.context = contextvars.copy_context()
        self.loop = loop
        """the event loop that an async credential is awaited on"""
        self.started = started
        """when, on the monotonic clock"""
        self.timeout = timeout
        """seconds that an async credential may take"""
        self.result: Future[Outcome] = Future()
        # Running: a waiter that is canceled cannot cancel what others wait for.
        self.result.set_running_or_notify_cancel()
        self.awaited = False
        """an async credential is awaited on the loop"""
        self.shared = True
        """the token may be given to other callers, as far as is known of its user"""
        self.any_context = False
        """the credential is azure-identity's own, which reads no context variable"""
        self.interactive = False
        """the credential may ask a person"""
        self.credential_name = credential_name
        """for messages; of a chain also the member that succeeded"""

    def token_for(
        self, outcome: Outcome, loop: asyncio.AbstractEventLoop | None, *, started: bool
    ) -> Token | None:
        """Return the token for a caller, or None if the caller must ask again.

        Args:
            outcome: The result of this request.
            loop: The caller's event loop, if it runs on one.
            started: Whether the caller started this request. Another caller must ask for itself if
                the token may be another user's.

        Raises:
            CredentialError: The request failed.
        """
        if isinstance(outcome, Token):
            usable = started or (self.shared and (self.any_context or self._same_context()))
            return outcome if usable else None
        if outcome.loop_closed and self.loop is not loop:
            return None
        raise outcome.error()

    def _same_context(self) -> bool:
        one, other = map(_values, (self.context, contextvars.copy_context()))
        # By identity, because a value's __eq__ may do anything. Variables that only one of them
        # has are mostly a library's: a thread starts without any.
        return all(one[each] is other[each] for each in one.keys() & other.keys())


def _values(context: contextvars.Context) -> dict[contextvars.ContextVar[Any], object]:
    # Each thread has its own decimal.Context.
    return {name: value for name, value in context.items() if type(value) is not decimal.Context}
