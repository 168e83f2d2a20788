"""azpg.asyncpg.connect's errors: the same kinds as azpg.connect's, without secrets."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any

import pytest

import azpg
import azpg.asyncpg

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fix_asyncpg import Run
    from fix_credentials import Credentials
    from fix_hostile import Certificates, Hostile, Peer, Script
    from fix_leaks import Leaks, Tokens
    from fix_servers import Postgres
    from fix_tunnel import Dig

    from azpg.emulator import Emulator

pytestmark = pytest.mark.compat


async def see(conn: Any) -> None:
    """See that there is a connection."""
    assert not conn.is_closed()


@pytest.fixture
def connect(look: Callable[..., Any]) -> Callable[..., None]:
    """Connect, and close at once."""
    return lambda *args, **options: look(see, *args, **options)


@pytest.fixture
def refused(connect: Callable[..., None]) -> Callable[..., azpg.ConnectError]:
    """Return the error of a connect that is tried once."""

    def refused(**options: Any) -> azpg.ConnectError:
        with pytest.raises(azpg.ConnectError) as caught:
            connect(**{"retry_timeout": 0} | options)
        return caught.value

    return refused


def never() -> Any:
    """Fail the test that asks for a credential."""
    raise AssertionError


@pytest.fixture
def problems(connect: Callable[..., None]) -> Callable[..., tuple[str, ...]]:
    """Return the problems that are raised before a token is requested."""

    def problems(**options: Any) -> tuple[str, ...]:
        if "password" not in options:
            options["credential"] = never
        with pytest.raises(azpg.ConfigError) as caught:
            connect(**options)
        return caught.value.problems

    return problems


# Rejected before anything is sent


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"host": "/run/postgresql"}, "a token never goes through a Unix socket"),
        ({"host": "db.example.net"}, "a token never goes to 'db.example.net'"),
        ({"host": "localhost"}, "for a tunnel, write server="),
        ({"server": "a", "ssl": False}, "sslmode=disable turns off TLS"),
        ({"server": "a", "ssl": "disable"}, "sslmode=disable"),
        ({"server": "a", "dsn": "channel_binding=require"}, "asyncpg has no channel_binding"),
        ({"server": "a", "require_auth": "scram-sha-256"}, "asyncpg has no require_auth"),
        ({"server": "a", "load_balance_hosts": "random"}, "asyncpg has no load_balance_hosts"),
        ({"server": "a", "keepalives_idle": "-1"}, "keepalives_idle='-1' is not a whole number"),
        ({"server": "a", "timeout": "soon"}, "connect_timeout='soon' is not a number of seconds"),
        ({"server": "a", "port": "x"}, "port='x' is not a port"),
        ({"dsn": "host=a hots=b"}, "hots"),
        (
            {
                "host": "a.postgres.database.azure.com,b.postgres.database.azure.com",
                "hostaddr": "127.0.0.1,127.0.0.1",
            },
            "hostaddr leads to one address for hosts of several names",
        ),
        (
            {"server": "a", "password": "x", "sslmode": "verify-ca"},
            "asyncpg has no require_auth",
        ),
    ],
)
def test_invalid_arguments(
    problems: Callable[..., tuple[str, ...]], call: dict[str, Any], message: str
) -> None:
    """What azpg.connect rejects is rejected, and so is what libpq supports and asyncpg does not."""
    assert message in "\n".join(problems(**call))


def test_implied_keywords_are_accepted(connect: Callable[..., None], azure: Emulator) -> None:
    """Values of libpq's keywords that describe what asyncpg does anyway are accepted."""
    connect(server="myserver", channel_binding="prefer", client_encoding="UTF8", sslsni=1)


@pytest.mark.parametrize("fault", ["no-verification", "no-name", "keys-written"])
def test_an_insecure_ssl_context_is_rejected(
    problems: Callable[..., tuple[str, ...]], tmp_path: Path, fault: str
) -> None:
    """A context that does not verify the server, or logs its keys, is rejected."""
    context = ssl.create_default_context()
    if fault == "keys-written":
        context.keylog_filename = str(tmp_path / "keys")
    else:
        context.check_hostname = False
        if fault == "no-verification":
            context.verify_mode = ssl.CERT_NONE
    (problem,) = problems(server="myserver", ssl=context)
    assert "keys" in problem if fault == "keys-written" else "does not verify" in problem


def test_an_ssl_context(
    refused: Callable[..., azpg.ConnectError],
    problems: Callable[..., tuple[str, ...]],
    connect: Callable[..., None],
    azure: Emulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A context that verifies is used, unless it would verify an address instead of the name."""
    context = ssl.create_default_context(cafile=azure.root_certificate)
    (problem,) = problems(server="myserver", ssl=context)
    assert "verifies the address that is reached" in problem
    monkeypatch.delenv("PGHOSTADDR")
    loop_class = asyncio.SelectorEventLoop
    found = loop_class.getaddrinfo

    async def look_up(self: Any, host: Any, *args: Any, **options: Any) -> Any:
        return await found(self, azure.hostaddr if host == azure.host else host, *args, **options)

    monkeypatch.setattr(loop_class, "getaddrinfo", look_up)
    connect(server="myserver", ssl=context)
    with azure.fault(certificate="other-root"):
        assert isinstance(refused(server="myserver", ssl=context), azpg.TLSError)


# Failures


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("expired", "certificate"),
        ("self-signed", "certificate"),
        ("other-root", "certificate"),
        ("other-name", "certificate-name"),
    ],
)
def test_a_bad_certificate(
    refused: Callable[..., azpg.ConnectError], azure: Emulator, fault: Any, kind: str
) -> None:
    """A certificate that libpq would reject is rejected with the same kind."""
    with azure.fault(certificate=fault):
        error = refused(server="myserver")
    assert isinstance(error, azpg.TLSError)
    assert (error.kind, bool(error.hint)) == (kind, True)


def test_a_server_without_tls_gets_nothing(
    refused: Callable[..., azpg.ConnectError],
    hostile: Callable[[Script], Hostile],
    credentials: Credentials,
) -> None:
    """If TLS was removed, nothing but the SSLRequest is sent."""

    def deny(peer: Peer) -> None:
        peer.read(8)
        peer.send(b"N")
        peer.read_all()

    server = hostile(deny)
    error = refused(**server.address(), user="x", credential=credentials.with_get_token())
    assert error.kind == "tls-refused"
    assert len(server.clear) == 8


def test_a_server_with_another_name_gets_no_token(
    refused: Callable[..., azpg.ConnectError],
    hostile: Callable[[Script], Hostile],
    certificates: Certificates,
    credentials: Credentials,
) -> None:
    """A server with another name's certificate gets no byte of the startup packet."""
    server = hostile(lambda peer: peer.start_tls(certificates.wrong["other-name"]))
    credential = credentials.with_get_token()
    address = server.address() | {"sslrootcert": certificates.root}
    error = refused(**address, user="x", credential=credential)
    assert error.kind == "certificate-name"
    assert not server.decrypted


@pytest.mark.parametrize(
    ("options", "kind", "error"),
    [
        ({"user": "stranger"}, "login", azpg.LoginError),
        ({"database": "nowhere"}, "no-database", azpg.LoginError),
        ({"sslrootcert": "/nowhere.pem"}, "root-file", azpg.TLSError),
        ({"ssl_min_protocol_version": "TLSv9"}, "config", azpg.ConfigError),
    ],
)
def test_kinds_are_those_of_connect(
    connect: Callable[..., None],
    azure: Emulator,
    options: dict[str, Any],
    kind: str,
    error: type[Exception],
) -> None:
    """A failure has the class, the kind and the hint that azpg.connect gives it."""
    with pytest.raises(error) as caught:
        connect(server="myserver", retry_timeout=0, **options)
    options |= {"dbname": options.pop("database", "postgres")}
    with pytest.raises(error) as expected:
        azpg.connect(server="myserver", retry_timeout=0, **options)
    assert isinstance(caught.value, azpg.ConnectError | azpg.ConfigError)
    assert isinstance(expected.value, azpg.ConnectError | azpg.ConfigError)
    assert caught.value.kind == expected.value.kind == kind
    assert caught.value.hint == expected.value.hint


def test_unreachable_servers(
    refused: Callable[..., azpg.ConnectError], azure: Emulator, free_port: int
) -> None:
    """A refused port, an unknown name and a silent server have different kinds."""
    assert refused(hostaddr="127.0.0.1", port=free_port).kind == "refused"
    assert refused(server="myserver", host="no.such.host.invalid").kind == "unknown-host"


def test_a_silent_server(
    refused: Callable[..., azpg.ConnectError],
    hostile: Callable[[Script], Hostile],
    credentials: Credentials,
) -> None:
    """After `timeout` seconds without an answer it is a ConnectTimeoutError."""
    server = hostile(lambda peer: peer.read_all())
    credential = credentials.with_get_token()
    error = refused(**server.address(), user="x", credential=credential, timeout=0.5)
    assert isinstance(error, azpg.ConnectTimeoutError)


@pytest.mark.parametrize("when", ["before-tls", "after-tls"])
def test_a_connection_that_is_closed_early(
    refused: Callable[..., azpg.ConnectError],
    hostile: Callable[[Script], Hostile],
    certificates: Certificates,
    credentials: Credentials,
    when: str,
) -> None:
    """A server that closes the connection during the login is a transient failure."""

    def cut(peer: Peer) -> None:
        if when == "after-tls":
            peer.start_tls(certificates.right)
        peer.packet()

    credential = credentials.with_get_token()
    address = hostile(cut).address()
    error = refused(**address, credential=credential, user="x", sslrootcert=certificates.root)
    assert error.kind == "cut"


def test_a_transient_failure_is_retried(
    connect: Callable[..., None],
    azure: Emulator,
    dig: Dig,
    free_port: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The connect waits for a server that comes back, as azpg.connect does."""
    opened: list[Any] = []

    def coming_back(message: str, *_args: object) -> None:
        if not opened and message.startswith("connecting again"):
            opened.append(dig((azure.hostaddr, azure.port), ("127.0.0.1", free_port)))

    monkeypatch.setattr("azpg._connect.logger.warning", coming_back)
    connect(server="myserver", hostaddr="127.0.0.1", port=free_port)
    assert opened


# Secrets


def test_a_rejected_token_is_in_no_error(
    refused: Callable[..., azpg.ConnectError], tokens: Tokens, leaks: Leaks
) -> None:
    """Neither the error, its frames nor what they refer to contain the token."""
    error = refused(server="myserver", credential=tokens.credential, user="stranger")
    (token,) = tokens.given
    leaks.none_held(error, token, tokens.credential)


def test_a_password_is_in_no_error(
    refused: Callable[..., azpg.ConnectError], postgres: Postgres, leaks: Leaks
) -> None:
    """A wrong password is in neither the error nor its frames, wherever it came from."""
    wrong = "not-the-right-one"
    rest = postgres.conninfo()
    del rest["password"]
    for given in ({"password": wrong}, {"password": lambda: wrong}, {"dsn": f"password={wrong}"}):
        leaks.none_shown(refused(**rest, **given), wrong)


def test_an_error_of_asyncpgs_arguments_shows_no_token(
    connect: Callable[..., None], tokens: Tokens, leaks: Leaks
) -> None:
    """The error of asyncpg is raised unchanged, without the frames that contain the token."""
    with pytest.raises(ValueError, match="command_timeout") as caught:
        connect(server="myserver", credential=tokens.credential, command_timeout=-1)
    (token,) = tokens.given
    leaks.none_held(caught.value, token, tokens.credential)


def test_a_canceled_connect_shows_no_token(
    hostile: Callable[[Script], Hostile],
    certificates: Certificates,
    credentials: Credentials,
    leaks: Leaks,
    run: Run,
) -> None:
    """A canceled connect leaves no frame that contains the token."""
    waiting = asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    def stall(peer: Peer) -> None:
        peer.start_tls(certificates.right)
        peer.packet()
        loops[0].call_soon_threadsafe(waiting.set)
        peer.read_all()

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        credential = credentials.with_get_token()
        address = hostile(stall).address()
        task = asyncio.create_task(
            azpg.asyncpg.connect(
                **address, credential=credential, user="x", sslrootcert=certificates.root
            )
        )
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        leaks.none_shown(caught.value, credentials.secret)

    run(main())


def test_keys_are_logged_only_by_keyword(
    connect: Callable[..., None], azure: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SSLKEYLOGFILE, which would let others read the token, is ignored; sslkeylogfile= works."""
    by_environment, by_keyword = tmp_path / "environment", tmp_path / "keyword"
    monkeypatch.setenv("SSLKEYLOGFILE", str(by_environment))
    connect(server="myserver")
    assert not by_environment.exists()
    connect(server="myserver", sslkeylogfile=str(by_keyword))
    assert by_keyword.stat().st_size > 0
