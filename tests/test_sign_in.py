"""Signing in: every kind of credential, password, callback and role, against real servers."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from azure.identity.aio import ManagedIdentityCredential as AsyncManagedIdentityCredential

import azpg

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fix_api import Api
    from fix_credentials import Credentials
    from fix_servers import Postgres

    from azpg.emulator import Emulator
    from azpg.emulator._entra.principals import Principal, PrincipalKind

pytestmark = pytest.mark.compat

WHO = "select current_user"


@pytest.fixture(scope="module")
def people(emulator: Emulator) -> Mapping[str, Principal]:
    """Return one principal of each kind, each with its role."""
    kinds: dict[PrincipalKind, str] = {
        "user": "alice@contoso.com",
        "guest": "bob_fabrikam.com#EXT#@contoso.com",
        "user-assigned": "worker",
        "system-assigned": "webapp",
        "slot": "webapp/slots/staging",
        "service-principal": "deployer",
    }
    made: dict[str, Principal] = {
        kind: emulator.add_role(name, kind=kind) for kind, name in kinds.items()
    }
    return made | {"group": emulator.add_role("team", kind="group", members=[made["user"]])}


# Credentials


@pytest.mark.parametrize("kind", ["user", "guest", "user-assigned", "system-assigned", "slot"])
def test_the_tokens_own_name_signs_in(
    api: Api,
    azure: Emulator,
    people: Mapping[str, Principal],
    credentials: Credentials,
    kind: str,
) -> None:
    """Without user the role is the one that the token names, for every kind of identity."""
    credential = credentials.with_get_token(lambda: azure.token(people[kind]))
    with api.connect(credential=credential) as conn:
        assert api.row(conn, WHO) == (people[kind].name,)
        assert conn.info.user == people[kind].name


def test_a_member_signs_in_as_the_group(
    api: Api, azure: Emulator, people: Mapping[str, Principal], credentials: Credentials
) -> None:
    """`user` names the group, and a member's token opens it."""
    credential = credentials.with_get_token(lambda: azure.token(people["user"]))
    with api.connect(user="team", credential=credential) as conn:
        assert api.row(conn, WHO) == ("team",)


def test_a_service_principal_needs_a_user(
    api: Api, azure: Emulator, people: Mapping[str, Principal], credentials: Credentials
) -> None:
    """A service principal's token has no name: the error shows its ids and what to write."""
    deployer = people["service-principal"]
    credential = credentials.with_get_token(lambda: azure.token(deployer))
    with pytest.raises(azpg.CredentialError) as caught:
        api.open(credential=credential)
    assert caught.value.kind == "no-user"
    assert deployer.object_id in str(caught.value)
    assert f"appid {deployer.client_id}" in str(caught.value)
    assert 'user="' in caught.value.hint
    with api.connect(user="deployer", credential=credential) as conn:
        assert api.row(conn, WHO) == ("deployer",)


def test_with_a_user_no_claim_is_read(api: Api, azure: Emulator, credentials: Credentials) -> None:
    """An explicit user goes with a token that is no JWT at all; the server is the one to judge."""
    credential = credentials.with_get_token(lambda: "no JWT at all")
    with pytest.raises(azpg.LoginError, match="invalid format") as caught:
        api.open(user="myapp", credential=credential)
    assert caught.value.kind == "token-invalid"


def test_without_a_user_a_token_must_name_one(
    api: Api, azure: Emulator, credentials: Credentials
) -> None:
    """A token that is no JWT names nobody, and the operating system's user is not taken instead."""
    with pytest.raises(azpg.CredentialError, match="not a readable JWT") as caught:
        api.open(credential=credentials.with_get_token(lambda: "no JWT at all"))
    assert caught.value.kind == "no-user"


def test_client_id_chooses_the_identity_of_the_default_credential(
    api: Api, azure: Emulator, people: Mapping[str, Principal]
) -> None:
    """With several user-assigned identities client_id says which one signs in."""
    with api.connect(client_id=people["user-assigned"].client_id) as conn:
        assert api.row(conn, WHO) == ("worker",)
    with api.connect(client_id=azure.principal.client_id) as conn:
        assert api.row(conn, WHO) == ("myapp",)


def test_a_credential_of_azure_identity_signs_in(
    api: Api, azure: Emulator, people: Mapping[str, Principal], credentials: Credentials
) -> None:
    """The real ManagedIdentityCredential signs in as the identity it was made for."""
    credential = credentials.managed_identity(people["user-assigned"].client_id)
    with api.connect(credential=credential) as conn:
        assert api.row(conn, WHO) == ("worker",)


def test_a_factory_makes_the_credential_once(
    api: Api, azure: Emulator, credentials: Credentials
) -> None:
    """A function that makes a credential is called once, on first need, for all connections."""
    made = []

    def factory() -> Any:
        made.append(credentials.managed_identity())
        return made[0]

    for _ in range(3):
        with api.connect(credential=factory) as conn:
            assert api.row(conn, WHO) == ("myapp",)
    assert len(made) == 1


@pytest.mark.parametrize("shape", ["with_get_token", "with_get_token_info"])
def test_any_object_that_gives_tokens_is_a_credential(
    api: Api, azure: Emulator, credentials: Credentials, shape: str
) -> None:
    """Only get_token or only get_token_info is enough, and the scope is the server's."""
    credential = getattr(credentials, shape)(azure.token)
    with api.connect(credential=credential) as conn:
        assert api.row(conn, WHO) == ("myapp",)
    assert credential.scopes == {"https://ossrdbms-aad.database.windows.net/.default"}
    assert credential.calls == 1


def test_an_async_credential_is_awaited_on_the_loop(
    azure: Emulator, credentials: Credentials
) -> None:
    """An async credential of one's own is awaited on the caller's loop."""
    credential = credentials.async_with_get_token(azure.token)

    async def main() -> tuple[Any, ...] | None:
        async with await azpg.connect_async(credential=credential) as conn:
            return await (await conn.execute(WHO)).fetchone()

    assert asyncio.run(main()) == ("myapp",)
    assert credential.threads == {threading.get_ident()}


def test_an_async_credential_of_azure_identity_signs_in(azure: Emulator) -> None:
    """The real azure.identity.aio.ManagedIdentityCredential signs in."""

    async def main() -> tuple[Any, ...] | None:
        async with (
            AsyncManagedIdentityCredential(retry_total=0) as credential,
            await azpg.connect_async(credential=credential) as conn,
        ):
            return await (await conn.execute(WHO)).fetchone()

    assert asyncio.run(main()) == ("myapp",)


def test_a_sync_credential_is_called_off_the_loop(
    azure: Emulator, credentials: Credentials
) -> None:
    """In the async API a sync credential runs in a thread, so that the loop never waits."""
    credential = credentials.of(azure)

    async def main() -> None:
        await (await azpg.connect_async(credential=credential)).close()

    asyncio.run(main())
    assert credential.threads
    assert threading.get_ident() not in credential.threads


def test_entra_password_is_taken_as_a_password(
    api: Api, azure: Emulator, credentials: Credentials
) -> None:
    """An EntraPassword as password= is Entra's sign-in: its token also names the user."""
    password = azpg.EntraPassword(credentials.managed_identity())
    with api.connect(password=password) as conn:
        assert api.row(conn, WHO) == ("myapp",)
    assert password.stats().fetched == 1


def test_entra_password_brings_its_cloud(api: Api, credentials: Credentials) -> None:
    """An EntraPassword of another cloud sends no token to a server of the public one."""
    credential = credentials.with_get_token()
    password = azpg.EntraPassword(credential, cloud="china")
    with pytest.raises(azpg.ConfigError, match="belongs to the cloud 'public'"):
        api.open(host="db.postgres.database.azure.com", password=password)
    assert credential.calls == 0


def test_a_keyword_credential_beats_the_environments_password(
    api: Api, azure: Emulator, credentials: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PGPASSWORD does not stand in the way of a credential given in code."""
    monkeypatch.setenv("PGPASSWORD", "left behind")
    with api.connect(credential=credentials.of(azure)) as conn:
        assert api.row(conn, WHO) == ("myapp",)


def test_async_objects_are_refused_by_the_sync_api(credentials: Credentials) -> None:
    """An async credential or callback given to connect() is told so, with what to call."""

    async def password() -> str:
        return ""

    def open_(**sign_in: Any) -> None:
        azpg.connect(server="myserver", user="me", **sign_in)

    with pytest.raises(azpg.ConfigError, match=r"an async credential: use connect_async\(\)"):
        open_(credential=credentials.async_with_get_token())
    with pytest.raises(azpg.ConfigError, match=r"an async function: use connect_async\(\)"):
        open_(password=password)


@pytest.mark.parametrize(
    ("sign_in", "said"),
    [
        ({"credential": object()}, "credential is object, which has neither get_token nor"),
        ({"password": b"bytes"}, "password is bytes: pass text or a function"),
        ({"password": "{your_password}"}, "password is still a placeholder"),
        ({"password": "p\0"}, "password .* NUL .* UTF-8"),
        ({"password": "p\udcff"}, "password .* NUL .* UTF-8"),
    ],
    ids=["credential", "password", "placeholder", "nul", "surrogate"],
)
def test_what_is_no_credential_or_password_is_refused(
    api: Api, sign_in: dict[str, Any], said: str
) -> None:
    """An object that cannot sign in is named in a ConfigError, before anything is connected."""
    with pytest.raises(azpg.ConfigError, match=said):
        api.open(server="myserver", user="me", **sign_in)


# Passwords


@pytest.mark.parametrize("source", ["keyword", "conninfo", "environment", "service file"])
def test_a_password_signs_in_from_every_source(
    api: Api, postgres: Postgres, source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A password means PostgreSQL's own sign-in, wherever libpq would take it from."""
    keywords = postgres.conninfo()
    password = keywords.pop("password")
    conninfo = ""
    if source == "keyword":
        keywords["password"] = password
    elif source == "conninfo":
        conninfo = "password='p\\'ass wörd'"
    elif source == "environment":
        monkeypatch.setenv("PGPASSWORD", str(password))
    else:
        (tmp_path / "services").write_text(f"[db]\npassword={password}\n", encoding="utf-8")
        monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
        conninfo = "service=db"
    with api.connect(conninfo, **keywords) as conn:
        assert api.row(conn, WHO) == ("app",)


def test_a_password_file_counts_when_it_is_named(
    api: Api, postgres: Postgres, tmp_path: Path
) -> None:
    """passfile= is read by libpq, and no token is asked for."""
    line = f"{postgres.host}:*:*:{postgres.user}:{postgres.password}\n"
    passfile = tmp_path / "passfile"
    passfile.write_text(line, encoding="utf-8")
    passfile.chmod(0o600)
    keywords = postgres.conninfo(passfile=passfile)
    del keywords["password"]
    with api.connect(**keywords) as conn:
        assert api.row(conn, WHO) == ("app",)


def test_the_password_file_of_the_home_folder_does_not_count(api: Api, postgres: Postgres) -> None:
    """~/.pgpass is not read: a password that nobody named signs nobody in."""
    passfile = Path(os.environ["HOME"], ".pgpass")
    passfile.write_text(f"*:*:*:*:{postgres.password}\n", encoding="utf-8")
    passfile.chmod(0o600)
    with pytest.raises(azpg.LoginError) as caught:
        api.open(**postgres.conninfo(password=""))
    assert caught.value.kind == "auth-method"


def test_a_callback_is_asked_once_for_each_connection(api: Api, postgres: Postgres) -> None:
    """A callback of the API's own kind is asked for every new connection, and only then."""
    asked = []

    def ask() -> str:
        asked.append(threading.get_ident())
        return postgres.password

    for number in (1, 2):
        with api.connect(**postgres.conninfo(password=api.callback(ask))) as conn:
            assert api.row(conn, WHO) == ("app",)
        assert len(asked) == number


def test_a_sync_callback_is_called_off_the_loop(postgres: Postgres) -> None:
    """In the async API a sync callback runs in a thread, so that the loop never waits."""
    asked = []

    def ask() -> str:
        asked.append(threading.get_ident())
        return postgres.password

    async def main() -> None:
        await (await azpg.connect_async(**postgres.conninfo(password=ask))).close()  # type: ignore[arg-type]  # one dict for all

    asyncio.run(main())
    assert len(asked) == 1
    assert asked[0] != threading.get_ident()


def test_an_object_with_an_async_call_is_a_callback(postgres: Postgres) -> None:
    """An object whose __call__ is async is awaited, on the loop."""

    class Vault:
        thread = 0

        async def __call__(self) -> str:
            self.thread = threading.get_ident()
            return postgres.password

    vault = Vault()

    async def main() -> None:
        await (await azpg.connect_async(**postgres.conninfo(password=vault))).close()  # type: ignore[arg-type]  # as above

    asyncio.run(main())
    assert vault.thread == threading.get_ident()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", "returned an empty text"),
        (None, "returned NoneType"),
        (b"x", "returned bytes"),
        ("p\udcff", "returned text with a NUL"),
        (KeyError("no such vault"), "raised KeyError: 'no such vault'"),
    ],
    ids=["empty", "none", "bytes", "surrogate", "raises"],
)
def test_a_callback_that_gives_no_password_is_told(
    api: Api, postgres: Postgres, given: object, said: str
) -> None:
    """What a callback did wrong is a CredentialError, and the server is not asked."""

    def ask() -> Any:
        if isinstance(given, Exception):
            raise given
        return given

    with pytest.raises(azpg.CredentialError, match=f"the password callback {said}") as caught:
        api.open(**postgres.conninfo(password=api.callback(ask)))
    assert caught.value.kind == "callback"
    assert "text that is not empty" in caught.value.hint


def test_a_wrong_password_is_a_login_error(api: Api, postgres: Postgres) -> None:
    """The server's refusal of a password is kept, and the hint names the role."""
    with pytest.raises(azpg.LoginError, match="password authentication failed") as caught:
        api.open(**postgres.conninfo(password="wrong"))
    assert caught.value.kind == "login"
    assert "user='app'" in caught.value.hint
