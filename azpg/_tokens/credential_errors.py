"""What the failure of an azure-identity credential means: kind and hint. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

from azpg._redact import redact
from azpg.errors import CredentialError

# What only the user can fix: a second factor, an expired password or session, a consent.
# Source: learn.microsoft.com/entra/identity-platform/reference-error-codes (copy of 07/2026)
INTERACTION_REQUIRED = (
    r"interaction_required|consent_required|login_required|"
    r"AADSTS(16000|50055|50058|5007[2469]|50078|50133|50144|50158|50173|53003|65001|65004|700082|"
    r"70008|70043|700084)\b"
)

CERTIFICATE_INVALID = "CERTIFICATE_VERIFY_FAILED|certificate verify failed"

_UNKNOWN_IDENTITY_HINT = (
    "it does not exist in that tenant: check AZURE_TENANT_ID and AZURE_CLIENT_ID, or run "
    "az login --tenant <the server's tenant>"
)
_UNASSIGNED_HINT = (
    "this managed identity is not assigned to this host: assign it (portal: Identity), and pass "
    'its client id, ⟦client_id="…"⟧'
)

HINTS = {
    CERTIFICATE_INVALID: (
        "a TLS-inspecting proxy is between you and Microsoft Entra: set REQUESTS_CA_BUNDLE to a "
        "PEM file that has the proxy's root too (az reads it as well; azure.identity.aio reads "
        "SSL_CERT_FILE)"
    ),
    r"AADSTS(7000215|7000222)\b": (
        "the client secret is wrong or has expired: create a new one, az ad app credential reset "
        "--id <client id>, and set AZURE_CLIENT_SECRET"
    ),
    r"AADSTS(700016|90002|50020)\b": _UNKNOWN_IDENTITY_HINT,
    r"AADSTS(500011|650057)\b": (
        "the database's resource does not exist in the tenant: check ⟦cloud=⟧ and the tenant; if "
        "both are right, add it as an administrator, az ad sp create --id "
        "123cd850-d9df-40bd-94d5-c9f07b7fa203"
    ),
    r"AADSTS(70021|700211|700213)\b": (
        "no federated credential of the identity has this token's issuer and subject: compare az "
        "identity federated-credential list with the service account"
    ),
    r"Identity not found|No User Assigned": _UNASSIGNED_HINT,
    (
        r"Failed to resolve|NameResolutionError|Max retries exceeded|ProxyError|"
        r"Failed to establish a new connection"
    ): (
        "Microsoft Entra cannot be reached: check HTTPS_PROXY, the firewall to "
        "login.microsoftonline.com, and NO_PROXY=169.254.169.254 for a managed identity"
    ),
}
"""Patterns of a credential's message, and what to type."""


TEMPORARILY_UNAVAILABLE = r"temporarily_unavailable|AADSTS90033\b|HTTP Error: 5\d\d\b"
"""Messages of Microsoft Entra that say so themselves, and MSAL's for a status of 5xx."""

UNREACHABLE = r"Failed to establish a new connection|Connection aborted|Read timed out"
"""What a chain quotes of a member that had no answer: it hands on no cause."""

NO_ANSWER = {"ServiceRequestError", "ServiceResponseError", "ConnectionError", "TimeoutError"}
"""Names of azure-core's errors for an endpoint that did not answer, and Python's own."""


class HttpResponse(NamedTuple):
    """The last HTTP response to a token request."""

    status: int
    retry_after: float | None = None
    """seconds, from the header"""
    from_imds: bool = False
    """from the identity endpoint of a virtual machine"""


class TokenFailure(NamedTuple):
    """Why a token request failed. Every caller that waits for it raises its own exception."""

    message: str
    kind: str
    hint: str
    transient: bool = False
    retry_after: float | None = None
    """seconds that the endpoint asked to wait"""
    retry_at: float | None = None
    """when the next request may be sent, on the monotonic clock"""
    loop_closed: bool = False
    """the event loop of an async credential ended: callers on other loops ask again"""
    is_repeatable: bool = True
    """the next callers would fail in the same way, so they are told without a request"""
    cause: BaseException | None = None
    """the error of a credential of the caller's own; azure-identity's is only quoted, since its
    response may hold a secret"""

    def error(self) -> CredentialError:
        """Return it as a new exception."""
        error = CredentialError(
            self.message, kind=self.kind, hint=self.hint, transient=self.transient
        )
        error._retry_at = self.retry_at  # noqa: SLF001  # for connect() alone
        error.__cause__ = self.cause
        return error


def classify(
    name: str,
    error: BaseException,
    response: HttpResponse | None = None,
    *,
    expects_endpoint: bool = False,
    environment_hint: str = "",
    client_id: str = "",
) -> TokenFailure:
    """Return the failure of a credential that raised.

    Args:
        name: The credential.
        error: What it raised.
        response: The last HTTP response to the request, if azpg saw one.
        expects_endpoint: Whether azpg sees every response, and an endpoint should have answered.
        environment_hint: The hint for a default credential that fails in this environment.
        client_id: The client id that a default credential asked for, with its option or variable.
    """
    message = redact(str(error)) or type(error).__name__
    kind = "credential"
    by_class = type(error).__name__ == "AuthenticationRequiredError"
    if by_class or re.search(INTERACTION_REQUIRED, message, re.IGNORECASE):
        kind = "interaction-required"
        hint = (
            "sign in again as the person you are (`az login` on your own machine): no program can "
            "do it for you"
        )
    elif message == "Event loop is closed":
        hint = (
            "an async credential belongs to the event loop it was first used on, and that one has "
            "ended: pass a function that makes the credential, or azure.identity's sync one"
        )
    elif known := [
        hint for pattern, hint in HINTS.items() if re.search(pattern, message, re.IGNORECASE)
    ]:
        hint = known[0]
        if client_id and hint in (_UNASSIGNED_HINT, _UNKNOWN_IDENTITY_HINT):
            remedy = "unset it" if client_id.startswith("AZURE_CLIENT_ID=") else "leave it out"
            hint = f"the identity was chosen by {client_id}: correct it or {remedy}. Or {hint}"
    elif isinstance(error, ImportError):
        hint = "install what it names, or pass a credential of azure.identity, which needs no more"
    elif name == "DefaultAzureCredential":
        hint = environment_hint or (
            "run `az login` on your own machine; on Azure give the application a managed identity, "
            'and ⟦client_id="…"⟧ where it has several'
        )
    else:
        hint = f"{name} could not sign in: its message above says why"
    transient = kind != "interaction-required" and _is_transient(
        error, message, response, expects_endpoint=expects_endpoint
    )
    return TokenFailure(
        f"no token from {name}: {type(error).__name__}: {message}",
        kind,
        hint,
        transient=transient,
        retry_after=None if response is None else response.retry_after,
        is_repeatable=message != "Event loop is closed",
    )


def _is_transient(
    error: BaseException, message: str, response: HttpResponse | None, *, expects_endpoint: bool
) -> bool:
    """Return whether a later request may succeed without any change.

    azure-identity's exceptions have the same class, and often the same message, whether an endpoint
    is overloaded or rejects the request. So the status of the response counts, if there was one.
    """
    if re.search(TEMPORARILY_UNAVAILABLE, message, re.IGNORECASE):
        return True
    if response is not None and response.status >= 400:
        starting = response.from_imds and response.status in {404, 410}
        return response.status in {408, 429} or response.status >= 500 or starting
    if re.search(CERTIFICATE_INVALID, message):
        return False
    names = {kind.__name__ for each in _causes(error) for kind in type(each).__mro__}
    if names & NO_ANSWER or re.search(UNREACHABLE, message):
        return True
    # The errors of a chain are the same on a laptop, which has no identity endpoint, and on a
    # virtual machine whose endpoint is down.
    return expects_endpoint and response is None and "AzureError" in names


def _causes(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in found:
        found.append(cause)
        cause = cause.__cause__ or cause.__context__
    return found


def from_function(name: str, problem: str, resource: str) -> TokenFailure:
    """Return the failure of a function that returned no credential and no token.

    Args:
        name: The function.
        problem: What it returned, and what it must return instead.
        resource: What the tokens of this cloud are for.
    """
    return TokenFailure(
        f"no token from {name}: {problem}",
        "credential",
        f"a function that is passed as ⟦credential=⟧ returns a credential of azure.identity, or "
        f"the text of a token for {resource}",
    )


def timeout(
    name: str,
    seconds: float,
    source: str = "",
    request_age: float = 0.0,
    import_seconds: float = 0.0,
) -> TokenFailure:
    """Return the failure of a credential that took too long.

    Args:
        name: The credential.
        seconds: How long the caller waited.
        source: Where the caller's deadline comes from, such as `connect_timeout=3`.
        request_age: How long the oldest request has been in progress, in seconds.
        import_seconds: How long azure.identity was imported meanwhile.
    """
    message = f"no token from {name} within {_rounded(seconds)} s"
    if source:
        message += f" ({source})"
    if request_age > seconds + 1.0:
        message += f": its answer has been awaited for {request_age:.0f} s"
    if import_seconds > 1.0:
        message += f"; before that, the import of azure.identity took {import_seconds:.0f} s"
    chain = "AZURE_TOKEN_CREDENTIALS=ManagedIdentityCredential"
    more_time = f"give it more time than {source}, and " if source else "wait longer: "
    if name == "DefaultAzureCredential":
        hint = (
            f"name one credential instead of a chain ({chain}), check that its endpoint is reached "
            f"from here, or {more_time}⟦credential=azpg.EntraPassword(timeout=60)⟧"
        )
    else:
        hint = (
            f"check that the endpoint of {name} is reached from here, or {more_time}"
            f"⟦credential=azpg.EntraPassword(timeout=60)⟧, with the credential as its first "
            f"argument. If it is a chain, name one credential instead ({chain})"
        )
    return TokenFailure(message, "credential-timeout", hint, transient=True)


def _rounded(seconds: float) -> str:
    return f"{round(seconds, 1 if seconds >= 1 else 2):g}"
