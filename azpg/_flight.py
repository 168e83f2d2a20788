"""The tokens of this process: for each credential and scope one slot, and one flight at a time."""

from __future__ import annotations

import asyncio
import contextvars
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
from typing import TYPE_CHECKING, TypeAlias

from . import _token
from ._credentials import DefaultCredential, must_be_awaited
from .errors import CredentialError

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("azpg")

FORK_WAIT = 10.0
"""Seconds that a fork waits for tokens on their way.

A child forked in the middle of one would find azure.identity half imported, for ever, or share its
connection.
"""


def clocks() -> _token.Clocks:
    """Look at both clocks."""
    return _token.Clocks(time.monotonic(), time.time())


class Failure:
    """What every waiter of a failed flight is told, each in an exception of its own."""

    def __init__(self, text: str, kind: str, hint: str, *, lost: bool = False) -> None:
        self.text = text
        self.kind = kind
        self.hint = hint
        self.lost = lost
        """an async credential's loop ended under it: callers elsewhere try again"""

    def error(self) -> CredentialError:
        """Return it as an exception."""
        return CredentialError(self.text, kind=self.kind, hint=self.hint)


Outcome: TypeAlias = _token.Token | Failure


class Flight(Future[Outcome]):
    """One request for a token that any number of callers wait for."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None, started: float) -> None:
        super().__init__()
        self.loop = loop
        """where an async credential is awaited"""
        self.awaited = False
        self.started = started
        # Running: a waiter that is cancelled cannot cancel what others wait for.
        self.set_running_or_notify_cancel()

    def landed(
        self, outcome: Outcome, loop: asyncio.AbstractEventLoop | None
    ) -> _token.Token | None:
        """Return the token for a caller on `loop`, or None where it should try again."""
        if isinstance(outcome, _token.Token):
            return outcome
        if outcome.lost and self.loop is not loop:
            return None
        raise outcome.error()


class Slot:
    """The token of one credential and scope, and the flight that fetches the next."""

    def __init__(self) -> None:
        self.held: _token.Held | None = None
        self.fetched = self.failed = 0
        self.dropped_at = -math.inf
        self.personal = False
        """the credential may ask a person, who is not to be disturbed in the background"""
        self.begin()

    def begin(self) -> None:
        """Begin, or begin anew in a forked child, which takes over the token and nothing else."""
        self.lock = threading.Lock()
        self.flight: Flight | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        """the loop that owns an async credential"""
        self.made: object = None
        """what the factory made, where one was given"""
        self.thread: threading.Thread | None = None
        """the latest flight's own"""

    def under_way(self, since: float) -> Flight | None:
        """Return the flight under way, unless it started before `since`: then it is given up."""
        flight = self.flight
        return None if flight is None or flight.started < since else flight

    def board(
        self, loop: asyncio.AbstractEventLoop | None, timeout: float, fly: Callable[[Flight], None]
    ) -> Flight:
        """Return the flight under way, or start one in a thread of its own."""
        with self.lock:
            if self.loop is None or not self.loop.is_running():
                if self.loop is not loop and must_be_awaited(self.made):
                    self.made = None  # its connections ended with its loop
                self.loop = loop
            now = clocks().monotonic
            if (flight := self.under_way(now - timeout)) is not None:
                return flight
            self.flight = flight = Flight(self.loop, now)
        self.thread = _in_thread(lambda: fly(flight))
        return flight

    def land(self, flight: Flight, outcome: Outcome, name: str) -> None:
        """Take in what a flight brought, and tell all who wait."""
        now = clocks()
        with self.lock:
            before, awaited = self.held, self.flight is flight
            if awaited:
                self.flight = None
            if isinstance(outcome, Failure):
                if outcome.lost and self.loop is flight.loop:
                    self.loop = None
                self.failed += awaited  # one that was given up has failed already
                if awaited and before is not None and before.token.usable(now):
                    self.held = before.failed(now, random.uniform)
            elif (held := _token.answered(before, outcome, now, random.uniform)) is None:
                self.failed += 1
                outcome = _dead(name, outcome, before, now)
            else:
                self.fetched += held.token is outcome
                self.held, outcome = held, held.token
        if awaited or isinstance(outcome, _token.Token):
            _log(before, outcome, now, name)
        with suppress(InvalidStateError):  # it was given up
            flight.set_result(outcome)

    def stuck(self, token: _token.Token) -> bool:
        """Let go of a credential that should have a newer token by now, and was made here.

        Its own cache goes by the wall clock, and may think that there is time: that clock was set.
        """
        held = self.held
        if self.made is None or held is None or not token.same(held.token):
            return False
        if late := held.token.left(clocks()) < _token.LATE / 2:
            self.made = None
        return late

    def leave(self, flight: Flight) -> None:
        """Give up a flight: it has failed, and the next caller starts one of its own."""
        with self.lock:
            if self.flight is flight:
                self.flight = None
                self.failed += 1

    def drop(self, refused: str) -> None:
        """Forget a token that the server refused: once a minute at most."""
        now = clocks().monotonic
        with self.lock:
            held = self.held
            recent = now - self.dropped_at < _token.ONE_REPLACEMENT
            if held is not None and held.token.text == refused and not recent:
                self.held, self.dropped_at = None, now


def _dead(
    name: str, token: _token.Token, before: _token.Held | None, now: _token.Clocks
) -> Failure:
    if before is not None and token.same(before.token):
        token = before.token
    left = max(0.0, token.left(now))
    return Failure(
        f"{name} gave a token with {left:.0f} s left, and a connect needs {_token.MARGIN:.0f}",
        "credential",
        "check this machine's clock (timedatectl), or give a credential that renews its tokens",
    )


def _log(before: _token.Held | None, outcome: Outcome, now: _token.Clocks, name: str) -> None:
    if isinstance(outcome, _token.Token):
        if before is None or outcome is not before.token:
            logger.info("token from %s, good for %.0f s", name, outcome.left(now))
    elif before is not None and before.failures == 0 and before.token.usable(now):
        left = before.token.left(now)
        logger.warning("no new token yet, the last is good for %.0f s: %s", left, outcome.text)


def _in_thread(fly: Callable[[], None]) -> threading.Thread | None:
    """Run it in a daemon thread of its own, or here when the interpreter is going down."""
    run = contextvars.copy_context().run
    thread = threading.Thread(target=run, args=(fly,), name="azpg-token", daemon=True)
    if not sys.is_finalizing():  # then start() would wait for ever
        with suppress(RuntimeError):
            thread.start()
            return thread
    fly()
    return None


class Slots:
    """Every slot of the process, each found by its credential object and gone with it."""

    def __init__(self) -> None:
        self._slots: dict[int, tuple[Callable[[], object], dict[str, Slot]]] = {}
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
            entry = self._slots.setdefault(key, (self._hold(credential), {}))
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
        except TypeError:  # it allows no weak reference: it lives as long as the process
            return lambda: credential


SLOTS = Slots()


def _before_fork() -> None:
    """Let flights land, for a while: a credential at work on both sides shares its connection."""
    own = asyncio._get_running_loop()  # noqa: SLF001  # None, not an error, where there is none
    end = time.monotonic() + FORK_WAIT
    for slot in SLOTS.all():
        flight = slot.flight
        # What is awaited on this very loop cannot land before the fork is over.
        if flight is not None and not (flight.awaited and flight.loop is own):
            with suppress(TimeoutError):
                flight.result(max(0.0, end - time.monotonic()))
        if slot.flight is None and slot.thread is not None:
            _see_off(slot.thread, end)


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
