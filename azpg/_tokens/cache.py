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
from concurrent.futures import InvalidStateError
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from azpg.errors import ConfigError

from .acquire import CredentialHolder
from .credential_errors import TokenFailure
from .credentials import DefaultCredential, proxy_error
from .refresh_policy import (
    REFRESH_THRESHOLD_SECONDS,
    REJECTION_COOLDOWN_SECONDS,
    CachedToken,
    after_response,
)
from .request import Outcome, TokenRequest
from .token import MIN_REMAINING_SECONDS, ClockReading, Token, is_same_subject

if TYPE_CHECKING:
    from collections.abc import Callable

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


class CacheEntry:
    """The token of one credential and scope, its refresh, and the request in progress."""

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
        """the credential may ask a person, so it is never asked in the background"""
        self.reset()

    def reset(self) -> None:
        """Set what a forked child does not inherit: it takes over the cached token only."""
        self.lock = threading.Lock()
        self.request: TokenRequest | None = None
        self.private_requests: set[TokenRequest] = set()
        """requests that serve one caller each"""
        self.holder = CredentialHolder()
        self.threads: list[threading.Thread] = []
        """those of requests, some of which have ended"""

    def requests(self) -> list[TokenRequest]:
        """Return every request that is in progress."""
        request = self.request
        return [*self.private_requests] if request is None else [request, *self.private_requests]

    def get(
        self, source: TokenSource, loop: asyncio.AbstractEventLoop | None, timeout: float
    ) -> Token | None:
        """Return the cached token if it is usable; if it is stale, refresh it in the background."""
        now = read_clocks()
        cached = self.cached
        if cached is None or (state := cached.state(now)) == "expired":
            return None
        if state == "stale" and not self.interactive:
            request = self.request
            if request is None:
                self.join_or_start(source, loop, timeout)
            elif request.started < now.monotonic - timeout:
                self._complete(request, source.timeout_failure(timeout))
        return cached.token

    def join_or_start(
        self,
        source: TokenSource,
        loop: asyncio.AbstractEventLoop | None,
        timeout: float,
        *,
        private: bool = False,
    ) -> tuple[TokenRequest, bool]:
        """Return the request in progress, or start one in a thread; and whether it was started.

        Args:
            source: What acquires the token.
            loop: The caller's event loop, if it runs on one.
            timeout: Seconds after which a request in progress is given up.
            private: Start a request that serves only this caller.
        """
        with self.lock:
            private = private or self.many_users
            loop = self.holder.use_loop(loop)
            now = read_clocks().monotonic
            pending = self.request
            if not private and pending is not None and pending.started >= now - timeout:
                return pending, False
            request = TokenRequest(loop, started=now, timeout=timeout, credential_name=source.name)
            if private:
                self.private_requests.add(request)
            else:
                self.request = request
        thread = _run_in_thread(lambda: self._fetch(request, source), request)
        with self.lock:
            self.threads = [each for each in self.threads if each.is_alive()]
            if thread is not None:
                self.threads.append(thread)
        return request, True

    def abandon(self, request: TokenRequest) -> None:
        """Give up a request: it has failed, and the next caller starts another one."""
        with self.lock:
            self.failed += self._remove(request)

    def reject(self, text: str) -> None:
        """Forget a token that the server rejected, at most once a minute."""
        now = read_clocks().monotonic
        with self.lock:
            recent = now - self.rejected_at < REJECTION_COOLDOWN_SECONDS
            if self.cached is not None and self.cached.token.text == text and not recent:
                self.cached, self.rejected_at = None, now

    def invalidate(self) -> None:
        """Forget the cached token."""
        self.cached = None

    def stats(self) -> TokenStats:
        """Return the numbers of tokens and failures, and the seconds that the token is valid."""
        cached = self.cached
        remaining = None if cached is None else max(0.0, cached.token.remaining(read_clocks()))
        return TokenStats(self.fetched, self.failed, remaining)

    def _fetch(self, request: TokenRequest, source: TokenSource) -> None:
        """Acquire a token in the request's own thread, and complete the request."""
        outcome = source.fetch(self.holder, request, read_clocks)
        if isinstance(outcome, Token) and self._has_stale_credential(outcome):
            self.holder.made = None
            outcome = source.fetch(self.holder, request, read_clocks)
        self._complete(request, outcome)

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
            before = self.cached
            pending = self._remove(request)
            other_user = isinstance(outcome, Token) and self._is_another_users(outcome)
            if self.many_users:
                self.cached = before = None
                request.shared = False
            if isinstance(outcome, Token):
                self.interactive = request.interactive
                outcome = self._store_token(outcome, name, now, private=private)
            else:
                self._store_failure(request, outcome, now, pending=pending, private=private)
        if other_user:
            logger.warning(MANY_USERS_WARNING, name)
        if (pending and not private) or isinstance(outcome, Token):
            _log(before, outcome, now, name)
        with suppress(InvalidStateError):  # it was given up
            request.result.set_result(outcome)

    def _store_token(self, token: Token, name: str, now: ClockReading, *, private: bool) -> Outcome:
        """Cache a token if it is newer, and return the result of its request. Called locked."""
        before = self.cached
        if private and before is not None and before.token.is_usable(now) and token.is_usable(now):
            # The cached token is refreshed at its own time, whoever asked for this one.
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
        self,
        request: TokenRequest,
        failure: TokenFailure,
        now: ClockReading,
        *,
        pending: bool,
        private: bool,
    ) -> None:
        """Count a failure, and delay the next refresh. Called locked."""
        if failure.loop_closed and self.holder.loop is request.loop:
            self.holder.loop = None
        self.failed += pending  # one that was given up has been counted
        if pending and not private and self.cached is not None and self.cached.token.is_usable(now):
            self.cached = self.cached.after_failure(now, random.uniform)

    def _remove(self, request: TokenRequest) -> bool:
        """Remove a request, and return whether it was still in progress. Called locked."""
        if request in self.private_requests:
            self.private_requests.remove(request)
            return True
        if self.request is request:
            self.request = None
            return True
        return False

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
    if before is not None and token.is_same_as(before.token):
        token = before.token
    remaining = max(0.0, token.remaining(now))
    return TokenFailure(
        f"{name} gave a token with {remaining:.0f} s left, and a connect needs "
        f"{MIN_REMAINING_SECONDS:.0f}",
        "credential",
        "check this machine's clock (timedatectl), or give a credential that renews its tokens",
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


def _run_in_thread(fetch: Callable[[], None], request: TokenRequest) -> threading.Thread | None:
    """Run a request in its own daemon thread, or here if the interpreter is finalizing."""
    context = request.context.copy()
    thread = threading.Thread(target=context.run, args=(fetch,), name="azpg-token", daemon=True)
    if not sys.is_finalizing():  # then start() would never return
        with suppress(RuntimeError):
            thread.start()
            return thread
    fetch()
    return None


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
        for request in entry.requests():
            # What is awaited on this very loop cannot end before the fork.
            if not (request.awaited and request.loop is own_loop):
                with suppress(TimeoutError):
                    request.result.result(max(0.0, end - time.monotonic()))
        if not entry.requests():
            for thread in entry.threads:
                _join_native_thread(thread, end)


def _join_native_thread(thread: threading.Thread, end: float) -> None:
    """Wait for the native thread to exit: OpenSSL's handler for that takes a lock.

    A child that is forked meanwhile would inherit the lock as taken.
    """
    thread.join(max(0.0, end - time.monotonic()))
    # Before Python 3.13 the native thread outlives join() for a moment.
    while os.path.exists(f"/proc/self/task/{thread.native_id}") and time.monotonic() < end:
        time.sleep(0.0001)


def _after_fork_in_child() -> None:
    for entry in TOKEN_CACHE.entries():
        entry.reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
