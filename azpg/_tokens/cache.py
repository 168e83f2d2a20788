"""The tokens of this process: for each credential and scope one slot, and one flight at a time."""

from __future__ import annotations

import asyncio
import contextvars
import decimal
import logging
import math
import os
import random
import sys
import threading
import time
import weakref
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias

from azpg.errors import ConfigError, CredentialError

from .credentials import DefaultCredential, must_be_awaited, proxied
from .token import (
    LATE,
    MARGIN,
    ONE_REPLACEMENT,
    Clocks,
    Held,
    Token,
    answered,
    same_subject,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from .token import Subject

    Entry: TypeAlias = "tuple[Callable[[], object], dict[str, Slot]]"
    """what returns the credential, and its slot for each scope"""

logger = logging.getLogger("azpg")

FORK_WAIT = 10.0
"""Seconds that a fork waits for tokens on their way.

A child forked in the middle of one would find azure.identity half imported, for ever, or share its
connection.
"""

MAX_STRONG_CREDENTIALS = 100
"""Credentials kept that allow no weak reference; the one used longest ago goes first."""


def clocks() -> Clocks:
    """Look at both clocks."""
    return Clocks(time.monotonic(), time.time())


class Failure:
    """What every waiter of a failed flight is told, each in an exception of its own."""

    def __init__(
        self, text: str, kind: str, hint: str, *, transient: bool = False, lost: bool = False
    ) -> None:
        self.text = text
        self.kind = kind
        self.hint = hint
        self.transient = transient
        self.lost = lost
        """an async credential's loop ended under it: callers elsewhere try again"""

    def error(self) -> CredentialError:
        """Return it as an exception."""
        return CredentialError(self.text, kind=self.kind, hint=self.hint, transient=self.transient)


Outcome: TypeAlias = Token | Failure


class Flight(Future[Outcome]):
    """One request for a token, in the context of the caller that started it.

    Any number of callers wait for it. Its token is theirs too if the credential would have given
    them the same one: if it looks at no context variable, or they are in the same context.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None, started: float) -> None:
        super().__init__()
        self.context = contextvars.copy_context()
        self.shared = True
        """others may have its token: no other user's was seen"""
        self.any_context = False
        """the credential is azure-identity's, which looks at no context variable"""
        self.loop = loop
        """where an async credential is awaited"""
        self.awaited = False
        self.started = started
        # Running: a waiter that is cancelled cannot cancel what others wait for.
        self.set_running_or_notify_cancel()

    def landed(
        self, outcome: Outcome, loop: asyncio.AbstractEventLoop | None, *, started: bool
    ) -> Token | None:
        """Return the token for a caller on `loop`, or None if it must ask again.

        `started` is whether the caller started this request. Another caller must ask for itself
        if the token may be another user's.
        """
        if isinstance(outcome, Token):
            mine = started or (self.shared and (self.any_context or self._same_context()))
            return outcome if mine else None
        if outcome.lost and self.loop is not loop:
            return None
        raise outcome.error()

    def _same_context(self) -> bool:
        one, other = map(_values, (self.context, contextvars.copy_context()))
        # By identity: a value's own __eq__ might do anything. A variable that only one of them has
        # is mostly a library's: a thread of its own begins without any.
        return all(one[each] is other[each] for each in one.keys() & other.keys())


def _values(context: contextvars.Context) -> dict[contextvars.ContextVar[Any], object]:
    # Each thread has a decimal.Context of its own.
    return {name: value for name, value in context.items() if type(value) is not decimal.Context}


class Slot:
    """The token of one credential and scope, and the flight that fetches the next."""

    def __init__(self) -> None:
        self.held: Held | None = None
        self.subject: Subject = {}
        """whose the first token was that said so; it stays when that token has gone"""
        self.many_users = False
        """a token of another user was seen: nothing is kept, and each caller asks for itself"""
        self.fetched = self.failed = 0
        self.dropped_at = -math.inf
        self.personal = False
        """the credential may ask a person, who is not to be disturbed in the background"""
        self.begin()

    def begin(self) -> None:
        """Begin, or begin anew in a forked child, which takes over the token and nothing else."""
        self.lock = threading.Lock()
        self.flight: Flight | None = None
        self.alone: set[Flight] = set()
        """requests that serve one caller only"""
        self.loop: asyncio.AbstractEventLoop | None = None
        """the loop that owns an async credential"""
        self.made: object = None
        """what the factory made, where one was given"""
        self.threads: list[threading.Thread] = []
        """those of requests, and some that have ended"""

    def flights(self) -> list[Flight]:
        """Return every request that is in progress."""
        flight = self.flight
        return [*self.alone] if flight is None else [flight, *self.alone]

    def under_way(self, since: float) -> Flight | None:
        """Return the flight under way, unless it started before `since`: then it is given up."""
        flight = self.flight
        return None if flight is None or flight.started < since else flight

    def board(
        self,
        loop: asyncio.AbstractEventLoop | None,
        timeout: float,
        fly: Callable[[Flight], None],
        *,
        alone: bool = False,
    ) -> tuple[Flight, bool]:
        """Return the flight under way, or start one in a thread; and whether it was started.

        With `alone` one is started that serves only its caller.
        """
        with self.lock:
            alone = alone or self.many_users
            if self.loop is None or not self.loop.is_running():
                if self.loop is not loop and must_be_awaited(self.made):
                    self.made = None  # its connections ended with its loop
                self.loop = loop
            now = clocks().monotonic
            if not alone and (under_way := self.under_way(now - timeout)) is not None:
                return under_way, False
            flight = Flight(self.loop, now)
            if alone:
                self.alone.add(flight)
            else:
                self.flight = flight
        thread = _in_thread(lambda: fly(flight), flight.context.copy())
        with self.lock:
            self.threads = [each for each in self.threads if each.is_alive()]
            if thread is not None:
                self.threads.append(thread)
        return flight, True

    def land(self, flight: Flight, outcome: Outcome, name: str) -> None:
        """Take in what a flight brought, and tell all who wait."""
        now = clocks()
        with self.lock:
            alone, before = flight in self.alone, self.held
            awaited = self._end(flight)
            shared = awaited and not alone
            other = isinstance(outcome, Token) and self._is_another_users(outcome)
            if self.many_users:
                self.held = before = None
                flight.shared = False
            if isinstance(outcome, Failure):
                if outcome.lost and self.loop is flight.loop:
                    self.loop = None
                self.failed += awaited  # one that was given up has failed already
                if shared and before is not None and before.token.usable(now):
                    self.held = before.failed(now, random.uniform)
            elif alone and before is not None and before.token.usable(now) and outcome.usable(now):
                # The cached token is refreshed in its own time, as if nobody had asked
                self.fetched += not outcome.same(before.token)
            elif (held := answered(before, outcome, now, random.uniform)) is None:
                self.failed += 1
                outcome = _dead(name, outcome, before, now)
            else:
                self.fetched += held.token is outcome
                if not self.many_users:
                    self.held = held
                if not outcome.usable(now):
                    outcome = held.token
        if other:
            logger.warning(MANY_USERS, name)
        if shared or isinstance(outcome, Token):
            _log(before, outcome, now, name)
        with suppress(InvalidStateError):  # it was given up
            flight.set_result(outcome)

    def _end(self, flight: Flight) -> bool:
        """Take a flight out, and tell whether it was still under way. Called locked."""
        if flight in self.alone:
            self.alone.remove(flight)
            return True
        if self.flight is flight:
            self.flight = None
            return True
        return False

    def _is_another_users(self, token: Token) -> bool:
        """Tell whether this is the first token of a second user. Called locked."""
        if not self.subject:
            self.subject = token.subject
        if self.many_users or same_subject(self.subject, token.subject):
            return False
        self.many_users = True
        return True

    def stuck(self, token: Token) -> bool:
        """Let go of a credential that should have a newer token by now, and was made here.

        Its own cache goes by the wall clock, and may think that there is time: that clock was set.
        """
        held = self.held
        if self.made is None or held is None or not token.same(held.token):
            return False
        if late := held.token.left(clocks()) < LATE / 2:
            self.made = None
        return late

    def leave(self, flight: Flight) -> None:
        """Give up a flight: it has failed, and the next caller starts one of its own."""
        with self.lock:
            self.failed += self._end(flight)

    def drop(self, refused: str) -> None:
        """Forget a token that the server refused: once a minute at most."""
        now = clocks().monotonic
        with self.lock:
            held = self.held
            recent = now - self.dropped_at < ONE_REPLACEMENT
            if held is not None and held.token.text == refused and not recent:
                self.held, self.dropped_at = None, now


MANY_USERS = (
    "%s returned a token of another user than before: its tokens are no longer cached, and each "
    "caller asks for its own. Pass one credential object per user"
)


def _dead(name: str, token: Token, before: Held | None, now: Clocks) -> Failure:
    if before is not None and token.same(before.token):
        token = before.token
    left = max(0.0, token.left(now))
    return Failure(
        f"{name} gave a token with {left:.0f} s left, and a connect needs {MARGIN:.0f}",
        "credential",
        "check this machine's clock (timedatectl), or give a credential that renews its tokens",
    )


def _log(before: Held | None, outcome: Outcome, now: Clocks, name: str) -> None:
    if isinstance(outcome, Token):
        if before is None or not outcome.same(before.token):
            logger.info("token from %s, good for %.0f s", name, outcome.left(now))
    elif before is not None and before.failures == 0 and before.token.usable(now):
        left = before.token.left(now)
        logger.warning("no new token yet, the last is good for %.0f s: %s", left, outcome.text)


def _in_thread(fly: Callable[[], None], context: contextvars.Context) -> threading.Thread | None:
    """Run it in a daemon thread of its own, or here when the interpreter is going down."""
    thread = threading.Thread(target=context.run, args=(fly,), name="azpg-token", daemon=True)
    if not sys.is_finalizing():  # then start() would wait for ever
        with suppress(RuntimeError):
            thread.start()
            return thread
    fly()
    return None


class Slots:
    """Every slot of the process, each found by its credential object and gone with it."""

    def __init__(self) -> None:
        self._slots: dict[int, Entry] = {}
        self._strong: dict[int, Entry] = {}
        """those whose credential allows no weak reference, the one used last at the end"""
        self._defaults: dict[tuple[str, str | None], DefaultCredential] = {}

    def default(self, authority: str, client_id: str | None) -> DefaultCredential:
        """Return the one default credential of an authority and client id."""
        key = authority, client_id
        # setdefault is atomic: of two threads here, both get the first one's.
        return self._defaults.get(key) or self._defaults.setdefault(
            key, DefaultCredential(authority, client_id)
        )

    def slot(self, credential: object, scope: str) -> Slot:
        """Return the one slot of a credential and scope."""
        # id() only says where to look: ids are used again, so the object itself decides.
        key = id(credential)
        entry = self._slots.get(key)
        if entry is not None and entry[0]() is not credential:
            self._slots.pop(key, None)
            entry = None
        if entry is None:
            if problem := proxied("credential", credential):
                raise ConfigError(problem)
            entry = self._slots.setdefault(key, (self._hold(credential), {}))
        if type(entry[0]) is not weakref.ref:
            self._keep(key, entry)
        return entry[1].get(scope) or entry[1].setdefault(scope, Slot())

    def all(self) -> list[Slot]:
        """Return every slot there is."""
        return [slot for _, slots in list(self._slots.values()) for slot in list(slots.values())]

    def _hold(self, credential: object) -> Callable[[], object]:
        key = id(credential)

        def forget(dead: object) -> None:
            if self._slots.get(key, (None,))[0] is dead:
                self._slots.pop(key, None)

        try:
            return weakref.ref(credential, forget)
        except TypeError:  # it allows no weak reference
            return lambda: credential

    def _keep(self, key: int, entry: Entry) -> None:
        """Keep the credentials that were used last. As each lives, no other has its id."""
        self._strong.pop(key, None)
        self._strong[key] = self._slots[key] = entry
        for oldest in list(self._strong)[:-MAX_STRONG_CREDENTIALS]:
            self._strong.pop(oldest, None)
            self._slots.pop(oldest, None)


SLOTS = Slots()


def _before_fork() -> None:
    """Let flights land, for a while: a credential at work on both sides shares its connection."""
    own = asyncio._get_running_loop()  # noqa: SLF001  # None, not an error, where there is none
    end = time.monotonic() + FORK_WAIT
    for slot in SLOTS.all():
        for flight in slot.flights():
            # What is awaited on this very loop cannot land before the fork is over.
            if not (flight.awaited and flight.loop is own):
                with suppress(TimeoutError):
                    flight.result(max(0.0, end - time.monotonic()))
        if not slot.flights():
            for thread in slot.threads:
                _see_off(thread, end)


def _see_off(thread: threading.Thread, end: float) -> None:
    """Wait until a thread is wholly gone: OpenSSL's last word to it is said under a lock.

    A child forked meanwhile would find that lock taken for ever.
    """
    thread.join(max(0.0, end - time.monotonic()))
    # Before 3.13 the system's thread outlives join() a little.
    while os.path.exists(f"/proc/self/task/{thread.native_id}") and time.monotonic() < end:
        time.sleep(0.0001)


def _after_fork_in_child() -> None:
    for slot in SLOTS.all():
        slot.begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
