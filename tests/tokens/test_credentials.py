"""Credentials: each kind that azure-identity has signs in for real, and its secrets stay unseen."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from azure import identity
from azure.identity import (
    ClientSecretCredential,
    DefaultAzureCredential,
    ManagedIdentityCredential,
    OnBehalfOfCredential,
    WorkloadIdentityCredential,
)

import azpg
from azpg._tokens.cache import TOKEN_CACHE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fix_api import Api
    from fix_authority import Authority
    from fix_credentials import Credentials
    from fix_leaks import Leaks

    from azpg.emulator import Emulator, Principal

pytestmark = pytest.mark.compat

WHO = "select current_user"
TENANT = "11111111-2222-4333-8444-555555555555"
SECRET = "cl1ent~s3cret.of-the-app"
ASSERTION = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJwb2QifQ.the-pods-own-signature"
PUBLIC = ("login.microsoftonline.com", azpg.AZURE_PUBLIC.scope)


@pytest.fixture(scope="module")
def deployer(emulator: Emulator) -> Principal:
    """Return a service principal with its role."""
    return emulator.add_role("credentials-deployer", kind="service-principal")


@pytest.fixture(scope="module")
def identities(emulator: Emulator) -> list[Principal]:
    """Return several user-assigned identities with their roles."""
    return [emulator.add_role(f"identity-{n}", kind="user-assigned") for n in range(4)]


@pytest.fixture(params=["azure", "azure_vm"], ids=["App Service", "IMDS"])
def machine(request: pytest.FixtureRequest) -> Emulator:
    """Export the managed identity endpoint in one of its two forms."""
    emulator: Emulator = request.getfixturevalue(request.param)
    return emulator


@pytest.fixture
def federated(tmp_path: Path) -> str:
    """Return the file with what Kubernetes says of a pod."""
    path = tmp_path / "federated-token"
    path.write_text(ASSERTION, encoding="utf-8")
    return str(path)


# Managed identities


def test_a_managed_identity_asks_once(
    api: Api, machine: Emulator, credentials: Credentials
) -> None:
    """Both forms of the endpoint sign in; one request serves every connection."""
    credential = credentials.managed_identity()
    before = machine.counts
    for _ in range(3):
        with api.connect(credential=credential) as conn:
            assert api.row(conn, WHO) == ("myapp",)
    assert (machine.counts - before).token_requests == 1


def test_identities_of_one_process_never_mix(
    api: Api, machine: Emulator, credentials: Credentials
) -> None:
    """Several user-assigned identities at once: each signs in as itself, and asks once."""
    identities = [
        machine.add_role(f"one-of-many-{uuid4()}", kind="user-assigned") for _ in range(4)
    ]
    made = {each.name: credentials.managed_identity(each.client_id) for each in identities}
    before = machine.counts

    def user(name: str) -> str:
        with api.connect(credential=made[name]) as conn:
            return str(api.row(conn, WHO)[0])

    names = [*made] * 4
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(user, names)) == names
    assert (machine.counts - before).token_requests == len(made)


def test_a_default_credential_is_made_once_for_each_identity(
    api: Api, azure: Emulator, identities: list[Principal], monkeypatch: pytest.MonkeyPatch
) -> None:
    """client_id chooses among identities; of each one default credential is made, once."""
    made: list[object] = []

    class Counted(DefaultAzureCredential):
        def __init__(self, **options: Any) -> None:
            made.append(options.get("managed_identity_client_id"))
            super().__init__(**options)

    monkeypatch.setattr(identity, "DefaultAzureCredential", Counted)
    wanted = [None, *(each.client_id for each in identities[:2])]
    names = ["myapp", *(each.name for each in identities[:2])]

    def user(client_id: str | None) -> str:
        with api.connect(client_id=client_id) as conn:
            return str(api.row(conn, WHO)[0])

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(user, wanted * 3)) == names * 3
    assert sorted(map(str, made)) == sorted(map(str, wanted))


def test_each_cloud_has_a_default_credential_of_its_own(
    api: Api, azure: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clouds with another authority share no default credential; it is made on first need."""
    made: list[object] = []

    class Counted(DefaultAzureCredential):
        def __init__(self, **options: Any) -> None:
            made.append(options["authority"])
            super().__init__(**options)

    monkeypatch.setattr(identity, "DefaultAzureCredential", Counted)
    passwords = [azpg.EntraPassword(cloud=cloud) for cloud in ("usgov", "china", "usgov")]
    assert made == []
    for password in passwords:
        api.run(password.call_async()) if api.kind == "async" else password()
    assert made == [azpg.AZURE_US_GOV.authority, azpg.AZURE_CHINA.authority]


# Service principals, at an authority


def secret(_federated: str, client_id: str) -> Any:
    """Make the credential of an application with a secret."""
    return ClientSecretCredential(TENANT, client_id, SECRET)


def workload(federated: str, client_id: str) -> Any:
    """Make the credential of a pod."""
    return WorkloadIdentityCredential(
        tenant_id=TENANT, client_id=client_id, token_file_path=federated
    )


def on_behalf_of(_federated: str, client_id: str) -> Any:
    """Make the credential of an application that acts for a user."""
    return OnBehalfOfCredential(TENANT, client_id, client_secret=SECRET, user_assertion=ASSERTION)


@pytest.mark.parametrize("make", [secret, workload, on_behalf_of])
def test_an_application_signs_in(
    api: Api,
    azure: Emulator,
    authority: Authority,
    deployer: Principal,
    federated: str,
    make: Callable[[str, str], Any],
) -> None:
    """Secret, federated token and on-behalf-of: one request, for PostgreSQL's scope alone."""
    authority.give = lambda _form: azure.token(deployer)
    with make(federated, str(deployer.client_id)) as credential:
        for _ in range(3):
            with api.connect(user=deployer.name, credential=credential) as conn:
                assert api.row(conn, WHO) == (deployer.name,)
    assert authority.asked() == [PUBLIC]
    assert authority.forms[0]["client_id"] == deployer.client_id


@pytest.mark.parametrize("member", ["EnvironmentCredential", "WorkloadIdentityCredential"])
def test_the_default_credential_reads_the_variables(
    api: Api,
    azure: Emulator,
    authority: Authority,
    deployer: Principal,
    federated: str,
    member: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """AZURE_* variables sign in without a line of code, and one INFO line says which member did."""
    authority.give = lambda _form: azure.token(deployer)
    monkeypatch.setenv("AZURE_TENANT_ID", TENANT)
    monkeypatch.setenv("AZURE_CLIENT_ID", str(deployer.client_id))
    if member == "EnvironmentCredential":
        monkeypatch.setenv("AZURE_CLIENT_SECRET", SECRET)
    else:
        monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", federated)
    caplog.set_level("INFO", logger="azpg")
    for _ in range(3):
        with api.connect(user=deployer.name) as conn:
            assert api.row(conn, WHO) == (deployer.name,)
    assert authority.asked() == [PUBLIC]
    said = [text for text in caplog.messages if text.startswith("token from")]
    assert len(said) == 1
    assert said[0].startswith(f"token from DefaultAzureCredential ({member}), good for 3")


def test_the_callers_authority_is_kept(
    api: Api, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AZURE_AUTHORITY_HOST, as Kubernetes sets it, wins over the cloud's own authority."""
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", "https://login.microsoftonline.us/")
    monkeypatch.setenv("AZURE_TENANT_ID", TENANT)
    monkeypatch.setenv("AZURE_CLIENT_ID", "the-app")
    monkeypatch.setenv("AZURE_CLIENT_SECRET", SECRET)
    with api.connect() as conn:
        assert api.row(conn, WHO) == ("myapp",)
    assert authority.asked() == [("login.microsoftonline.us", azpg.AZURE_PUBLIC.scope)]


@pytest.mark.parametrize("make", [secret, workload, on_behalf_of])
@pytest.mark.parametrize("refused", [False, True], ids=["success", "refusal"])
def test_no_secret_of_an_application_is_seen(
    api: Api,
    azure: Emulator,
    authority: Authority,
    federated: str,
    leaks: Leaks,
    make: Callable[[str, str], Any],
    refused: bool,
) -> None:
    """Client secret, assertions and token are in no log at DEBUG, no repr and no error."""
    token = azure.token()

    def give(_form: dict[str, str]) -> str:
        if refused:
            raise authority.refusal("invalid_client", "AADSTS7000215: Invalid client secret.")
        return token

    authority.give = give
    with make(federated, "the-app") as credential:
        password = azpg.EntraPassword(credential)
        if refused:
            with pytest.raises(azpg.CredentialError, match="AADSTS7000215") as caught:
                api.open(credential=credential)
            error: BaseException = caught.value
        else:
            api.run(api.open(credential=credential).close())
            error = Exception(repr(password), repr(vars(password)))
    sent = {text for form in authority.forms for text in form.values() if len(text) > 200}
    for each in {SECRET, ASSERTION, token} | sent:
        leaks.none_shown(error, each)


# Objects of one's own


@pytest.mark.parametrize("shape", ["get_token", "get_token_info"])
@pytest.mark.parametrize("factory", [False, True], ids=["ready-made", "factory"])
def test_an_object_of_ones_own_signs_in(
    api: Api, azure: Emulator, credentials: Credentials, shape: str, factory: bool
) -> None:
    """One method is enough, in either API; a factory is called once."""
    made: list[Any] = []

    def make() -> Any:
        made.append(getattr(credentials, f"with_{shape}")(azure.token))
        return made[-1]

    credential = make if factory else make()
    for _ in range(2):
        with api.connect(credential=credential) as conn:
            assert api.row(conn, WHO) == ("myapp",)
    assert len(made) == made[0].calls == 1


def test_a_class_makes_its_credential(api: Api, azure: Emulator) -> None:
    """A credential's class, handed over as it is, is called once for the credential."""
    before = azure.counts
    for _ in range(2):
        with api.connect(credential=ManagedIdentityCredential) as conn:
            assert api.row(conn, WHO) == ("myapp",)
    assert (azure.counts - before).token_requests == 1


def test_short_lived_credentials_of_users_leave_nothing(
    credentials: Credentials,
) -> None:
    """Ten thousand on-behalf-of credentials: each its user's own token, and nothing grows."""

    class OnBehalfOf(type(credentials.with_get_token())):  # type: ignore[misc]  # a fixture's class
        def __init__(self, assertion: str) -> None:
            super().__init__(lambda: f"token-for-{assertion}")

    def serve(user: int) -> None:
        password = azpg.EntraPassword(OnBehalfOf(f"user-{user}"))
        assert password() == password() == f"token-for-user-{user}"

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(serve, range(1000)))
        gc.collect()
        before = len(gc.get_objects())
        list(threads.map(serve, range(1000, 10_000)))
        gc.collect()
        grown = len(gc.get_objects()) - before
    assert TOKEN_CACHE.entries() == []
    assert grown < 200
