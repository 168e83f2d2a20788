"""No token and no password leaks: after success, after each failure, after an interrupt."""

from __future__ import annotations

import asyncio
import gc
import io
import logging
import pickle
import signal
import threading
import traceback
from typing import TYPE_CHECKING, Any

import psycopg_pool
import pytest

import azpg
from azpg._tokens.cache import TOKEN_CACHE
from azpg._tokens.request import Answer, TokenRequest, pending_answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_api import Api
    from fix_clock import Clock
    from fix_credentials import Credentials
    from fix_hostile import Certificates, Hostile, Peer, Script
    from fix_leaks import Leaks, Tokens
    from fix_refresh import Background
    from fix_servers import Postgres

    from azpg.emulator import Emulator

pytestmark = pytest.mark.compat


@pytest.mark.parametrize("pgbouncer", [False, True], ids=["postgres", "pgbouncer"])
def test_nothing_is_logged_of_a_token(
    api: Api, tokens: Tokens, leaks: Leaks, pgbouncer: bool
) -> None:
    """A successful sign-in logs no token, at any level of any logger."""
    with api.connect(credential=tokens.credential, pgbouncer=pgbouncer) as conn:
        api.row(conn, "select 1")
        leaks.none_in_logs(tokens.given[0])
        assert tokens.given[0] not in repr(conn) + conn.info.dsn


def test_nothing_is_logged_by_azure_identity(
    api: Api, azure: Emulator, credentials: Credentials, leaks: Leaks
) -> None:
    """The real azure-identity at DEBUG logs no token that azpg asked it for."""
    password = azpg.EntraPassword(credentials.managed_identity())
    with api.connect(password=password):
        leaks.none_in_logs(password())


def test_nothing_is_logged_of_a_password(api: Api, postgres: Postgres, leaks: Leaks) -> None:
    """A password's sign-in, over a pool too, logs none of it."""
    with api.connect(**postgres.conninfo()), api.pool(**postgres.conninfo(), min_size=1):
        leaks.none_in_logs(postgres.password)


FAILURES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "role": ({"user": "nobody"}, {}),
    "database": ({"dbname": "nothing"}, {}),
    "certificate": ({}, {"certificate": "expired"}),
    "stripped": ({}, {"tls": "stripped"}),
    "expired": ({}, {"token": "expired"}),
    "malformed": ({"user": "myapp"}, {"token": "malformed"}),
    "refused": ({"port": 1, "retry_timeout": 0}, {}),
    "retried": ({"port": 1, "retry_timeout": 0.1}, {}),
    "hosts": ({"host": "a.postgres.database.azure.com", "hostaddr": "127.0.0.1", "port": 1}, {}),
    "sslrootcert": ({"sslrootcert": "/nothing"}, {}),
    "libpq": ({"keepalives_idle": "soon"}, {}),
}


@pytest.mark.parametrize(("options", "fault"), FAILURES.values(), ids=FAILURES)
def test_a_failure_holds_no_token(
    api: Api,
    azure: Emulator,
    tokens: Tokens,
    leaks: Leaks,
    options: dict[str, Any],
    fault: dict[str, Any],
) -> None:
    """Whatever goes wrong: text, repr, pgconn, causes, frames and pickle are free of the token."""
    with azure.fault(**fault), pytest.raises((azpg.ConnectError, azpg.ConfigError)) as caught:
        api.open(**{"retry_timeout": 0, **options}, credential=tokens.credential)
    gc.collect()
    for token in tokens.given:
        leaks.none_held(caught.value, token, tokens.credential)
    if options.keys() != {"keepalives_idle"}:  # libpq rejects it before a token is asked for
        assert len(tokens.given) == (2 if "token" in fault else 1)  # a refused one is replaced once


@pytest.mark.parametrize("where", ["keyword", "conninfo", "uri", "environment", "callback"])
def test_a_refused_password_is_in_no_error(
    api: Api, postgres: Postgres, leaks: Leaks, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong password of any source is in nothing of the error."""
    secret = "hunter2hunter2"
    keywords = postgres.conninfo()
    del keywords["password"]
    conninfo = {"conninfo": f"password={secret}", "uri": f"postgresql://app:{secret}@/"}
    if where == "environment":
        monkeypatch.setenv("PGPASSWORD", secret)
    elif where == "callback":
        keywords["password"] = api.callback(lambda: "hunter2" * 2)
    elif where == "keyword":
        keywords["password"] = secret
    with pytest.raises(azpg.LoginError) as caught:
        api.open(conninfo.get(where, ""), **keywords)
    leaks.none_held(caught.value, secret)


@pytest.mark.parametrize(
    "conninfo",
    [
        "password=hunter2hunter2 sslmode=ful",
        "password='hunter2hunter2",
        "postgresql://me:hunter2hunter2@x:y:z/",
        "Server=x;Password=hunter2hunter2;",
        "jdbc:postgresql://x/db?password=hunter2hunter2",
        "host=x password=hunter2hunter2 colour=red",
    ],
    ids=["sslmode", "quote", "uri", "ado", "jdbc", "keyword"],
)
def test_a_config_error_quotes_no_password(api: Api, leaks: Leaks, conninfo: str) -> None:
    """A string that cannot be read, or meant, is told without the password in it."""
    with pytest.raises(azpg.ConfigError) as caught:
        api.open(conninfo)
    leaks.none_held(caught.value, "hunter2hunter2")
    with pytest.raises(azpg.ConfigError) as caught:
        api.open_pool(conninfo)
    leaks.none_held(caught.value, "hunter2hunter2")


@pytest.mark.parametrize(
    "wrong",
    [{"conninfo": None}, {"server": 5}, {"cloud": 5}, {"client_id": 5}, {"retry_timeout": "x"}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_an_option_of_the_wrong_type_shows_no_password(
    api: Api, leaks: Leaks, wrong: dict[str, Any]
) -> None:
    """An option that cannot be read is a ConfigError that names it, without the password."""
    with pytest.raises(azpg.ConfigError, match=next(iter(wrong))) as caught:
        api.open(**{"server": "myserver", **wrong}, password="hunter2hunter2")
    leaks.none_held(caught.value, "hunter2hunter2")


@pytest.mark.parametrize("where", ["keyword", "callback", "environment"])
def test_a_password_that_cannot_be_sent_is_not_shown(
    api: Api, postgres: Postgres, leaks: Leaks, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that are not UTF-8 in a password end in an azpg error that does not quote it."""
    secret = "hunter2hunter2"
    keywords = postgres.conninfo()
    del keywords["password"]
    if where == "keyword":
        keywords["password"] = f"{secret}\udcff"
    elif where == "callback":
        keywords["password"] = api.callback(lambda: f"{'hunter2' * 2}\udcff")
    else:
        monkeypatch.setenv("PGPASSWORD", f"{secret}\udcff")
    with pytest.raises((azpg.ConfigError, azpg.CredentialError), match="not UTF-8") as caught:
        api.open(**keywords)
    leaks.none_held(caught.value, secret)


def test_a_secret_thrown_back_is_masked(
    api: Api,
    hostile: Callable[[Script], Hostile],
    certificates: Certificates,
    credentials: Credentials,
    leaks: Leaks,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A server that repeats the token in its refusal has it cut out of all that azpg says."""
    # psycopg's own log repeats what a server says, where somebody asks it to
    caplog.set_level(logging.WARNING, logger="psycopg")

    def echo(peer: Peer) -> None:
        peer.start_tls(certificates.right)
        peer.packet()
        peer.ask(3)
        _, password = peer.message()
        peer.refuse(f"password authentication failed: {password[:-1].decode()}")

    credential = credentials.with_get_token()
    server = hostile(echo)
    with pytest.raises(azpg.LoginError) as caught:
        api.open(
            **server.address(), user="me", credential=credential, sslrootcert=certificates.root
        )
    assert credentials.secret.encode() in server.decrypted
    leaks.none_held(caught.value, credentials.secret, credential)


def test_a_callbacks_error_is_the_cause(api: Api, postgres: Postgres, leaks: Leaks) -> None:
    """The traceback of a bug in a callback shows the callback's own line, and no secret of azpg."""

    def ask() -> str:
        password = "hunter2" * 2
        raise ValueError(len(password))

    with pytest.raises(azpg.CredentialError) as caught:
        api.open(**postgres.conninfo(password=api.callback(ask)))
    leaks.none_held(caught.value, "hunter2hunter2")
    assert isinstance(caught.value.__cause__, ValueError)
    shown = "".join(traceback.format_exception(caught.value))
    assert "raise ValueError(len(password))" in shown


def test_an_interrupt_holds_no_token(
    hostile: Callable[[Script], Hostile],
    certificates: Certificates,
    credentials: Credentials,
    leaks: Leaks,
) -> None:
    """Ctrl-C in the middle of a sign-in leaves no token in the frames behind."""

    def interrupt(peer: Peer) -> None:
        peer.start_tls(certificates.right)
        peer.packet()
        peer.ask(3)
        peer.message()
        signal.raise_signal(signal.SIGINT)
        peer.read_all()

    credential = credentials.with_get_token()
    address = hostile(interrupt).address()
    with pytest.raises(KeyboardInterrupt) as caught:
        azpg.connect(**address, user="me", credential=credential, sslrootcert=certificates.root)
    leaks.none_held(caught.value, credentials.secret, credential)


@pytest.mark.parametrize("secret", ["token", "password"])
def test_a_cancelled_connect_holds_no_token(
    hostile: Callable[[Script], Hostile],
    certificates: Certificates,
    credentials: Credentials,
    leaks: Leaks,
    secret: str,
) -> None:
    """A task cancelled in the middle of a sign-in leaves no token in the frames behind."""
    signed_in = threading.Event()

    def stall(peer: Peer) -> None:
        peer.start_tls(certificates.right)
        peer.packet()
        peer.ask(3)
        peer.message()
        signed_in.set()
        peer.read_all()

    credential = credentials.with_get_token()
    options = {**hostile(stall).address(), "user": "me", "sslrootcert": certificates.root}
    options |= {"credential": credential} if secret == "token" else {"password": credentials.secret}

    async def main() -> BaseException:
        task = asyncio.create_task(azpg.connect_async(**options))
        await asyncio.to_thread(signed_in.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        return caught.value

    leaks.none_held(asyncio.run(main()), credentials.secret, credential, options)


# Tokens that come and go


def test_a_renewal_shows_no_token(
    api: Api, tokens: Tokens, leaks: Leaks, clock: Clock, background: Background
) -> None:
    """The thread that fetched the next token leaves neither of them in a log or a repr."""
    password = azpg.EntraPassword(tokens.credential)
    for _ in range(2):
        with api.connect(password=password) as conn:
            background.landed()
            shown = [conn, vars(conn), vars(type(conn)), conn.info.dsn, password, vars(password)]
            assert not any(token in repr(shown) for token in tokens.given)
        clock.goes_on(3370)
    for token in tokens.given:
        leaks.none_in_logs(token)
    assert len(tokens.given) == 2


def test_a_renewal_that_fails_shows_no_token(
    api: Api, tokens: Tokens, leaks: Leaks, clock: Clock, background: Background
) -> None:
    """Neither its warning nor the error at the end holds the old token, or the one it quotes."""
    password = azpg.EntraPassword(tokens.credential)
    with api.connect(password=password):
        pass
    quoted = f"eyJhbGciOiJub25lIn0.{'x' * 40}"
    tokens.fail(f"unexpected answer {quoted}")
    clock.goes_on(3370)
    with api.connect(password=password):
        background.landed()
    clock.goes_on(3600)
    with pytest.raises(azpg.CredentialError) as caught:
        api.open(password=password)
    assert "unexpected answer …" in str(caught.value)
    for secret in (quoted, *tokens.given):
        leaks.none_held(caught.value, secret, tokens.credential, tokens, password, password._entry)
        leaks.none_in_logs(secret)


def test_a_token_refused_and_replaced_is_not_shown(
    api: Api, azure: Emulator, tokens: Tokens, leaks: Leaks
) -> None:
    """Neither the token that was refused nor the one that took its place is in what remains."""
    password = azpg.EntraPassword(tokens.credential)
    with azure.fault(token="wrong-signature"):
        password()
    with api.connect(password=password, user="myapp") as conn:
        gc.collect()
        for token in tokens.given:
            leaks.none_in_logs(token)
            assert token not in repr(conn) + conn.info.dsn
    assert len(tokens.given) == 2


def test_a_refusal_after_a_failed_replacement_holds_no_token(
    api: Api, azure: Emulator, tokens: Tokens, leaks: Leaks
) -> None:
    """When no other token can be had, the refusal that is raised is free of the first."""
    password = azpg.EntraPassword(tokens.credential)
    with azure.fault(token="expired"):
        password()
    tokens.fail("no luck")
    with pytest.raises(azpg.LoginError) as caught:
        api.open(password=password, user="myapp")
    assert caught.value.kind == "token-expired"
    leaks.none_held(caught.value, tokens.given[0], tokens.credential, tokens, password)


def test_what_holds_a_token_does_not_show_it(api: Api, tokens: Tokens, leaks: Leaks) -> None:
    """The reprs of all between a password and its token are free of it, and nothing is pickled."""
    password = azpg.EntraPassword(tokens.credential)
    with api.connect(password=password):
        text = tokens.given[0]
    entry, token = password._entry, password.token()
    answer = pending_answer()
    request = TokenRequest(None, started=0.0, timeout=30.0, credential_name="", answer=answer)
    answer.set_result(Answer(token, request))
    shown = [password, entry, entry.cached, token, request, answer, answer.result(), TOKEN_CACHE]
    assert text not in repr([*shown, *map(vars, (password, entry, request, TOKEN_CACHE))])
    for each in (password, entry, entry.cached, token, request):
        file = io.BytesIO()
        with pytest.raises(TypeError) as caught:
            pickle.dump(each, file)
        assert text not in f"{caught.value}{file.getvalue()!r}"
    with pytest.raises(TypeError, match="make one in each process"):
        pickle.dumps(password)


# Pools


@pytest.mark.parametrize("secret", ["token", "password"])
def test_a_pool_that_cannot_open_shows_nothing(
    api: Api, postgres: Postgres, tokens: Tokens, leaks: Leaks, secret: str
) -> None:
    """The error of create_pool(), and the logs of its tries, are free of the secret."""
    if secret == "password":
        options = postgres.conninfo(password="hunter2hunter2", min_size=1)
    else:
        options = {"credential": tokens.credential, "user": "nobody", "min_size": 1}
    with pytest.raises(azpg.LoginError) as caught:
        api.open_pool(**options)
    leaks.none_shown(caught.value, (*tokens.given, "hunter2hunter2")[0])


def test_a_pools_timeout_shows_nothing(
    api: Api, postgres: Postgres, free_port: int, leaks: Leaks
) -> None:
    """A PoolTimeout and its cause are free of the password."""
    options = postgres.conninfo(hostaddr="127.0.0.1", port=free_port, min_size=1, timeout=2)
    with pytest.raises(psycopg_pool.PoolTimeout) as caught:
        api.open_pool(**options)
    assert caught.value.__cause__ is not None
    leaks.none_shown(caught.value, postgres.password)


def test_a_pool_in_use_shows_nothing(api: Api, tokens: Tokens, leaks: Leaks) -> None:
    """What a pool shows of itself once it has signed in holds no token."""
    with api.pool(credential=tokens.credential, min_size=1) as pool:
        shown = [pool, vars(pool), vars(type(pool)), pool.get_stats()]
        assert tokens.given[0] not in repr(shown)
        leaks.none_in_logs(tokens.given[0])
