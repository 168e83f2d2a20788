"""Connects that are tried again: within their budget, one warning each, permanent ones never."""

from __future__ import annotations

import contextlib
import logging
import re
import socket
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
    """Open a server at azpg's n-th warning."""

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
    assert time.monotonic() - started < 15
    assert "connecting again" not in caplog.text


def test_a_budget_that_is_no_number_is_refused(api: Api) -> None:
    """A retry_timeout of nan, which would neither end nor begin, is told beside what else is."""
    wrong: Any = {"server": 5, "retry_timeout": float("nan")}
    with pytest.raises(azpg.ConfigError, match=r"server is int.*\n.*retry_timeout is not a number"):
        api.open(**wrong)


def test_a_short_connect_timeout_is_short(api: Api, azure: Emulator, free_port: int) -> None:
    """Who gives a connection one second gets its failure then, and not after all tries."""
    started = time.monotonic()
    with pytest.raises(azpg.UnreachableError):
        api.open(hostaddr="127.0.0.1", port=free_port, connect_timeout=1)
    assert time.monotonic() - started < 15


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
        assert re.match(r"connecting again in \d\.\d s: ", warning)
        assert "refused" in warning
        assert re.search(rf"\nHINT: .*\b{free_port}\b", warning)


def test_a_spent_budget_raises_the_last_failure(
    api: Api, azure: Emulator, free_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    """When retry_timeout is nearly over, the failure itself is raised."""
    started = time.monotonic()
    with pytest.raises(azpg.UnreachableError) as caught:
        api.open(hostaddr="127.0.0.1", port=free_port, retry_timeout=0.5)
    assert 0.4 <= time.monotonic() - started < 15
    assert caught.value.kind == "refused"
    assert "connecting again" in caplog.text


def test_a_try_has_no_more_time_than_the_budget(
    api: Api,
    hostile: Callable[[Script], Hostile],
    certificates: Certificates,
    credentials: Credentials,
) -> None:
    """A server that says nothing is given up with the budget, not with connect_timeout's 15 s."""
    server = hostile(lambda peer: peer.read_all())
    started = time.monotonic()
    with pytest.raises(azpg.ConnectTimeoutError):
        api.open(
            **server.address() | {"retry_timeout": 1},
            user="me",
            sslrootcert=certificates.root,
            credential=credentials.with_get_token(),
        )
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("said", "first"),
    [
        ({"connect_timeout": 300}, 300),
        ({"connect_timeout": 300, "retry_timeout": 20}, 20),
        ({"retry_timeout": 20}, 15),
    ],
    ids=["connect_timeout", "both", "retry_timeout"],
)
def test_what_was_asked_for_one_try_holds_within_the_budget(
    api: Api, azure: Emulator, free_port: int, said: dict[str, Any], first: int
) -> None:
    """A try's timeout is shrunk to what is left; not the first's, where no budget was given."""
    recording, attempts = api.recording_class()

    def ask() -> str:
        if len(attempts) == 2:
            raise LookupError("enough")
        return "x"

    way = {"hostaddr": "127.0.0.1", "port": free_port, "user": "me"}
    with pytest.raises(azpg.CredentialError, match="enough"):
        api.run(recording.connect(**way, **said, password=api.callback(ask)))
    timeouts = [int(each["connect_timeout"]) for each in attempts]
    assert timeouts[0] == first
    assert timeouts[1] <= min(first, 30)


BUSY = [("the database system is starting up", "57P03", 0.0)]
BUSY += [("sorry, too many clients already", "53300", 1.0)]


@pytest.mark.parametrize(("text", "sqlstate", "pause"), BUSY, ids=["starting", "full"])
def test_a_busy_server_is_tried_again(
    api: Api,
    hostile: Callable[[Script], Hostile],
    certificates: Certificates,
    credentials: Credentials,
    text: str,
    sqlstate: str,
    pause: float,
) -> None:
    """Each try has the same, still valid token; a server without a free connection has a second."""
    tries: list[float] = []

    def busy(peer: Peer) -> None:
        peer.start_tls(certificates.right)
        peer.packet()
        tries.append(time.monotonic())
        if len(tries) == 1:
            peer.refuse(text, sqlstate)
        peer.refuse('password authentication failed for user "me"')

    server = hostile(busy)
    credential = credentials.with_get_token()
    address = server.address() | {"retry_timeout": 30, "sslrootcert": certificates.root}
    with pytest.raises(azpg.LoginError):
        api.open(**address, user="me", credential=credential)
    assert len(tries) == 2
    assert tries[1] - tries[0] >= pause
    assert credential.calls == 1


@pytest.mark.parametrize("fault", ["slots", "refuse", "stall", "cut-in-tls", "cut-before-ok"])
def test_a_fault_that_ends_is_waited_out(api: Api, azure: Emulator, fault: Any) -> None:
    """Whatever is wrong with a real server for a while, the connect gets in when it is over."""
    with contextlib.ExitStack() as faults:
        broken = azure.slots_used_up() if fault == "slots" else azure.fault(connect=fault)
        faults.enter_context(broken)
        handler = Opening(1, faults.close)
        logger = logging.getLogger("azpg")
        logger.addHandler(handler)
        try:
            with api.connect(connect_timeout=2, retry_timeout=60) as conn:
                assert api.row(conn, "select current_user") == ("myapp",)
        finally:
            logger.removeHandler(handler)
    assert handler.said


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


@pytest.mark.parametrize("way", [{}, {"host": "db.internal"}], ids=["name", "way-there"])
def test_a_name_that_moves_is_followed(
    api: Api,
    azure: Emulator,
    free_port: int,
    dig: Callable[..., Tunnel],
    monkeypatch: pytest.MonkeyPatch,
    way: dict[str, str],
) -> None:
    """Each try looks the name up anew: a failover may have given it another address."""
    dig((azure.hostaddr, azure.port), ("127.0.0.3", free_port))
    name = way.get("host", azure.host)
    addresses = ["127.0.0.2", "127.0.0.2", "127.0.0.3"]
    getaddrinfo = socket.getaddrinfo

    def look_up(host: Any, *args: Any, **kwargs: Any) -> Any:
        return getaddrinfo(addresses.pop(0) if host == name else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.delenv("PGHOSTADDR")
    with api.connect(server=azure.host, port=free_port, **way) as conn:
        assert api.row(conn, "select current_user") == ("myapp",)
    assert not addresses


@pytest.mark.parametrize(
    ("code", "lookups"),
    [(socket.EAI_AGAIN, 2), (socket.EAI_NONAME, 1)],
    ids=["no-answer", "no-name"],
)
@pytest.mark.parametrize("way", [{}, {"host": "db.internal"}], ids=["name", "way-there"])
def test_a_resolver_without_an_answer_is_asked_again(
    api: Api,
    azure: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    way: dict[str, str],
    code: int,
    lookups: int,
) -> None:
    """A name that does not exist is final; one of which nothing is known yet is not."""
    answers = [code, socket.EAI_NONAME]
    said = {socket.EAI_AGAIN: "Temporary failure in name resolution"}

    def look_up(host: Any, *args: Any, **kwargs: Any) -> Any:
        answer = answers.pop(0)
        raise socket.gaierror(answer, said.get(answer, "Name or service not known"))

    monkeypatch.delenv("PGHOSTADDR")
    credential = azpg.EntraPassword()
    api.run(credential.call_async() if api.kind == "async" else credential())
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with pytest.raises(azpg.UnreachableError) as caught:
        api.open(server=azure.host, credential=credential, **way)
    assert caught.value.kind == "unknown-host"
    assert len(answers) == 2 - lookups
