"""One request for a token: the context it runs in, its result, and which callers may use that."""

from __future__ import annotations

import contextvars
import decimal
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from azpg import _spelling
from azpg._attempt import Attempt
from azpg._deadline import Deadline

from .credential_errors import TokenFailure
from .token import Token

if TYPE_CHECKING:
    import asyncio

Outcome: TypeAlias = Token | TokenFailure


class Answer(NamedTuple):
    """What callers that wait for a token receive."""

    outcome: Outcome
    request: TokenRequest
    """the request that it came from: of several, the first that returned a token"""


def pending_answer() -> Future[Answer]:
    """Return a future that callers wait for."""
    answer: Future[Answer] = Future()
    # Running: a waiter that is canceled cannot cancel what others wait for.
    answer.set_running_or_notify_cancel()
    return answer


class TokenRequest:
    """A call of the credential that is in progress, in the context of the caller that started it.

    Any number of callers wait for its answer. They may use the token if the credential would have
    given them the same one: if it reads no context variable, or if they are in the same context.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop | None,
        *,
        started: float,
        timeout: float,
        credential_name: str,
        answer: Future[Answer],
    ) -> None:
        self.context = contextvars.copy_context()
        self.loop = loop
        """the event loop that an async credential is awaited on"""
        self.started = started
        """when, on the monotonic clock"""
        self.timeout = timeout
        """seconds that an async credential may take"""
        self.credential_name = credential_name
        """for messages; of a chain also the member that succeeded"""
        self.answer = answer
        self.thread_id: int | None = None
        """of the thread that it runs in, which sets it before anything else"""
        self.ended = threading.Event()
        self.overdue = False
        """it took longer than `timeout` in the background, and was counted as failed"""
        self.awaited = False
        """an async credential is awaited on the loop"""
        self.shared = True
        """the token may be given to other callers, as far as is known of its user"""
        self.any_context = False
        """the credential is azure-identity's own, which reads no context variable"""
        self.interactive = False
        """the credential may be interactive"""

    def serves(self, *, started: bool) -> bool:
        """Return whether the current caller may be given what this request returns.

        Args:
            started: Whether the caller started this request. Another caller must ask for itself if
                the token may be another user's.
        """
        return started or (self.shared and (self.any_context or self._same_context()))

    def _same_context(self) -> bool:
        one, other = map(_values, (self.context, contextvars.copy_context()))
        # By identity, because a value's __eq__ may do anything. Variables that only one of them
        # has are mostly a library's: a thread starts without any.
        return all(one[each] is other[each] for each in one.keys() & other.keys())


def _values(context: contextvars.Context) -> dict[contextvars.ContextVar[Any], object]:
    # Each thread has its own decimal.Context, each connect its own deadline and attempt, and each
    # entry point its own spelling.
    own = (decimal.Context, Deadline, Attempt)
    return {
        name: value
        for name, value in context.items()
        if type(value) not in own and name is not _spelling.CURRENT
    }
