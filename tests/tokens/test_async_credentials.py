"""Async credentials of azure.identity.aio, with aiohttp and without, and sync ones on a loop."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any

import pytest
from azure.core.credentials import AccessToken, AccessTokenInfo
from azure.identity import aio

import azpg

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fix_authority import Authority, Cli
    from fix_credentials import Credentials

    from azpg.emulator import Emulator

pytestmark = pytest.mark.compat

WHO = "select current_user"
TENANT = "11111111-2222-4333-8444-555555555555"


async def who(credential: Any) -> Any:
    """Return the user that a credential signs in."""
    async with await azpg.connect_async(credential=credential) as conn:
        row = await (await conn.execute(WHO)).fetchone()
        return row[0] if row else None


# azure-identity's own


def secret(authority: Authority, _folder: Path) -> Any:
    """Make the credential of an application with a secret."""
    return aio.ClientSecretCredential(TENANT, "app", "secret", connection_verify=authority.ca)


def workload(authority: Authority, folder: Path) -> Any:
    """Make the credential of a pod."""
    path = folder / "federated-token"
    path.write_text("the pod's own", encoding="utf-8")
    return aio.WorkloadIdentityCredential(
        tenant_id=TENANT,
        client_id="app",
        token_file_path=str(path),
        connection_verify=authority.ca,
    )


def on_behalf_of(authority: Authority, _folder: Path) -> Any:
    """Make the credential of an application that acts for a user."""
    return aio.OnBehalfOfCredential(
        TENANT,
        "app",
        client_secret="secret",
        user_assertion="user",
        connection_verify=authority.ca,
    )


@pytest.mark.parametrize("make", [secret, workload, on_behalf_of])
def test_an_application_signs_in(
    authority: Authority, tmp_path: Path, make: Callable[[Authority, Path], Any]
) -> None:
    """The async credentials of applications sign in, with one request for many connections."""

    async def main() -> list[Any]:
        async with make(authority, tmp_path) as credential:
            return await asyncio.gather(*(who(credential) for _ in range(5)))

    assert asyncio.run(main()) == ["myapp"] * 5
    assert authority.asked() == [("login.microsoftonline.com", azpg.AZURE_PUBLIC.scope)]


def test_a_chain_signs_in(az: Cli, caplog: pytest.LogCaptureFixture) -> None:
    """An async chain with the Azure CLI starts `az` once, and its member is named."""
    caplog.set_level("INFO", logger="azpg")

    async def main() -> list[Any]:
        chain = aio.ChainedTokenCredential(aio.EnvironmentCredential(), aio.AzureCliCredential())
        async with chain:
            return await asyncio.gather(*(who(chain) for _ in range(20)))

    assert asyncio.run(main()) == ["myapp"] * 20
    assert len(az.starts) == 1
    assert "token from ChainedTokenCredential (AzureCliCredential)" in caplog.text


# Loops


@pytest.fixture
def left_open() -> Iterator[None]:
    """Collect what a credential leaves open when its loop has ended, and bear the warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


def again(credential: Any, close: Callable[[], Any]) -> list[Any]:
    """Sign in on one event loop, and with another token on a second one."""

    async def first() -> Any:
        return await who(credential)

    async def second() -> Any:
        azpg.EntraPassword(credential).invalidate()
        try:
            return await who(credential)
        finally:
            await close()

    return [asyncio.run(first()), asyncio.run(second())]


def test_a_credential_outlives_its_loop_where_it_can(azure: Emulator) -> None:
    """A real async credential that holds no open connection signs in on the next loop too."""
    credential = aio.ManagedIdentityCredential(retry_total=0)
    assert again(credential, credential.close) == ["myapp", "myapp"]


def test_a_credential_of_a_closed_loop_says_what_to_do(
    authority: Authority, tmp_path: Path, left_open: None
) -> None:
    """One whose connection ended with its loop is told so, with the two ways out."""
    authority.lifetime = 0  # azure-identity keeps no such token
    credential = secret(authority, tmp_path)
    with pytest.raises(azpg.CredentialError, match="Event loop is closed") as caught:
        again(credential, credential.close)
    assert "pass a function that makes the credential" in caught.value.hint


def test_a_factory_makes_a_credential_for_each_loop(authority: Authority, tmp_path: Path) -> None:
    """What a function made is made anew when its loop has ended, and closed with its loop."""
    authority.lifetime = 0
    made: list[Any] = []

    def factory() -> Any:
        made.append(secret(authority, tmp_path))
        return made[-1]

    async def ask() -> None:
        azpg.EntraPassword(factory).invalidate()
        await azpg.EntraPassword(factory).call_async()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        assert again(factory, ask) == ["myapp", "myapp"]
        assert len(made) == 2
        assert len(authority.forms) == 3
        del made[:]
        gc.collect()


def test_a_credential_that_was_passed_is_not_closed(azure: Emulator) -> None:
    """It is the caller's, who may use it for something else."""
    closed: list[object] = []

    class Own(WithGetToken):
        async def close(self) -> None:
            closed.append(self)

    own: Any = Own(azure.token)
    assert asyncio.run(who(own)) == "myapp"
    assert closed == []
    assert asyncio.run(who(lambda: own)) == "myapp"
    assert closed == [own]


def test_an_async_credential_from_a_factory_is_refused_by_the_sync_api() -> None:
    """connect() cannot see what a function makes: the error says what it is and what to call."""
    made: Any = lambda: aio.AzureCliCredential()  # noqa: E731, PLW0108  # a class would show it
    with pytest.raises(azpg.CredentialError, match="an async credential, and no event loop") as e:
        azpg.connect(server="myserver", credential=made)
    assert "use connect_async(), or the credential of the same name in azure.identity" in str(
        e.value
    )


def test_a_sync_credential_keeps_no_loop_waiting(azure: Emulator, credentials: Credentials) -> None:
    """While a sync credential blocks its thread, the event loop's other tasks go on."""
    goes_on = threading.Event()

    def answer() -> str:
        assert goes_on.wait(30)
        return azure.token()

    async def main() -> Any:
        connecting = asyncio.create_task(who(credentials.with_get_token(answer)))
        for _ in range(1000):
            await asyncio.sleep(0)
        assert not connecting.done()
        goes_on.set()
        return await connecting

    assert asyncio.run(main()) == "myapp"


# Objects of one's own


class WithGetToken:
    """Is awaited, and has get_token only."""

    calls = 0

    def __init__(self, answer: Callable[[], str]) -> None:
        self._answer = answer

    async def get_token(self, *_scopes: str, **_options: Any) -> AccessToken:
        """Return a token."""
        self.calls += 1
        return AccessToken(self._answer(), 1 << 40)


class WithGetTokenInfo:
    """Is awaited, and has get_token_info only."""

    calls = 0

    def __init__(self, answer: Callable[[], str]) -> None:
        self._answer = answer

    async def get_token_info(self, *_scopes: str, **_options: Any) -> AccessTokenInfo:
        """Return a token."""
        self.calls += 1
        return AccessTokenInfo(self._answer(), 1 << 40)


class Decorated:
    """Returns a coroutine from a plain function, as a decorator makes it."""

    calls = 0

    def __init__(self, answer: Callable[[], str]) -> None:
        self._inner = WithGetToken(answer)

    def get_token(self, *scopes: str, **_options: Any) -> Any:
        """Return what is to be awaited."""
        self.calls += 1
        return self._inner.get_token(*scopes)


@pytest.mark.parametrize("shape", [WithGetToken, WithGetTokenInfo, Decorated])
@pytest.mark.parametrize("factory", [False, True], ids=["ready-made", "factory"])
def test_an_awaited_object_of_ones_own_signs_in(azure: Emulator, shape: Any, factory: bool) -> None:
    """One method is enough; a factory is called once."""
    made: list[Any] = []

    def make() -> Any:
        made.append(shape(azure.token))
        return made[-1]

    credential = make if factory else make()

    async def main() -> list[Any]:
        return [await who(credential) for _ in range(3)]

    assert asyncio.run(main()) == ["myapp"] * 3
    assert len(made) == made[0].calls == 1


# Without aiohttp

WITHOUT = """
import asyncio, sys
sys.modules["aiohttp"] = None
import azpg
from azure.identity import ManagedIdentityCredential, aio

async def main():
    try:
        await azpg.connect_async(credential=aio.ManagedIdentityCredential)
    except azpg.CredentialError as error:
        print(error.kind, "|", error)
    async with await azpg.connect_async(credential=ManagedIdentityCredential()) as conn:
        print(conn.info.user)

asyncio.run(main())
"""


def test_without_aiohttp_only_async_credentials_fail(azure: Emulator) -> None:
    """azure.identity.aio needs aiohttp, and the error names it; sync credentials need none."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT], capture_output=True, text=True, check=True
    )
    failed, hint, user = ended.stdout.splitlines()
    assert failed.startswith("credential | no token from ManagedIdentityCredential: ImportError: ")
    assert "aiohttp" in failed
    assert hint.startswith("HINT: install what it names, or pass a credential of azure.identity")
    assert user == "myapp"
    assert "Error" not in ended.stderr
