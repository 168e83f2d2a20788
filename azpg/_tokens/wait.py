"""One caller's wait for a token: when it joins or starts requests, and when it stops waiting."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from azpg._deadline import STOP_CHECK_SECONDS

from . import credential_errors, identity_import
from .token import Token

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Future

    from azpg._deadline import Deadline
    from azpg.errors import CredentialError

    from .acquire import TokenSource
    from .cache import CacheEntry
    from .request import Answer, TokenRequest


class TokenWait:
    """The state that the sync and the async wait for a token share.

    A deadline ends the wait of its caller and nothing else: requests go on, and their token serves
    the next caller.
    """

    answer: Future[Answer]
    """what to wait for, at most `seconds()`, after `token()` returned None"""

    def __init__(
        self,
        entry: CacheEntry,
        source: TokenSource,
        loop: asyncio.AbstractEventLoop | None,
        timeout: float,
        deadline: Deadline | None,
    ) -> None:
        self._entry = entry
        self._source = source
        self._loop = loop
        self._timeout = timeout
        self._deadline = deadline
        self._begun = time.monotonic()
        self._started: list[TokenRequest] = []
        """requests that this caller started"""
        self._private = False
        """the caller needs a request that serves only itself"""
        self._is_waiting = False
        self._next_request_at: float | None = None

    def token(self) -> Token | None:
        """Return a valid token, or None if there is something to wait for.

        Raises:
            CredentialError: The credential failed, or the time is up.
            Stopped: The caller no longer waits.
        """
        if self._deadline is not None:
            self._deadline.check_stopped()
        if self._is_waiting:
            if self.answer.done():
                self._is_waiting = False
                if (token := self._answered(self.answer.result())) is not None:
                    return token
            elif time.monotonic() >= self._end():
                raise self._timed_out()
        if not self._private:
            token = self._entry.get(self._source, self._loop, self._timeout)
            if token is not None:
                return token
            if not self._is_waiting and (failure := self._entry.recent_failure()) is not None:
                raise failure.error()
        if not (self._private and self._is_waiting):
            self._join_or_start()
        return None

    def seconds(self) -> float:
        """Return how long to wait for the answer before calling `token()` again."""
        now, until = time.monotonic(), self._end()
        if self._next_request_at is not None:
            until = min(until, self._next_request_at)
        if self._deadline is not None and self._deadline.stopped is not None:
            until = min(until, now + STOP_CHECK_SECONDS)
        return max(0.0, until - now)

    def _join_or_start(self) -> None:
        pending = self._entry.join_or_start(
            self._source, self._loop, self._timeout, private=self._private
        )
        self.answer = pending.answer
        self._is_waiting = True
        self._private = pending.private
        if pending.request is not None:
            self._started.append(pending.request)
        delay = pending.next_request_in
        self._next_request_at = None if delay is None else time.monotonic() + delay

    def _answered(self, answer: Answer) -> Token | None:
        """Return the token of an answer, or None if this caller must ask again."""
        outcome, request = answer
        if isinstance(outcome, Token):
            if request.serves(started=request in self._started):
                return outcome
            self._private = True
            return None
        if outcome.loop_closed and request.loop is not self._loop:
            return None
        raise outcome.error()

    def _end(self) -> float:
        """Return when the caller stops waiting, on the monotonic clock."""
        end = self._begun + self._timeout + self._import_seconds()
        if self._deadline is None or self._entry.interactive or self._entry.asks_user():
            return end
        return min(end, self._deadline.at)

    def _timed_out(self) -> CredentialError:
        imported = self._import_seconds()
        waited = self._end() - self._begun
        source = ""
        if self._deadline is not None and waited < self._timeout + imported:
            source = self._deadline.source
        else:
            waited = self._timeout
        name, age = self._source.name, self._entry.request_age()
        return credential_errors.timeout(
            name, max(0.0, waited), source, age - imported, imported
        ).error()

    def _import_seconds(self) -> float:
        """Return how long azure.identity was imported during the wait."""
        return identity_import.seconds_since(self._begun)
