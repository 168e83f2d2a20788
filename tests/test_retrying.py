"""Connects that are tried again: within their budget, one warning each, permanent ones never."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import azpg

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_api import Api
    from fix_credentials import Credentials
    from fix_hostile import Certificates, Hostile, Peer, Script
    from fix_tunnel import Tunnel

    from azpg.emulator import Emulator


class Opening(logging.Handler):
    """Open a server at the n-th warning of azpg's."""

    def __init__(self, at: int, start: Callable[[], object]) -> None:
        super().__init__()
        self.said: list[str] = []
        self._at = at
        self._start = start

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record."""
        if record.getMessage().startswith("connecting again"):
            assert record.levelno == logging.WARNING
            self.said.append(record.getMessage())
            if len(self.said) == self._at:
                self._start()


def test_without_a_budget_it_fails_at_once(
    api: Api, azure: Emulator, free_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    """retry_timeout=0 tries once, and warns of nothing."""
    started = time.monotonic()
    with pytest.raises(azpg.UnreachableError):
        api.open(hostaddr="127.0.0.1", port=free_port, retry_timeout=0)
    assert time.monotonic() - started < 2
    assert "connecting again" not in caplog.text


def test_a_short_connect_timeout_is_short(api: Api, azure: Emulator, free_port: int) -> None:
    """Who gives a connection one second gets its failure then, and not after all tries."""
    started = time.monotonic()
    with pytest.raises(azpg.UnreachableError):
        api.open(hostaddr="127.0.0.1", port=free_port, connect_timeout=1)
    assert time.monotonic() - started < 5


def test_a_server_that_appears_is_reached(
    api: Api, azure: Emulator, free_port: int, dig: Callable[..., Tunnel]
) -> None:
    """A refused connect is tried again until the server is there, with one warning for each."""
    handler = Opening(2, lambda: dig((azure.hostaddr, azure.port), ("127.0.0.1", free_port)))
    logger = logging.getLogger("azpg")
    logger.addHandler(handler)
    try:
        with api.connect(hostaddr="127.0.0.1", port=free_port, retry_timeout=30) as conn:
            assert api.row(conn, "select current_user") == ("myapp",)
    finally:
        logger.removeHandler(handler)
    assert len(handler.said) == 2
    for warning in handler.said:
        assert "refused" in warning
        assert "connecting again in " in warning


def test_a_spent_budget_raises_the_last_failure(
    api: Api, azure: Emulator, free_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    """After retry_timeout seconds the failure itself is raised, within them and a little."""
    started = time.monotonic()
    with pytest.raises(azpg.UnreachableError) as caught:
        api.open(hostaddr="127.0.0.1", port=free_port, retry_timeout=0.5)
    assert 0.5 <= time.monotonic() - started < 3
    assert caught.value.kind == "refused"
    assert "connecting again" in caplog.text


def test_a_busy_server_is_tried_again(
    api: Api,
    hostile: Callable[[Script], Hostile],
    certificates: Certificates,
    credentials: Credentials,
) -> None:
    """A server without free connections is transient; each try has the same, still valid token."""

    def busy(peer: Peer) -> None:
        peer.start_tls(certificates.right)
        peer.packet()
        if server.connections == 1:
            peer.refuse("the database system is starting up", "57P03")
        peer.refuse('password authentication failed for user "me"')

    server = hostile(busy)
    credential = credentials.with_get_token()
    address = server.address() | {"retry_timeout": 30, "sslrootcert": certificates.root}
    with pytest.raises(azpg.LoginError):
        api.open(**address, user="me", credential=credential)
    assert server.connections == 2
    assert credential.calls == 1


PERMANENT = [
    'password authentication failed for user "me"',
    'role "me" does not exist',
    'database "shop" does not exist',
    'no pg_hba.conf entry for host "1.2.3.4", user "me", database "shop", SSL encryption',
    "The access token has expired. Please acquire a new token and retry.",
    "unsupported startup parameter: options",
    "something that nobody knows",
]


@pytest.mark.parametrize("text", PERMANENT, ids=lambda text: text[:20])
def test_what_no_try_can_mend_is_tried_once(
    api: Api,
    hostile: Callable[[Script], Hostile],
    certificates: Certificates,
    credentials: Credentials,
    text: str,
) -> None:
    """A refusal, and what nobody knows, is final: the server is asked once."""

    def refuse(peer: Peer) -> None:
        peer.start_tls(certificates.right)
        peer.packet()
        peer.refuse(text)

    server = hostile(refuse)
    address = server.address() | {"retry_timeout": 30, "sslrootcert": certificates.root}
    with pytest.raises(azpg.ConnectError, match=text[:20]):
        api.open(**address, user="me", credential=credentials.with_get_token())
    assert server.connections == 1


def test_a_bad_certificate_is_tried_once(
    api: Api,
    hostile: Callable[[Script], Hostile],
    certificates: Certificates,
    credentials: Credentials,
) -> None:
    """A server that cannot be verified is not asked again."""
    server = hostile(lambda peer: peer.start_tls(certificates.wrong["expired"]))
    address = server.address() | {"retry_timeout": 30, "sslrootcert": certificates.root}
    with pytest.raises(azpg.TLSError):
        api.open(**address, user="me", credential=credentials.with_get_token())
    assert server.connections == 1


def test_a_callback_is_asked_for_each_try(api: Api, azure: Emulator, free_port: int) -> None:
    """Each try is a new physical connection: the callback is asked again."""
    asked: list[int] = []

    def ask() -> str:
        asked.append(1)
        if len(asked) == 3:
            raise LookupError("enough")
        return "x"

    with pytest.raises(azpg.CredentialError, match="enough"):
        api.open(hostaddr="127.0.0.1", port=free_port, user="me", password=api.callback(ask))
    assert len(asked) == 3


def test_names_are_looked_up_for_each_try(
    api: Api, azure: Emulator, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way there beside a server is resolved anew on every try."""
    import socket

    looked_up: list[str] = []
    real = socket.getaddrinfo

    def look_up(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host == "localhost":
            looked_up.append(host)
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.delenv("PGHOSTADDR")
    with pytest.raises(azpg.UnreachableError):
        api.open(server="myserver", host="localhost", port=free_port, retry_timeout=0.3)
    assert len(looked_up) >= 2


def test_a_retrying_connect_can_be_cancelled(azure: Emulator, free_port: int) -> None:
    """A task that waits for its next try ends at once when it is cancelled, and leaves nothing."""
    waiting = threading.Event()
    handler = Opening(3, waiting.set)

    async def main() -> float:
        task = asyncio.create_task(azpg.connect_async(hostaddr="127.0.0.1", port=free_port))
        await asyncio.to_thread(waiting.wait, 20)
        started = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return time.monotonic() - started

    logger = logging.getLogger("azpg")
    logger.addHandler(handler)
    try:
        assert asyncio.run(main()) < 0.5
    finally:
        logger.removeHandler(handler)
