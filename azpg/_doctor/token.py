"""What decides who signs in with Microsoft Entra, and what is wrong with the token. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from azpg._clouds import CLOUDS
from azpg._redact import sanitized
from azpg._tokens import token

from .result import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from azpg._clouds import Cloud
    from azpg._jwt import Claims

    from .result import Fact

CLOCKS_APART = 60.0
"""Seconds that two clocks may differ before it is worth a word."""

SET_THE_CLOCK = "set this machine's clock (timedatectl)"

_OTHER_RESOURCE = "the credential gives tokens for one resource only: give another credential"

_SHOWN = (
    *("AZURE_TOKEN_CREDENTIALS", "AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_AUTHORITY_HOST"),
    *("AZURE_CLIENT_CERTIFICATE_PATH", "AZURE_FEDERATED_TOKEN_FILE", "AZURE_USERNAME"),
    *("IDENTITY_ENDPOINT", "MSI_ENDPOINT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NO_PROXY"),
    *("AZURE_POSTGRESQL_CLIENTID", "AZURE_POSTGRESQL_TENANTID"),
)
_MASKED = (
    *("AZURE_CLIENT_SECRET", "AZURE_PASSWORD", "HTTPS_PROXY", "ALL_PROXY"),
    "AZURE_POSTGRESQL_CLIENTSECRET",
)

_CLAIMS = {
    "aud": "audience",
    "tid": "tenant",
    "oid": "object_id",
    "appid": "application_id",
    "xms_mirid": "identity",
}


def variables(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the variables that decide which identity is asked, and how; no secret in them."""
    for name in (*_SHOWN, *_MASKED):
        if value := environ.get(name):
            yield f"{name}={value if name in _SHOWN else '…'}"


def facts(claims: Claims) -> dict[str, Fact]:
    """Return what of a token's claims a server goes by."""
    user = token.claimed_role(claims)
    shown = {word: sanitized(claims[name]) for name, word in _CLAIMS.items() if name in claims}
    return {"user": "the token names none" if user is None else sanitized(user), **shown}


def judged(claims: Claims, cloud: Cloud, now: float) -> Finding:
    """Return what is wrong with a token for a cloud; `now` is in seconds since 1970."""
    audience = sanitized(claims.get("aud", "")).rstrip("/")
    expected = cloud.scope.removesuffix("/.default")
    # Of an audience that is a GUID it cannot be told
    if audience.startswith("https://") and audience != expected:
        right = [other.name for other in CLOUDS if other.scope == f"{audience}/.default"]
        return Finding(
            status="failed",
            problem=f"the token is for {audience}, and the server takes those for {expected}",
            hint=f"name the cloud: cloud={right[0]!r}" if right else _OTHER_RESOURCE,
        )
    begins = claims.get("nbf", claims.get("iat"))
    if isinstance(begins, int) and begins > now + CLOCKS_APART:
        ahead = sanitized(begins - round(now))  # any number: too large for a float, perhaps
        return Finding(
            status="warning",
            problem=f"the token is valid only in {ahead} s: the clock here is behind",
            hint=SET_THE_CLOCK,
        )
    return Finding()
