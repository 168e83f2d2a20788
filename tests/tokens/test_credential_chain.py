"""Credentials that ask others: chains, the default one, the Azure CLI, and a person."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from azure.identity import (
    AuthenticationRequiredError,
    AzureCliCredential,
    ChainedTokenCredential,
    EnvironmentCredential,
    OnBehalfOfCredential,
)

import azpg
from azpg._tokens import credential_errors

if TYPE_CHECKING:
    from fix_api import Api
    from fix_authority import Authority, Cli
    from fix_credentials import Credentials

    from azpg.emulator import Emulator

pytestmark = pytest.mark.compat

WHO = "select current_user"
TENANT = "11111111-2222-4333-8444-555555555555"

# The Azure CLI


def test_az_starts_once_for_many_connections(api: Api, az: Cli) -> None:
    """Twenty connections at once start `az` once, though azure-identity keeps no token of it."""
    credential = AzureCliCredential()

    def user(_number: int) -> str:
        with api.connect(credential=credential) as conn:
            return str(api.row(conn, WHO)[0])

    with ThreadPoolExecutor(20) as threads:
        assert list(threads.map(user, range(20))) == ["myapp"] * 20
    assert len(az.starts) == 1
    assert az.starts[0].startswith("account get-access-token --output json --resource ")


def test_the_default_credential_finds_az(
    api: Api, az: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a developer's machine the default credential signs in by `az`, with one start."""
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "dev")
    for _ in range(3):
        with api.connect() as conn:
            assert api.row(conn, WHO) == ("myapp",)
    assert len(az.starts) == 1


def test_az_that_is_not_signed_in_is_quoted(api: Api, az: Cli) -> None:
    """What `az` says on its way out is in the error."""
    az.refuse("ERROR: Please run 'az login' to setup account.")
    with pytest.raises(azpg.CredentialError, match="az login") as caught:
        api.open(credential=AzureCliCredential())
    assert caught.value.kind == "credential"


# Chains


def test_a_chain_is_named_with_its_member(
    api: Api, az: Cli, caplog: pytest.LogCaptureFixture
) -> None:
    """The first of a chain that answers signs in, and the one INFO line names it."""
    caplog.set_level("INFO", logger="azpg")
    chain = ChainedTokenCredential(EnvironmentCredential(), AzureCliCredential())
    for _ in range(2):
        with api.connect(credential=chain) as conn:
            assert api.row(conn, WHO) == ("myapp",)
    said = [text for text in caplog.messages if text.startswith("token from")]
    assert len(said) == 1
    assert said[0].startswith("token from ChainedTokenCredential (AzureCliCredential), good for 3")


def test_a_chain_that_fails_tells_all_its_words(
    api: Api, az: Cli, credentials: Credentials, azure: Emulator
) -> None:
    """Where none of a chain answers, the error holds what each of them said."""
    az.refuse("ERROR: Please run 'az login' to setup account.")
    chain = ChainedTokenCredential(
        EnvironmentCredential(), credentials.managed_identity(), AzureCliCredential()
    )
    with azure.fault(identity=400), pytest.raises(azpg.CredentialError) as caught:
        api.open(credential=chain)
    for word in ("EnvironmentCredential", "ManagedIdentityCredential", "AzureCliCredential"):
        assert word in str(caught.value)
    assert str(caught.value).startswith("no token from ChainedTokenCredential: ")


# A person


@pytest.mark.parametrize(
    ("error", "description"),
    [
        ("interaction_required", "AADSTS50076: you must use multi-factor authentication."),
        ("invalid_grant", "AADSTS700082: The refresh token has expired due to inactivity."),
        ("invalid_grant", "AADSTS65001: The user has not consented to use the application."),
        ("interaction_required", "AADSTS53003: Access has been blocked by Conditional Access."),
    ],
    ids=["second factor", "expired", "consent", "conditional access"],
)
def test_who_must_sign_in_again_is_told_so(
    api: Api, authority: Authority, error: str, description: str
) -> None:
    """Where Microsoft Entra wants the person, the error says so at once, and is not retried."""

    def refuse(_form: dict[str, str]) -> str:
        raise authority.refusal(error, description)

    authority.give = refuse
    with (
        OnBehalfOfCredential(
            TENANT, "the-app", client_secret="secret", user_assertion="user"
        ) as credential,
        pytest.raises(azpg.CredentialError) as caught,
    ):
        api.open(credential=credential)
    assert caught.value.kind == "interaction-required"
    assert not caught.value.transient
    assert description in str(caught.value)
    assert "sign in again" in caught.value.hint
    assert len(authority.forms) == 1


def test_az_that_wants_the_person_says_so(api: Api, az: Cli) -> None:
    """Also by way of `az`."""
    az.refuse("ERROR: AADSTS700082: The refresh token has expired due to inactivity.")
    with pytest.raises(azpg.CredentialError, match="AADSTS700082") as caught:
        api.open(credential=AzureCliCredential())
    assert caught.value.kind == "interaction-required"
    assert "`az login`" in caught.value.hint


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (AuthenticationRequiredError(["scope"]), "interaction-required"),
        (ValueError("AADSTS50173: a fresh auth token is needed"), "interaction-required"),
        (ValueError("invalid_grant: AADSTS70043: sign-in frequency"), "interaction-required"),
        (ValueError("AADSTS7000215: Invalid client secret"), "credential"),
        (ValueError("AADSTS700016: Application not found"), "credential"),
        (ValueError("AADSTS7000823: no such code"), "credential"),
    ],
    ids=["required", "fresh", "frequency", "secret", "application", "longer"],
)
def test_what_only_a_person_can_mend_is_told_apart(error: Any, kind: str) -> None:
    """azure-identity's own error and Entra's codes say whether signing in again helps."""
    assert credential_errors.classify("Some", error).kind == kind
