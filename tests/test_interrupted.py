"""Connects that are interrupted, by Ctrl-C or a cancelled task: at once, and nothing is left."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import azpg

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_api import AsyncApi, SyncApi
    from fix_credentials import Credentials
    from fix_hostile import Certificates, Hostile, Peer, Script
    from fix_leaks import Leaks

pytestmark = pytest.mark.compat


class Interruption:
    """Stop whoever has reached a point, from a thread of its own."""

    def __init__(self, api: SyncApi | AsyncApi) -> None:
        self.reached = threading.Event()
        self.over = threading.Event()
        self.took = 0.0
        self._api = api
        self._interrupted = False
        self._task: asyncio.Task[Any] | None = None
        self._thread = threading.Thread(target=self._interrupt)

    def of(self, options: dict[str, Any]) -> None:
        """Connect, which must end as the interruption does."""
        before = signal.signal(signal.SIGINT, self._once)
        self._thread.start()
        try:
            if self._api.kind == "sync":
                with pytest.raises(KeyboardInterrupt):
                    azpg.connect(**options)
            else:
                self._api.run(self._cancelled(options))
            self.took = time.monotonic() - self._at
        finally:
            self.over.set()
            self._thread.join()
            signal.signal(signal.SIGINT, before)

    def hold(self, *_args: object, **_options: object) -> str:
        """Tell that the point is reached, and stay there."""
        self.reached.set()
        self.over.wait(60)
        return "late"

    async def _cancelled(self, options: dict[str, Any]) -> None:
        self._task = asyncio.create_task(azpg.connect_async(**options))
        with pytest.raises(asyncio.CancelledError):
            await self._task

    def _interrupt(self) -> None:
        self.reached.wait(60)
        self._at = time.monotonic()
        if self._api.kind == "async":
            assert self._task is not None
            self._api.loop.call_soon_threadsafe(self._task.cancel)
        else:
            main = threading.main_thread().ident
            assert main is not None
            # Again and again: Python may miss one until it wakes that comes just before a wait
            while not self.over.wait(0.1):
                signal.pthread_kill(main, signal.SIGINT)

    def _once(self, *_args: object) -> None:
        if not self._interrupted:
            self._interrupted = True
            raise KeyboardInterrupt


@pytest.mark.parametrize("point", ["credential", "name", "connecting", "pause"])
def test_a_connect_can_be_interrupted_at_every_point(
    api: SyncApi | AsyncApi,
    hostile: Callable[[Script], Hostile],
    certificates: Certificates,
    credentials: Credentials,
    monkeypatch: pytest.MonkeyPatch,
    point: str,
) -> None:
    """Waiting for a token, a name, a server or the next try ends; the server's client is gone."""
    interruption = Interruption(api)
    gone = threading.Event()

    def stall(peer: Peer) -> None:
        peer.start_tls(certificates.right)
        peer.packet()
        if point == "pause":
            peer.refuse("sorry, too many clients already", "53300")
        else:
            interruption.reached.set()
        peer.read_all()
        gone.set()

    options = hostile(stall).address() | {"user": "me", "sslrootcert": certificates.root}
    options |= {"retry_timeout": 60, "connect_timeout": 60}
    if point == "credential":
        options["credential"] = credentials.with_get_token(interruption.hold)
    else:
        options["credential"] = credentials.with_get_token()
    if point == "name":
        monkeypatch.setattr(socket, "getaddrinfo", interruption.hold)
        del options["hostaddr"]

    def warned(record: logging.LogRecord) -> bool:
        interruption.reached.set()
        return True

    logger = logging.getLogger("azpg")
    logger.addFilter(warned)
    try:
        interruption.of(options)
    finally:
        logger.removeFilter(warned)
    assert interruption.took < 10
    assert point in ("credential", "name") or gone.wait(20)


def test_ctrl_c_while_a_failure_is_told_holds_no_token(
    hostile: Callable[[Script], Hostile],
    certificates: Certificates,
    credentials: Credentials,
    leaks: Leaks,
) -> None:
    """A program that is ended in its own logging leaves no token in the frames behind."""

    def busy(peer: Peer) -> None:
        peer.start_tls(certificates.right)
        peer.packet()
        peer.ask(3)
        peer.message()
        peer.refuse("the database system is starting up", "57P03")

    def interrupt(record: logging.LogRecord) -> bool:
        if record.levelno == logging.WARNING:
            signal.raise_signal(signal.SIGINT)
        return True

    credential = credentials.with_get_token()
    options = hostile(busy).address() | {"user": "me", "sslrootcert": certificates.root}
    options |= {"retry_timeout": 30, "credential": credential}
    logger = logging.getLogger("azpg")
    logger.addFilter(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            azpg.connect(**options)
    finally:
        logger.removeFilter(interrupt)
    leaks.none_held(caught.value, credentials.secret, credential, options)
