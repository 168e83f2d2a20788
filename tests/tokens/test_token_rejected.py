"""A token that the server refuses is replaced once, where the credential has another."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import azpg
from azpg._tokens import refresh_policy

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_api import Api
    from fix_clock import Clock
    from fix_credentials import Credentials
    from fix_hostile import Certificates, Hostile, Peer, Script
    from fix_servers import Postgres

    from azpg.emulator import Emulator

BAD = {
    "expired": "token-expired",
    "wrong-audience": "token-audience",
    "malformed": "token-invalid",
    "wrong-signature": "token-invalid",
}
"""what may be wrong with a token, and what the refusal is called"""


class Spent:
    """What a step cost the emulator."""

    def __init__(self, azure: Emulator) -> None:
        self._azure = azure
        self._before = azure.counts

    def __call__(self) -> tuple[int, int, int]:
        """Return the token requests, the sign-ins and the refused sign-ins since."""
        spent = self._azure.counts - self._before
        return spent.token_requests, spent.sign_ins, spent.refused_sign_ins


@pytest.fixture
def spent(azure: Emulator) -> Spent:
    """Count from here."""
    return Spent(azure)


@pytest.fixture
def refuses(azure: Emulator, credentials: Credentials) -> Callable[[str], azpg.EntraPassword]:
    """Return what holds a token that the server refuses, of a credential that has good ones."""

    def make(fault: Any) -> azpg.EntraPassword:
        password = azpg.EntraPassword(credentials.of(azure))
        with azure.fault(token=fault):
            password()
        return password

    return make


# The real credential, which has no other


@pytest.mark.parametrize("fault", BAD)
def test_the_same_token_again_is_final(
    api: Api, azure: Emulator, credentials: Credentials, spent: Spent, fault: Any
) -> None:
    """azure-identity gives the same bytes out of its cache: one sign-in, and that is final."""
    credential = credentials.managed_identity()
    with azure.fault(token=fault), pytest.raises(azpg.LoginError) as caught:
        api.open(credential=credential, user="myapp")
    assert caught.value.kind == BAD[fault]
    assert spent() == (1, 0, 1)
    stats = azpg.EntraPassword(credential).stats()
    assert stats.failed == 0


def test_a_token_refused_by_all_is_asked_for_once_a_minute(
    api: Api, azure: Emulator, credentials: Credentials, clock: Clock
) -> None:
    """Connecting over and over with a token that is refused asks the credential no more."""
    credential = credentials.of(azure)
    with azure.fault(token="wrong-signature"):
        for asked, seconds in ((2, 0), (2, 10), (2, 40), (3, 15), (3, 50)):
            clock.goes_on(seconds)
            with pytest.raises(azpg.LoginError):
                api.open(credential=credential, user="myapp")
            assert credential.calls == asked
    clock.goes_on(61)
    with api.connect(credential=credential):
        assert credential.calls == 4


# A credential that has another


@pytest.mark.parametrize("fault", BAD)
def test_a_refused_token_is_replaced(
    api: Api,
    refuses: Callable[[str], azpg.EntraPassword],
    spent: Spent,
    fault: str,
) -> None:
    """With another token the sign-in is tried once more, and that one is kept."""
    password = refuses(fault)
    with api.connect(password=password, user="myapp") as conn:
        assert api.row(conn, "select current_user") == ("myapp",)
    assert spent() == (0, 1, 1)
    assert password.stats()[:2] == (2, 0)
    with api.connect(password=password):
        assert spent() == (0, 2, 1)
    assert password.stats()[:2] == (2, 0)


def test_the_real_credential_asks_once_more_when_its_cache_is_old(
    api: Api, azure: Emulator, credentials: Credentials, clock: Clock, spent: Spent
) -> None:
    """A token revoked in its last minutes costs one refused sign-in and one token request."""
    clock.of(azure)
    password = azpg.EntraPassword(credentials.managed_identity())
    with api.connect(password=password):
        assert spent() == (1, 1, 0)
    clock.goes_on(3290)  # not yet time for azpg
    clock.is_set(15)  # for azure-identity it is
    azure.expire_tokens()
    with api.connect(password=password) as conn:
        assert api.row(conn, "select current_user") == ("myapp",)
    assert spent() == (2, 2, 1)


def test_the_second_refusal_is_final(
    api: Api, azure: Emulator, credentials: Credentials, spent: Spent
) -> None:
    """A token refused after it replaced a refused one is not replaced in its turn."""
    credential = credentials.of(azure)
    with azure.fault(token="expired"), pytest.raises(azpg.LoginError) as caught:
        api.open(credential=credential, user="myapp")
    assert caught.value.kind == "token-expired"
    assert credential.calls == 2
    assert spent() == (0, 0, 2)


def test_a_credential_that_fails_to_replace_leaves_the_refusal(
    api: Api, azure: Emulator, credentials: Credentials, spent: Spent
) -> None:
    """Where no other token can be had, the server's refusal is what the caller is told."""
    with azure.fault(token="expired"):
        tokens = [azure.token()]
    credential = credentials.with_get_token(tokens.pop)
    with pytest.raises(azpg.LoginError) as caught:
        api.open(credential=credential, user="myapp")
    assert caught.value.kind == "token-expired"
    assert credential.calls == 2
    assert spent() == (0, 0, 1)


def test_the_token_that_replaced_it_may_be_tried_twice(
    api: Api,
    hostile: Callable[[Script], Hostile],
    certificates: Certificates,
    credentials: Credentials,
) -> None:
    """A server not ready for the new token is tried again with it, and judged by what it says."""
    said = [
        "The access token has expired. Please acquire a new token and retry.",
        "the database system is starting up",
        'role "me" does not exist',
    ]
    given: list[str] = []

    def refuse(peer: Peer) -> None:
        peer.start_tls(certificates.right)
        peer.packet()
        peer.ask(3)
        given.append(peer.message()[1].decode())
        peer.refuse(said[len(given) - 1])

    tokens = iter(["first", "second"])
    credential = credentials.with_get_token(lambda: next(tokens))
    with pytest.raises(azpg.LoginError, match='role "me" does not exist'):
        api.open(
            **(hostile(refuse).address() | {"retry_timeout": 30}),
            user="me",
            credential=credential,
            sslrootcert=certificates.root,
        )
    assert [each.rstrip("\0") for each in given] == ["first", "second", "second"]


# Many at once


@pytest.mark.parametrize("how", ["threads", "tasks"])
def test_a_hundred_refused_together_cause_one_new_token(
    azure: Emulator,
    credentials: Credentials,
    monkeypatch: pytest.MonkeyPatch,
    spent: Spent,
    how: str,
) -> None:
    """All were refused the same token, and the one that replaces it serves them all."""
    # On a loaded machine a hundred callers may wait for longer than the time to a second request
    monkeypatch.setattr(refresh_policy, "NEXT_REQUEST_AFTER_SECONDS", 600.0)
    credential = credentials.of(azure)
    with azure.fault(token="wrong-signature"):
        azpg.EntraPassword(credential)()

    def connect(_number: int) -> str:
        with azpg.connect(credential=credential, user="myapp") as conn:
            return conn.info.user

    async def connect_async() -> str:
        async with await azpg.connect_async(credential=credential, user="myapp") as conn:
            return conn.info.user

    async def tasks() -> list[str]:
        return await asyncio.gather(*(connect_async() for _ in range(100)))

    if how == "threads":
        with ThreadPoolExecutor(100) as pool:
            users = list(pool.map(connect, range(100)))
    else:
        users = asyncio.run(tasks())
    assert users == ["myapp"] * 100
    assert credential.calls == 2
    assert 1 <= spent()[2] <= 100


def test_a_pool_gets_over_a_refused_token(
    api: Api, refuses: Callable[[str], azpg.EntraPassword], spent: Spent
) -> None:
    """A pool whose first connections are refused together opens with one new token."""
    password = refuses("wrong-signature")
    with api.pool(password=password, user="myapp", min_size=5) as pool:
        assert api.row_of_pool(pool, "select current_user") == ("myapp",)
    assert password.stats()[:2] == (2, 0)
    assert spent()[1] == 5


# What never qualifies


def test_a_role_that_is_not_there_is_no_fault_of_the_token(
    api: Api, azure: Emulator, credentials: Credentials, spent: Spent
) -> None:
    """A wrong role is final at once."""
    credential = credentials.of(azure)
    with pytest.raises(azpg.LoginError):
        api.open(credential=credential, user="nobody")
    assert credential.calls == 1
    assert spent() == (0, 0, 1)


def test_a_token_of_another_identity_is_no_fault_of_the_token(
    api: Api, azure: Emulator, credentials: Credentials, spent: Spent
) -> None:
    """A token for one role shown for another is final at once, a group's too."""
    alice = azure.add_role(f"alice-{api.kind}@contoso.com")
    azure.add_role(f"team-{api.kind}", kind="group", members=[alice])
    credential = credentials.of(azure)
    for user in (alice.name, f"team-{api.kind}"):
        with pytest.raises(azpg.LoginError):
            api.open(credential=credential, user=user)
    assert credential.calls == 1
    assert spent() == (0, 0, 2)


def test_a_token_without_an_object_is_no_bad_token(
    api: Api, azure: Emulator, credentials: Credentials, spent: Spent
) -> None:
    """A token of a kind that the server knows nobody by is final at once."""
    credential = credentials.of(azure)
    with azure.fault(token="no-oid"), pytest.raises(azpg.LoginError):
        api.open(credential=credential, user="myapp")
    assert spent()[2] == credential.calls


def test_a_password_is_never_tried_twice(
    api: Api, azure: Emulator, postgres: Postgres, spent: Spent
) -> None:
    """Neither a text nor a callback is asked again when a server refuses what it gave."""
    asked: list[str] = []

    def ask() -> str:
        asked.append("")
        return "wrong"

    azure.add_role(f"native-{api.kind}", password="right")
    for password in ("wrong", api.callback(ask)):
        with pytest.raises(azpg.LoginError):
            api.open(user=f"native-{api.kind}", password=password)
        with pytest.raises(azpg.LoginError):
            api.open(**postgres.conninfo(password=password))
    assert spent()[2] == 2
    assert len(asked) == 2
