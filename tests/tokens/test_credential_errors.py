"""What a credential that failed means."""

from __future__ import annotations

import pytest

from azpg._tokens.credential_errors import classify, timeout

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


def test_a_credential_that_says_nothing_is_told_by_its_error() -> None:
    """An empty message leaves the type."""
    assert classify("X", KeyError()).message.endswith("KeyError: KeyError")


def test_a_missing_package_is_told_as_such() -> None:
    """A credential of azure.identity.aio without aiohttp, say."""
    assert classify("X", ImportError("aiohttp")).hint.startswith("install what it names")


def test_a_late_credential_is_told_by_its_time() -> None:
    """With the way to name one credential of the chain."""
    text, kind, hint, *_ = timeout("X", 1.5)
    assert (text, kind) == ("no token from X within 1.5 s", "credential-timeout")
    assert "AZURE_TOKEN_CREDENTIALS" in hint
