"""Check a Microsoft Entra token: its user, its audience, and this machine's clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from azpg._clouds import CLOUDS
from azpg._redact import sanitized
from azpg._tokens import token

from .result import CheckResult

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from azpg._clouds import Cloud
    from azpg._jwt import Claims

    from .result import Detail

MAX_CLOCK_SKEW_SECONDS = 60.0
"""The difference of two clocks that is not worth a warning."""

CLOCK_HINT = "set this machine's clock (timedatectl)"

_WRONG_RESOURCE_HINT = "the credential gives tokens for one resource only: give another credential"

_SHOWN_VARIABLES = (
    *("AZURE_TOKEN_CREDENTIALS", "AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_AUTHORITY_HOST"),
    *("AZURE_CLIENT_CERTIFICATE_PATH", "AZURE_FEDERATED_TOKEN_FILE", "AZURE_USERNAME"),
    *("IDENTITY_ENDPOINT", "MSI_ENDPOINT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NO_PROXY"),
    *("AZURE_POSTGRESQL_CLIENTID", "AZURE_POSTGRESQL_TENANTID"),
)
_MASKED_VARIABLES = (
    *("AZURE_CLIENT_SECRET", "AZURE_PASSWORD", "HTTPS_PROXY", "ALL_PROXY"),
    "AZURE_POSTGRESQL_CLIENTSECRET",
)

_CLAIM_LABELS = {
    "aud": "audience",
    "tid": "tenant",
    "oid": "object_id",
    "appid": "application_id",
    "xms_mirid": "identity",
}


def credential_variables(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the variables that choose and configure the identity, with secrets masked."""
    for name in (*_SHOWN_VARIABLES, *_MASKED_VARIABLES):
        if value := environ.get(name):
            yield f"{name}={value if name in _SHOWN_VARIABLES else '…'}"


def token_details(claims: Claims) -> dict[str, Detail]:
    """Return the claims of a token that a server uses."""
    user = token.claimed_role(claims)
    details: dict[str, Detail] = {"user": "not in the token" if user is None else sanitized(user)}
    for claim, label in _CLAIM_LABELS.items():
        if claim in claims:
            details[label] = sanitized(claims[claim])
    return details


def check_token(claims: Claims, cloud: Cloud, now: float) -> CheckResult:
    """Check a token's audience and start of validity; `now` is in seconds since 1970."""
    audience = sanitized(claims.get("aud", "")).rstrip("/")
    expected = cloud.scope.removesuffix("/.default")
    # An audience can also be a GUID, which does not show the resource
    if audience.startswith("https://") and audience != expected:
        clouds = [other.name for other in CLOUDS if other.scope == f"{audience}/.default"]
        return CheckResult(
            status="failed",
            problem=f"the token is for {audience}, and the server accepts those for {expected}",
            hint=f"name the cloud: ⟦cloud={clouds[0]!r}⟧" if clouds else _WRONG_RESOURCE_HINT,
        )
    valid_from = claims.get("nbf", claims.get("iat"))
    if isinstance(valid_from, int) and valid_from > now + MAX_CLOCK_SKEW_SECONDS:
        seconds = sanitized(valid_from - round(now))  # the number may be too large for a float
        return CheckResult(
            status="warning",
            problem=f"the token is valid only in {seconds} s: the clock here is behind",
            hint=CLOCK_HINT,
        )
    return CheckResult()
