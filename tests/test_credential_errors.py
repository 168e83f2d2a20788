"""Classify the errors of credentials."""

from __future__ import annotations

import pytest

from azpg._tokens.credential_errors import credential, credential_late


def test_the_message_of_a_credential_is_kept() -> None:
    """The error has it, redacted, with the credential's name; the hint refers to it."""
    text, kind, hint = credential("AzureCliCredential", RuntimeError("no\x1b login"))
    assert text == "no token from AzureCliCredential: RuntimeError: no  login"
    assert (kind, hint) == (
        "credential",
        "AzureCliCredential could not sign in: its own words above say why",
    )


def test_the_hint_for_the_default_credential_is_az_login() -> None:
    """Or a managed identity, which client_id= chooses."""
    _, _, hint = credential("DefaultAzureCredential", RuntimeError())
    assert "az login" in hint
    assert "client_id=" in hint


@pytest.mark.parametrize(
    ("message", "hint_part"),
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
def test_a_known_message_has_its_own_hint(message: str, hint_part: str) -> None:
    """A message of Microsoft Entra or of the network can say more than that it failed."""
    for name in ("ClientSecretCredential", "DefaultAzureCredential"):
        _, kind, hint = credential(name, RuntimeError(message))
        assert kind == "credential"
        assert hint_part in hint


def test_an_error_without_a_message_is_named_by_its_type() -> None:
    """Such as an empty KeyError."""
    assert credential("X", KeyError())[0].endswith("KeyError: KeyError")


def test_the_hint_for_a_missing_package_is_to_install_it() -> None:
    """Such as aiohttp, which the credentials of azure.identity.aio need."""
    assert credential("X", ImportError("aiohttp"))[2].startswith("install what it names")


def test_a_timeout_of_a_credential_has_its_seconds() -> None:
    """The hint is to choose one credential of the chain."""
    text, kind, hint = credential_late("X", 1.5)
    assert (text, kind) == ("no token from X within 1.5 s", "credential-timeout")
    assert "AZURE_TOKEN_CREDENTIALS" in hint
