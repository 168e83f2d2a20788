"""What an azure-identity credential's failure means: kind and hint. Pure."""

from __future__ import annotations

import re

from azpg._redact import redact

# What only a person can mend: a second factor, a password or session that has run out, a consent.
# The codes are listed at learn.microsoft.com/entra/identity-platform/reference-error-codes
SIGN_IN_AGAIN = (
    r"interaction_required|consent_required|login_required|"
    r"AADSTS(16000|50055|50058|5007[2469]|50078|50133|50144|50158|50173|53003|65001|65004|700082|"
    r"70008|70043|700084)\b"
)


CREDENTIALS = {
    r"CERTIFICATE_VERIFY_FAILED|certificate verify failed": (
        "a proxy opens the TLS to Microsoft Entra: set REQUESTS_CA_BUNDLE to a PEM file that has "
        "the proxy's root too (az reads it as well; azure.identity.aio reads SSL_CERT_FILE)"
    ),
    r"AADSTS(7000215|7000222)\b": (
        "the client secret is wrong or has expired: make a new one, az ad app credential reset "
        "--id <client id>, and set AZURE_CLIENT_SECRET"
    ),
    r"AADSTS(700016|90002|50020)\b": (
        "that tenant does not know it: check AZURE_TENANT_ID and AZURE_CLIENT_ID, or sign in with "
        "az login --tenant <the server's tenant>"
    ),
    r"AADSTS(500011|650057)\b": (
        "the tenant does not know the database's resource: check cloud= and the tenant; where both "
        "are right, an administrator adds it, az ad sp create --id "
        "123cd850-d9df-40bd-94d5-c9f07b7fa203"
    ),
    r"AADSTS(70021|700211|700213)\b": (
        "no federated credential of the identity has this token's issuer and subject: compare az "
        "identity federated-credential list with the service account"
    ),
    r"Identity not found|No User Assigned": (
        "no such managed identity is assigned here: assign it (portal: Identity), and name it by "
        'its client id, client_id="…"'
    ),
    (
        r"Failed to resolve|NameResolutionError|Max retries exceeded|ProxyError|"
        r"Failed to establish a new connection"
    ): (
        "Microsoft Entra is not reached from here: check HTTPS_PROXY, the firewall to "
        "login.microsoftonline.com, and NO_PROXY=169.254.169.254 for a managed identity"
    ),
}
"""Patterns of a credential's own text, and what to type."""


def credential(name: str, error: BaseException) -> tuple[str, str, str]:
    """Return text, kind and hint for a credential that raised."""
    said = redact(str(error)) or type(error).__name__
    kind = "credential"
    person = type(error).__name__ == "AuthenticationRequiredError"
    if person or re.search(SIGN_IN_AGAIN, said, re.IGNORECASE):
        kind = "interaction-required"
        hint = (
            "sign in again as the person you are (`az login` on your own machine): no program can "
            "do it for you"
        )
    elif said == "Event loop is closed":
        hint = (
            "an async credential belongs to the event loop it was first used on, and that one has "
            "ended: pass a function that makes the credential, or azure.identity's sync one"
        )
    elif known := [
        hint for pattern, hint in CREDENTIALS.items() if re.search(pattern, said, re.IGNORECASE)
    ]:
        hint = known[0]
    elif isinstance(error, ImportError):
        hint = "install what it names, or pass a credential of azure.identity, which needs no more"
    elif name == "DefaultAzureCredential":
        hint = (
            "run `az login` on your own machine; on Azure give the application a managed identity, "
            'and client_id="…" where it has several'
        )
    else:
        hint = f"{name} could not sign in: its own words above say why"
    return f"no token from {name}: {type(error).__name__}: {said}", kind, hint


def credential_late(name: str, timeout: float) -> tuple[str, str, str]:
    """Return text, kind and hint for a credential that took too long."""
    return (
        f"no token from {name} within {timeout:g} s",
        "credential-timeout",
        (
            "check that its endpoint is reached from here, or name one credential instead of a "
            "chain (AZURE_TOKEN_CREDENTIALS=ManagedIdentityCredential)"
        ),
    )
