"""Words fit to print, and what a credential or callback that failed means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import azpg
from azpg import _diagnose

# Words fit to print


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("  plain\ntext \n", "plain\ntext"),
        ("a\x1b[31mred\x07", "a [31mred"),
        ("a\rb\x00c\x7fd\x9be", "a b c d e"),
        ("a\u202eb\u2066c", "a b c"),
        ("Grüße", "Grüße"),
        ("", ""),
    ],
)
def test_control_characters_are_blanked(text: str, shown: str) -> None:
    """A server's text is not trusted with the terminal."""
    assert _diagnose.shown(text) == shown


def test_a_secret_thrown_back_is_cut_out() -> None:
    """The longest first, so that of one inside another nothing is left; nothing for none."""
    assert _diagnose.shown("x abcd y abc", "abc", None, "", "abcd") == "x … y …"


@given(
    text=st.text(),
    secret=st.text(min_size=1).filter(lambda s: s.isprintable() and not set(s) & set(" …")),
)
def test_no_control_character_and_no_secret_is_shown(text: str, secret: str) -> None:
    """Whatever the server says."""
    shown = _diagnose.shown(f"{text}{secret}{text}", secret)
    assert all(c.isprintable() or c == "\n" for c in shown)
    assert secret not in shown


# Credentials and callbacks


def test_a_credentials_words_are_kept() -> None:
    """What it said, its name, and what to do."""
    text, kind, hint = _diagnose.credential("AzureCliCredential", RuntimeError("no\x1b login"))
    assert text == "no token from AzureCliCredential: RuntimeError: no  login"
    assert (kind, hint) == (
        "credential",
        "AzureCliCredential could not sign in: its own words above say why",
    )


def test_the_default_credential_is_told_az_login() -> None:
    """And the managed identity."""
    _, _, hint = _diagnose.credential("DefaultAzureCredential", RuntimeError())
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
        _, kind, hint = _diagnose.credential(name, RuntimeError(said))
        assert kind == "credential"
        assert told in hint


def test_a_credential_that_says_nothing_is_told_by_its_error() -> None:
    """An empty message leaves the type."""
    assert _diagnose.credential("X", KeyError())[0].endswith("KeyError: KeyError")


def test_a_missing_package_is_told_as_such() -> None:
    """A credential of azure.identity.aio without aiohttp, say."""
    assert _diagnose.credential("X", ImportError("aiohttp"))[2].startswith("install what it names")


def test_a_late_credential_is_told_by_its_time() -> None:
    """With the way to name one credential of the chain."""
    text, kind, hint = _diagnose.credential_late("X", 1.5)
    assert (text, kind) == ("no token from X within 1.5 s", "credential-timeout")
    assert "AZURE_TOKEN_CREDENTIALS" in hint


def test_a_callbacks_failure_is_a_credential_error() -> None:
    """It raised, or gave no password."""
    raised = _diagnose.callback(RuntimeError("no vault"))
    assert isinstance(raised, azpg.CredentialError)
    assert str(raised).startswith("the password callback raised RuntimeError: no vault")
    assert str(_diagnose.callback(None, "int")).startswith("the password callback returned int")
    assert raised.kind == "callback"
