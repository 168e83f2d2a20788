"""What a credential that failed means."""

from __future__ import annotations

import pytest

from azpg._tokens.credential_errors import classify, timeout
from azpg._tokens.credentials import DefaultCredential, client_id_source

pytestmark = pytest.mark.compat


def test_a_credentials_words_are_kept() -> None:
    """What it said, its name, and what to do."""
    text, kind, hint, *_ = classify("AzureCliCredential", RuntimeError("no\x1b login"))
    assert text == "no token from AzureCliCredential: RuntimeError: no  login"
    assert (kind, hint) == (
        "credential",
        "AzureCliCredential could not sign in: its message above says why",
    )


def test_the_default_credential_is_told_az_login() -> None:
    """And the managed identity."""
    _, _, hint, *_ = classify("DefaultAzureCredential", RuntimeError())
    assert "az login" in hint
    assert "client_id=" in hint


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            (
                "HTTPSConnectionPool(host='login.microsoftonline.com', port=443): Max retries "
                "exceeded with url: /x (Caused by SSLError(SSLCertVerificationError(1, '[SSL: "
                "CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get local issuer "
                "certificate (_ssl.c:1010)')))"
            ),
            "REQUESTS_CA_BUNDLE",
        ),
        ("AADSTS7000222: The provided client secret keys are expired.", "AZURE_CLIENT_SECRET"),
        ("AADSTS7000215: Invalid client secret provided.", "AZURE_CLIENT_SECRET"),
        ("AADSTS700016: Application with identifier 'x' was not found", "AZURE_TENANT_ID"),
        ("AADSTS90002: Tenant 'x' not found.", "az login --tenant"),
        ("AADSTS500011: The resource principal named https://x was not found", "cloud="),
        ("AADSTS700213: No matching federated identity record found", "federated-credential"),
        ('invalid_request: {"error_description":"Identity not found"}', "client_id="),
        (
            (
                "HTTPSConnection(host='login.microsoftonline.com', port=443): Failed to resolve "
                "'login.microsoftonline.com'"
            ),
            "HTTPS_PROXY",
        ),
    ],
)
def test_a_credentials_words_are_known(said: str, told: str) -> None:
    """Where Microsoft Entra or the way there tells more than that it failed."""
    for name in ("ClientSecretCredential", "DefaultAzureCredential"):
        _, kind, hint, *_ = classify(name, RuntimeError(said))
        assert kind == "credential"
        assert told in hint


@pytest.mark.parametrize("source", ["AZURE_CLIENT_ID=an-id", 'client_id="an-id"'])
@pytest.mark.parametrize("message", ["Identity not found", "AADSTS700016: no such application"])
def test_an_identity_that_is_not_assigned_is_named_with_its_source(
    message: str, source: str
) -> None:
    """A forgotten AZURE_CLIENT_ID is what to unset."""
    hint = classify("DefaultAzureCredential", RuntimeError(message), client_id=source).hint
    assert hint.startswith(f"the identity was chosen by {source}: correct it or")


@pytest.mark.parametrize("client_id", [None, "own-id"])
def test_the_source_of_a_client_id_is_the_argument_or_the_variable(
    monkeypatch: pytest.MonkeyPatch, client_id: str | None
) -> None:
    """The argument wins over the variable."""
    monkeypatch.setenv("AZURE_CLIENT_ID", "its-id")
    found = client_id_source(DefaultCredential("https://login.example", client_id))
    assert found == ('⟦client_id="own-id"⟧' if client_id else "AZURE_CLIENT_ID=its-id")


def test_a_credential_that_says_nothing_is_told_by_its_error() -> None:
    """An empty message leaves the type."""
    assert classify("X", KeyError()).message.endswith("KeyError: KeyError")


def test_a_missing_package_is_told_as_such() -> None:
    """A credential of azure.identity.aio without aiohttp, say."""
    assert classify("X", ImportError("aiohttp")).hint.startswith("install what it names")


def test_the_hint_of_a_late_credential_raises_the_timeout() -> None:
    """A cold start may take longer than the default of 30 s."""
    assert "EntraPassword(timeout=" in timeout("X", 30.0).hint


def test_a_late_credential_is_told_by_its_time() -> None:
    """With the way to name one credential of the chain."""
    text, kind, hint, *_ = timeout("X", 1.5)
    assert (text, kind) == ("no token from X within 1.5 s", "credential-timeout")
    assert "AZURE_TOKEN_CREDENTIALS" in hint
