"""Process-wide token cache: one entry per credential and scope, with single-flight refresh."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random
import sys
import threading
import time
import weakref
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from azpg.errors import ConfigError

from . import credential_errors
from .acquire import CredentialHolder
from .credential_errors import TokenFailure
from .credentials import DefaultCredential, proxy_error
from .refresh_policy import (
    REFRESH_THRESHOLD_SECONDS,
    REJECTION_COOLDOWN_SECONDS,
    CachedToken,
    RequestBackoff,
    after_failed_request,
    after_response,
    next_request_delay,
)
from .request import Answer, Outcome, TokenRequest, pending_answer
from .token import MIN_REMAINING_SECONDS, ClockReading, Token, is_same_subject

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from .acquire import TokenSource
    from .token import Subject

    CredentialEntries: TypeAlias = "tuple[Callable[[], object], dict[str, CacheEntry]]"
    """a function that returns the credential, and its entry for each scope"""

logger = logging.getLogger("azpg")

FORK_TIMEOUT_SECONDS = 10.0
"""How long a fork waits for token requests that are in progress.

A child that is forked during one would find azure.identity half imported, or share the
credential's connection.
"""

MAX_STRONG_CREDENTIALS = 100
"""Credentials kept that allow no weak reference; the least recently used one is dropped first."""

MANY_USERS_WARNING = (
    "%s returned a token of another user than before: its tokens are no longer cached, and each "
    "caller asks for its own. Pass one credential object per user"
)


def read_clocks() -> ClockReading:
    """Return both clocks as they are now."""
    return ClockReading(time.monotonic(), time.time())


class TokenStats(NamedTuple):
    """Count what an `EntraPassword` has done; no secret in it."""

    fetched: int
    failed: int
    seconds_to_expiry: float | None


class Pending(NamedTuple):
    """What a caller waits for."""

    answer: Future[Answer]
    request: TokenRequest | None
    """the one that this caller started"""
    next_request_in: float | None
    """seconds after which another request may be started, if one may be"""
    private: bool = False


class KeptFailure(NamedTuple):
    """The failure of the last request, which answers callers until the next one may be sent."""

    failure: TokenFailure
    request: TokenRequest
    backoff: RequestBackoff


class CacheEntry:
    """The token of one credential and scope, its refresh, and the requests in progress."""

    def __init__(self) -> None:
        self.cached: CachedToken | None = None
        self.subject: Subject = {}
        """whose the first token was that said so; it is kept when that token is gone"""
        self.many_users = False
        """a token of another user was seen: nothing is cached, and each caller asks for itself"""
        self.fetched = 0
        self.failed = 0
        self.rejected_at = -math.inf
        """when a token was last rejected, on the monotonic clock"""
        self.interactive = False
        """the credential may be interactive, so it is not called in the background"""
        self.holder = CredentialHolder()
        self.reset()

    def reset(self) -> None:
        """Set what a forked child does not inherit: it takes over the cached token only."""
        self.lock = threading.Lock()
        self.answer: Future[Answer] | None = None
        """what callers wait for while no token is usable"""
        self.shared_requests: list[TokenRequest] = []
        """those in progress that serve every caller, the newest one last"""
        self.private_requests: set[TokenRequest] = set()
        """those in progress that serve one caller each"""
        self.kept: KeptFailure | None = None
        self.holder = CredentialHolder(returns_text=self.holder.returns_text)
        self.threads: list[threading.Thread] = []
        """those of requests, some of which have ended"""

    def requests(self) -> list[TokenRequest]:
        """Return every request that is in progress."""
        return [*self.shared_requests, *self.private_requests]

    def asks_user(self) -> bool:
        """Return whether an interactive credential may be waiting for the user."""
        return any(request.interactive for request in self.requests())

    def request_age(self) -> float:
        """Return for how many seconds the oldest request has been in progress."""
        now = read_clocks().monotonic
        return max((now - request.started for request in self.requests()), default=0.0)

    def get(
        self, source: TokenSource, loop: asyncio.AbstractEventLoop | None, timeout: float
    ) -> Token | None:
        """Return the cached token if it is usable; if it is stale, refresh it in the background."""
        now = read_clocks()
        cached = self.cached
        if cached is None or (state := cached.state(now)) == "expired":
            return None
        if state == "stale" and not self.interactive:
            self._refresh(source, loop, timeout, now)
        return cached.token

    def _refresh(
        self,
        source: TokenSource,
        loop: asyncio.AbstractEventLoop | None,
        timeout: float,
        now: ClockReading,
    ) -> None:
        """Start a request in the background, unless the last one may still be answered in time."""
        newest = self.shared_requests[-1] if self.shared_requests else None
        if newest is None or newest.overdue:
            self.join_or_start(source, loop, timeout)
        elif newest.started < now.monotonic - timeout:
            self._set_overdue(newest, timeout, now)

    def join_or_start(
        self,
        source: TokenSource,
        loop: asyncio.AbstractEventLoop | None,
        timeout: float,
        *,
        private: bool = False,
    ) -> Pending:
        """Join the requests in progress, and start another one in a thread if it is time to.

        Args:
            source: What acquires the token.
            loop: The caller's event loop, if it runs on one.
            timeout: Seconds that an async credential may take.
            private: Start a request that serves only this caller.
        """
        with self.lock:
            private = private or self.many_users
            loop = self.holder.use_loop(loop)
            now = read_clocks().monotonic
            answer = self.answer if self.answer and not private else pending_answer()
            if not private:
                self.answer = answer
                delay = self._next_request_delay(now)
                if delay != 0.0:
                    return Pending(answer, None, delay)
            request = TokenRequest(
                loop, started=now, timeout=timeout, credential_name=source.name, answer=answer
            )
            if private:
                self.private_requests.add(request)
            else:
                self.shared_requests.append(request)
            delay = None if private else self._next_request_delay(now)
        self._run(request, source)
        return Pending(answer, request, delay, private=private)

    def _next_request_delay(self, now: float) -> float | None:
        """Return the seconds until another request may be started, if one may be. Locked."""
        if any(request.interactive for request in self.shared_requests):
            return None  # the user is being asked
        return next_request_delay([each.started for each in self.shared_requests], now)

    def _run(self, request: TokenRequest, source: TokenSource) -> None:
        """Run a request in its own daemon thread, or here if the interpreter is finalizing."""
        context = request.context.copy()
        fetch = partial(context.run, self._fetch, request, source)
        thread = threading.Thread(target=fetch, name="azpg-token", daemon=True)
        started = False
        if not sys.is_finalizing():  # then start() would never return
            with suppress(RuntimeError):
                thread.start()
                started = True
        if not started:
            fetch()
            return
        with self.lock:
            self.threads = [each for each in self.threads if each.is_alive()]
            self.threads.append(thread)

    def recent_failure(self) -> TokenFailure | None:
        """Return the last failure until the next request may be sent, if it is the caller's too."""
        kept, now = self.kept, read_clocks()
        if kept is None or (wait := kept.backoff.remaining(now)) <= 0.0:
            return None
        if not kept.request.serves(started=False):
            return None
        ago = now.seconds_since(kept.backoff.failed_at)
        return kept.failure._replace(
            message=f"{kept.failure.message} (asked {ago:.0f} s ago, again in {wait:.0f} s)",
            retry_at=now.monotonic + wait,
        )

    def reject(self, text: str) -> None:
        """Forget a token that the server rejected, at most once a minute."""
        now = read_clocks().monotonic
        with self.lock:
            recent = now - self.rejected_at < REJECTION_COOLDOWN_SECONDS
            if self.cached is not None and self.cached.token.text == text and not recent:
                self.cached, self.rejected_at = None, now

    def invalidate(self) -> None:
        """Forget the cached token, or the last failure."""
        self.cached = self.kept = None

    def stats(self) -> TokenStats:
        """Return the numbers of tokens and failures, and the seconds that the token is valid."""
        cached = self.cached
        remaining = None if cached is None else max(0.0, cached.token.remaining(read_clocks()))
        return TokenStats(self.fetched, self.failed, remaining)

    def _fetch(self, request: TokenRequest, source: TokenSource) -> None:
        """Acquire a token in the request's own thread, and complete the request."""
        request.thread_id = threading.get_ident()
        outcome = source.fetch(self.holder, request, read_clocks)
        if isinstance(outcome, Token) and self._has_stale_credential(outcome):
            stale, self.holder.made = self.holder.made, None
            outcome = source.fetch(self.holder, request, read_clocks)
            self.holder.close(stale)
        self._complete(request, outcome)
        request.ended.set()

    def _has_stale_credential(self, token: Token) -> bool:
        """Return whether a credential that a function made should have returned a newer token.

        Its own cache uses the wall clock, and still trusts the token if that clock was set back.
        """
        if self.holder.made is None or self.cached is None:
            return False
        if not token.is_same_as(self.cached.token):
            return False
        return self.cached.token.remaining(read_clocks()) < REFRESH_THRESHOLD_SECONDS / 2

    def _complete(self, request: TokenRequest, outcome: Outcome) -> None:
        """Store the result of a request, and give it to all callers that wait."""
        now, name = read_clocks(), request.credential_name
        with self.lock:
            private = request in self.private_requests
            self._remove(request)
            before = self.cached
            other_user = isinstance(outcome, Token) and self._is_another_users(outcome)
            if self.many_users:
                self.cached = before = None
                request.shared = False
            if isinstance(outcome, Token):
                self.interactive = request.interactive
                outcome = self._store_token(outcome, name, now, private=private)
            else:
                self._store_failure(request, outcome, now, private=private)
            if isinstance(outcome, Token):
                self.kept = None
            elif not private and outcome.is_repeatable and not self._awaits_newer(request, outcome):
                outcome = self._keep(request, outcome, now)
            answer: Future[Answer] | None = request.answer
            if not private:
                answer = None if self._awaits_newer(request, outcome) else self.answer
                if answer is not None:
                    self.answer = None
        if other_user:
            logger.warning(MANY_USERS_WARNING, name)
        if isinstance(outcome, Token) or not (private or request.overdue):
            _log(before, outcome, now, name)
        if answer is not None:
            answer.set_result(Answer(outcome, request))

    def _awaits_newer(self, request: TokenRequest, outcome: Outcome) -> bool:
        """Return whether a newer request may succeed where this one failed. Called locked."""
        if isinstance(outcome, Token) or not outcome.transient:
            return False
        return any(each.started > request.started for each in self.shared_requests)

    def _store_token(self, token: Token, name: str, now: ClockReading, *, private: bool) -> Outcome:
        """Cache a token if it is newer, and return the result of its request. Called locked."""
        before = self.cached
        if before is not None and before.token.is_usable(now) and token.is_usable(now):
            # Neither one caller's own request nor one that was overtaken by another changes when
            # the cached token is refreshed.
            overtaken = before.state(now) == "fresh" and not token.is_newer_than(before.token, now)
            if private or overtaken:
                self.fetched += not token.is_same_as(before.token)
                return token
        cached = after_response(before, token, now, random.uniform)
        if cached is None:
            self.failed += 1
            return _expired_failure(name, token, before, now)
        self.fetched += cached.token is token
        if not self.many_users:
            self.cached = cached
        return token if token.is_usable(now) else cached.token

    def _store_failure(
        self, request: TokenRequest, failure: TokenFailure, now: ClockReading, *, private: bool
    ) -> None:
        """Count a failure, and delay the next refresh. Called locked."""
        if failure.loop_closed and self.holder.loop is request.loop:
            self.holder.loop = None
        if request.overdue:  # it has been counted
            return
        self.failed += 1
        if not private and self.cached is not None and self.cached.state(now) == "stale":
            self.cached = self.cached.after_failure(now, random.uniform, failure.retry_after)

    def _keep(
        self, request: TokenRequest, failure: TokenFailure, now: ClockReading
    ) -> TokenFailure:
        """Keep a failure, and return it with the time of the next request. Called locked."""
        usable = self.cached is not None and self.cached.token.is_usable(now)
        if usable and failure.retry_after is None:
            return failure
        backoff = after_failed_request(
            None if self.kept is None else self.kept.backoff,
            request.started,
            now,
            random.uniform,
            retry_after=failure.retry_after,
        )
        self.kept = KeptFailure(failure, request, backoff)
        return failure._replace(retry_at=now.monotonic + backoff.delay)

    def _set_overdue(self, request: TokenRequest, timeout: float, now: ClockReading) -> None:
        """Count a background refresh as failed that has taken too long. Its token still counts."""
        failure = credential_errors.timeout(request.credential_name, timeout)
        with self.lock:
            before = self.cached
            if request.overdue or before is None:
                return
            self._store_failure(request, failure, now, private=False)
            request.overdue = True
        _log(before, failure, now, request.credential_name)

    def _remove(self, request: TokenRequest) -> None:
        """Remove a request that has ended. Called locked."""
        self.private_requests.discard(request)
        if request in self.shared_requests:  # not after a fork
            self.shared_requests.remove(request)

    def _is_another_users(self, token: Token) -> bool:
        """Return whether this is the first token of a second user. Called locked."""
        if not self.subject:
            self.subject = token.subject
        if self.many_users or is_same_subject(self.subject, token.subject):
            return False
        self.many_users = True
        return True


def _expired_failure(
    name: str, token: Token, before: CachedToken | None, now: ClockReading
) -> TokenFailure:
    hint = "check this machine's clock (timedatectl), or give a credential that renews its tokens"
    if before is not None and token.is_same_as(before.token):
        token = before.token
        hint = (
            "check this machine's clock (timedatectl), by which the credential keeps an old token; "
            "azpg replaces a credential that it makes itself: pass a function, "
            "⟦credential=ManagedIdentityCredential⟧"
        )
    remaining = max(0.0, token.remaining(now))
    return TokenFailure(
        f"{name} gave a token with {remaining:.0f} s left, and a connect needs "
        f"{MIN_REMAINING_SECONDS:.0f}",
        "credential",
        hint,
    )


def _log(before: CachedToken | None, outcome: Outcome, now: ClockReading, name: str) -> None:
    if isinstance(outcome, Token):
        if before is None or not outcome.is_same_as(before.token):
            logger.info("token from %s, good for %.0f s", name, outcome.remaining(now))
    elif before is not None and before.failures == 0 and before.token.is_usable(now):
        remaining = before.token.remaining(now)
        logger.warning(
            "no new token yet, the last is good for %.0f s: %s", remaining, outcome.message
        )


class TokenCache:
    """Every entry of the process. An entry is found by its credential object, and dies with it."""

    def __init__(self) -> None:
        self._entries: dict[int, CredentialEntries] = {}
        self._strong: dict[int, CredentialEntries] = {}
        """those whose credential allows no weak reference, the most recently used one last"""
        self._defaults: dict[tuple[str, str | None], DefaultCredential] = {}

    def default_credential(self, authority: str, client_id: str | None) -> DefaultCredential:
        """Return the one default credential for an authority and client id."""
        key = authority, client_id
        # setdefault is atomic: if two threads are here, both get the first one's.
        return self._defaults.get(key) or self._defaults.setdefault(
            key, DefaultCredential(authority, client_id)
        )

    def entry(self, credential: object, scope: str) -> CacheEntry:
        """Return the one entry for a credential and scope.

        Raises:
            ConfigError: The credential is a proxy.
        """
        # An id is used again when its object is gone, so the object itself is compared too.
        key = id(credential)
        entries = self._entries.get(key)
        if entries is not None and entries[0]() is not credential:
            self._entries.pop(key, None)
            entries = None
        if entries is None:
            if problem := proxy_error("credential", credential):
                raise ConfigError(problem)
            entries = self._entries.setdefault(key, (self._reference(credential), {}))
        if type(entries[0]) is not weakref.ref:
            self._keep(key, entries)
        return entries[1].get(scope) or entries[1].setdefault(scope, CacheEntry())

    def entries(self) -> list[CacheEntry]:
        """Return every entry."""
        return [
            entry
            for _, by_scope in list(self._entries.values())
            for entry in list(by_scope.values())
        ]

    def _reference(self, credential: object) -> Callable[[], object]:
        key = id(credential)

        def forget(dead: object) -> None:
            if self._entries.get(key, (None,))[0] is dead:
                self._entries.pop(key, None)

        try:
            return weakref.ref(credential, forget)
        except TypeError:  # it allows no weak reference
            return lambda: credential

    def _keep(self, key: int, entries: CredentialEntries) -> None:
        """Keep the credentials that were used last. They stay alive, so their ids stay theirs."""
        self._strong.pop(key, None)
        self._strong[key] = self._entries[key] = entries
        for oldest in list(self._strong)[:-MAX_STRONG_CREDENTIALS]:
            self._strong.pop(oldest, None)
            self._entries.pop(oldest, None)


TOKEN_CACHE = TokenCache()


def _before_fork() -> None:
    """Wait a while for requests: a credential that both processes use shares its connection."""
    own_loop = asyncio._get_running_loop()  # noqa: SLF001  # None instead of an error
    end = time.monotonic() + FORK_TIMEOUT_SECONDS
    for entry in TOKEN_CACHE.entries():
        skipped = {threading.get_ident()}  # a credential that forks
        for request in entry.requests():
            # What is awaited on this very loop cannot end before the fork.
            if request.awaited and request.loop is own_loop and request.thread_id is not None:
                skipped.add(request.thread_id)
            elif request.thread_id not in skipped:
                request.ended.wait(max(0.0, end - time.monotonic()))
        for thread in entry.threads:
            if thread.ident not in skipped:
                _join_native_thread(thread, end)


def _join_native_thread(thread: threading.Thread, end: float) -> None:
    """Wait for the native thread to exit: OpenSSL's handler for that takes a lock.

    A child that is forked meanwhile would inherit the lock as taken.
    """
    thread.join(max(0.0, end - time.monotonic()))
    if thread.native_id == threading.get_native_id():  # gevent's threads are greenlets of this one
        return
    # Before Python 3.13 the native thread outlives join() for a moment.
    while os.path.exists(f"/proc/self/task/{thread.native_id}") and time.monotonic() < end:
        time.sleep(0.0001)


def _after_fork_in_child() -> None:
    for entry in TOKEN_CACHE.entries():
        entry.reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
