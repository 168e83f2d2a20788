"""Credentials: what counts as one, which are async, and the ones that azpg makes itself."""

from __future__ import annotations

import inspect
import os
import re
import sys
from contextvars import ContextVar
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, cast

from azpg._redact import Secret, sanitized
from azpg._version import __version__

from . import identity_import
from .credential_errors import HttpResponse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from azure.core.pipeline import PipelineResponse

READ_TIMEOUT_SECONDS = 10.0
"""Time without an answer after which azure-core repeats a request, instead of its 300 s."""

LAST_RESPONSE: ContextVar[HttpResponse | None] = ContextVar("azpg last response", default=None)
"""the last HTTP response to the token request of this context, if azpg made the credential"""

_INTERACTIVE = {"DeviceCodeCredential", "InteractiveBrowserCredential"}

USER_AGENT = f"azpg/{__version__}"
"""Put before azure-identity's own in the requests of the credentials that azpg makes, so that
Microsoft's support can tell them."""

TOKEN_PROXY = "AZURE_KUBERNETES_TOKEN_PROXY"
"""AKS sets it in pods whose identity is bound to the cluster (identity bindings).

Source: azure-identity 1.27.0, WorkloadIdentityCredential(enable_azure_proxy=) (2026-11-27).
"""

_IMDS_PATH = "/metadata/identity/oauth2/token"

_ON_AZURE = ("IDENTITY_ENDPOINT", "MSI_ENDPOINT", "AZURE_FEDERATED_TOKEN_FILE")
"""Variables that Azure sets where an identity endpoint serves the program.

Source: azure-identity 1.27.0, its managed and workload identity credentials (2026-11-27).
"""

_WITH_ENDPOINT = {
    "EnvironmentCredential",
    "ManagedIdentityCredential",
    "WorkloadIdentityCredential",
}
"""Members of azure-identity's default chain that request a token from an endpoint."""

_NO_PROXIES = {"NonCallableMock", "_FunctionWrapperBase"}
"""unittest.mock's base class, and wrapt's for decorated functions"""


class DefaultCredential:
    """Make the default credential of a cloud. azure-identity is imported only when it is called."""

    def __init__(self, authority: str, client_id: str | None) -> None:
        self.client_id = client_id
        self.options = _authority_options(authority)
        if client_id is not None:
            self.options |= {
                "managed_identity_client_id": client_id,
                "workload_identity_client_id": client_id,
            }

    @property
    def name(self) -> str:
        """The name of the credential for messages."""
        return "WorkloadIdentityCredential" if _has_identity_binding() else "DefaultAzureCredential"

    def __call__(self) -> object:
        """Make it."""
        identity_import.load()
        if _has_identity_binding():
            return self._identity_binding()
        from azure.identity import DefaultAzureCredential  # noqa: PLC0415

        return DefaultAzureCredential(
            **self.options, **_discovery_options(self.options), **_http_options()
        )

    def _identity_binding(self) -> object:
        """Make the credential of a pod with an AKS identity binding.

        DefaultAzureCredential does not support them (azure-identity 1.27).
        """
        from azure import identity  # noqa: PLC0415

        if tuple(map(int, re.findall(r"\d+", identity.__version__)[:2])) < (1, 27):
            raise ImportError(
                f"{TOKEN_PROXY} is set, and azure-identity {identity.__version__} has no support "
                f"for AKS identity bindings: pip install 'azure-identity>=1.27'"
            )
        authority = {name: each for name, each in self.options.items() if name == "authority"}
        return identity.WorkloadIdentityCredential(
            enable_azure_proxy=True,
            client_id=self.client_id,
            **authority,
            **_discovery_options(authority),
            **_http_options(),
        )


def _has_identity_binding() -> bool:
    """Return whether AKS says that its proxy requests the tokens, and no one chose a credential."""
    return bool(os.environ.get(TOKEN_PROXY)) and not os.environ.get("AZURE_TOKEN_CREDENTIALS")


class ServicePrincipal:
    """Make the credential of a service principal with a client secret, imported as late."""

    name = "ClientSecretCredential"

    def __init__(
        self, authority: str, tenant_id: str, client_id: str, client_secret: Secret
    ) -> None:
        self._options = _authority_options(authority)
        self._principal = {
            "tenant_id": tenant_id,
            "client_id": client_id,
            "client_secret": client_secret,
        }

    def __call__(self) -> object:
        """Make it."""
        identity_import.load()
        from azure.identity import ClientSecretCredential  # noqa: PLC0415

        return ClientSecretCredential(
            **self._principal,
            **self._options,
            **_discovery_options(self._options),
            **_http_options(),
        )


@lru_cache(maxsize=16)
def service_principal(
    authority: str, tenant_id: str, client_id: str, client_secret: str
) -> ServicePrincipal:
    """Return the one object for a service principal, so that all who name it share its token."""
    return ServicePrincipal(authority, tenant_id, client_id, Secret(client_secret))


def _authority_options(authority: str) -> dict[str, Any]:
    """Return the option that names an authority, unless the environment names one."""
    return {} if "AZURE_AUTHORITY_HOST" in os.environ else {"authority": authority}


def _discovery_options(options: Mapping[str, object]) -> dict[str, Any]:
    from azure.identity import AzureAuthorityHosts  # noqa: PLC0415

    # Microsoft does not know the authority of a private cloud, and instance discovery would fail.
    authority = options.get("authority")
    private = authority is not None and authority not in vars(AzureAuthorityHosts).values()
    return {"disable_instance_discovery": private}


def _http_options() -> dict[str, Any]:
    """Return the options for the HTTP requests of a credential that azpg makes."""
    return {
        "read_timeout": READ_TIMEOUT_SECONDS,
        "raw_response_hook": _record_response,
        "user_agent": USER_AGENT,
    }


def _record_response(response: PipelineResponse[Any, Any]) -> None:
    """Note the status of a response: azure-identity's exceptions do not tell it."""
    http = response.http_response
    LAST_RESPONSE.set(
        HttpResponse(
            http.status_code,
            retry_after(http.headers.get("Retry-After")),
            _IMDS_PATH in response.http_request.url,
        )
    )


def retry_after(header: str | None) -> float | None:
    """Return the seconds of a Retry-After header; None for a date.

    That identity endpoints send only seconds is an assumption (2026-11-28).
    """
    if header is None or not re.fullmatch(r"\d{1,6}(\.\d+)?", header.strip()):
        return None
    return float(header)


def client_id_source(credential: object) -> str:
    """Return the client id that the default credential asks for, as it was given, or ""."""
    if not isinstance(credential, DefaultCredential):
        return ""
    if (client_id := credential.client_id) is not None:
        return f'⟦client_id="{sanitized(client_id)}"⟧'
    from_environment = os.environ.get("AZURE_CLIENT_ID")
    return f"AZURE_CLIENT_ID={sanitized(from_environment)}" if from_environment else ""


def environment_hint() -> str:
    """Return what to pass as the credential if this environment needs another than the default.

    Sources (checked 2026-11-27), in learn.microsoft.com:
    azure/machine-learning/how-to-identity-based-service-authentication,
    azure/databricks/connect/unity-catalog/cloud-services/use-service-credentials and
    fabric/data-engineering/notebook-utilities.
    """
    if os.environ.get("DEFAULT_IDENTITY_CLIENT_ID"):
        return (
            "on Azure Machine Learning name the compute's identity, "
            '⟦client_id=os.environ["DEFAULT_IDENTITY_CLIENT_ID"]⟧, or pass '
            "⟦credential=AzureMLOnBehalfOfCredential()⟧ (of azure-ai-ml) for the user's"
        )
    if os.environ.get("DATABRICKS_RUNTIME_VERSION"):
        return (
            "on Databricks pass a service credential: "
            "⟦credential=dbutils.credentials.getServiceCredentialsProvider('<name>')⟧"
        )
    if not sys.modules.keys().isdisjoint(("notebookutils", "mssparkutils")):
        return (
            "in a notebook of Fabric or Synapse pass a function: "
            "⟦credential=lambda: notebookutils.credentials.getToken('<resource>')⟧, with the "
            "resource https://ossrdbms-aad.database.windows.net"
        )
    return ""


def is_credential(value: object) -> bool:
    """Return whether it is a credential, not a function or class that makes one."""
    return not isinstance(value, type) and (
        hasattr(value, "get_token") or hasattr(value, "get_token_info")
    )


def is_async(credential: object) -> bool:
    """Return whether a credential has to be awaited."""
    get = getattr(credential, "get_token_info", None) or getattr(credential, "get_token", None)
    # A mock with the spec of a plain function has a mock for its flags, in which every bit is set.
    flags = getattr(getattr(get, "__code__", None), "co_flags", 0)
    return inspect.iscoroutinefunction(get) and type(flags) is int


def is_async_function(function: object) -> bool:
    """Return whether what a function returns must be awaited."""
    if inspect.iscoroutinefunction(function):
        return True
    return inspect.iscoroutinefunction(getattr(type(function), "__call__", None))  # noqa: B004  # asks what kind it is


def credential_error(credential: object, *, async_api: bool) -> str | None:
    """Return why an API cannot use a credential, and what to type; None if it can."""
    if not callable(credential) and not is_credential(credential):
        return (
            f"credential is {type(credential).__name__}, which has neither get_token nor "
            f"get_token_info: pass a credential of azure.identity, or a function that makes one or "
            f"that returns a token's text"
        )
    if not async_api and not is_credential(credential) and is_async_function(credential):
        return "credential is an async function: use connect_async(), or a plain function"
    if not async_api and is_async(credential):
        return (
            f"{describe(credential)} is an async credential: use connect_async(), or the "
            f"credential of the same name in azure.identity"
        )
    return None


def is_proxy(value: object) -> bool:
    """Return whether an object forwards to another one, which may be a different one later.

    The type of a proxy is not its `__class__`, which it takes from the other object. The same is
    true of mocks and of functions with a wrapt decorator, which are not proxies.
    """
    kind = type(value)
    if any(each.__name__ in _NO_PROXIES for each in kind.__mro__):
        return False
    try:
        # A LocalProxy that is not bound yet has its own class.
        return value.__class__ is not kind or hasattr(kind, "_get_current_object")
    except Exception:  # noqa: BLE001  # its function failed, with any error
        return True


def proxy_error(argument: str, value: object) -> str | None:
    """Return why a proxy cannot be used, and what to type; None for any other object."""
    while issubclass(type(value), partial):
        value = cast("partial[object]", value).func
    if is_proxy(value):
        kind = type(value)
        instead = "the object itself, or a function that makes it"
        if hasattr(kind, "_get_current_object"):
            instead = "proxy._get_current_object()"
        elif hasattr(kind, "__wrapped__"):
            instead = "proxy.__wrapped__"
        return (
            f"{argument} is a proxy ({kind.__name__}), which may stand for another user's "
            f"credential at the next call, while tokens are cached by object: pass {instead}"
        )
    for member in _members(value):
        if problem := proxy_error(f"a member of {argument}", member):
            return problem
    return None


def _members(credential: object) -> Sequence[object]:
    """Return the credentials of a chain."""
    members = getattr(credential, "credentials", ())
    return members if isinstance(members, tuple | list) else ()


def expects_endpoint(credential: object) -> bool:
    """Return whether an identity endpoint should answer a credential.

    It should if the environment says that the program runs on Azure, or if a managed identity is
    the only member of the chain. It cannot answer a chain of developers' tools only.
    """
    members = [type(each).__name__ for each in _members(credential)]
    if members and _WITH_ENDPOINT.isdisjoint(members):
        return False
    return any(map(os.environ.get, _ON_AZURE)) or members == ["ManagedIdentityCredential"]


def is_interactive(credential: object) -> bool:
    """Return whether a credential, or one of its chain, may open a browser or print a code."""
    return any(kind.__name__ in _INTERACTIVE for kind in type(credential).__mro__) or any(
        map(is_interactive, _members(credential))
    )


def is_azure_identitys(credential: object) -> bool:
    """Return whether a credential, with all of its chain, is of azure-identity's own classes."""
    module = type(credential).__module__
    return module.startswith("azure.identity.") and all(
        map(is_azure_identitys, _members(credential))
    )


def describe(credential: object) -> str:
    """Return the name of a credential for messages."""
    if isinstance(credential, DefaultCredential | ServicePrincipal):
        return credential.name
    if is_credential(credential):
        return type(credential).__name__
    return getattr(credential, "__qualname__", type(credential).__name__)


def describe_chain(credential: object) -> str:
    """Return the name of a credential and, for a chain, of the member that succeeded."""
    member = getattr(credential, "_successful_credential", None)
    return describe(credential) + (f" ({describe(member)})" if member is not None else "")
