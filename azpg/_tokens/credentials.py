"""Credentials: what counts as one, which must be awaited, and a cloud's default one."""

from __future__ import annotations

import inspect
import os
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, TypeAlias, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from azure.core.credentials import TokenProvider
    from azure.core.credentials_async import AsyncTokenProvider

    AnyCredential: TypeAlias = TokenProvider | AsyncTokenProvider
    Credential: TypeAlias = AnyCredential | Callable[[], AnyCredential]
    SyncCredential: TypeAlias = TokenProvider | Callable[[], TokenProvider]

_INTERACTIVE = {"DeviceCodeCredential", "InteractiveBrowserCredential"}

_NO_PROXIES = {"NonCallableMock", "_FunctionWrapperBase"}
"""unittest.mock's base class, and wrapt's for decorated functions"""


class DefaultCredential:
    """Make a cloud's default credential; azure-identity is imported no earlier than here."""

    makes = "DefaultAzureCredential"

    def __init__(self, authority: str, client_id: str | None) -> None:
        self.options = _at(authority)
        if client_id is not None:
            self.options |= {
                "managed_identity_client_id": client_id,
                "workload_identity_client_id": client_id,
            }

    def __call__(self) -> object:
        """Make it."""
        from azure.identity import DefaultAzureCredential  # noqa: PLC0415

        return DefaultAzureCredential(**self.options, **_unknown(self.options))


class ServicePrincipal:
    """Make the credential of a service principal with a secret, no earlier either."""

    makes = "ClientSecretCredential"

    def __init__(self, authority: str, tenant_id: str, client_id: str, client_secret: str) -> None:
        self._tenant_id = tenant_id
        self._client_id = client_id
        self._client_secret = client_secret
        self._options = _at(authority)

    def __call__(self) -> object:
        """Make it."""
        from azure.identity import ClientSecretCredential  # noqa: PLC0415

        return ClientSecretCredential(
            tenant_id=self._tenant_id,
            client_id=self._client_id,
            client_secret=self._client_secret,
            **self._options,
            **_unknown(self._options),
        )


@lru_cache(maxsize=16)
def service_principal(
    authority: str, tenant_id: str, client_id: str, client_secret: str
) -> ServicePrincipal:
    """Return the one of a service principal: all that name it share its token."""
    return ServicePrincipal(authority, tenant_id, client_id, client_secret)


def _at(authority: str) -> dict[str, Any]:
    """Return what leads a credential to an authority, where the environment names none."""
    return {} if "AZURE_AUTHORITY_HOST" in os.environ else {"authority": authority}


def _unknown(options: Mapping[str, object]) -> dict[str, Any]:
    from azure.identity import AzureAuthorityHosts  # noqa: PLC0415

    # Microsoft, asked whether it knows the authority, would refuse a private cloud's.
    authority = options.get("authority")
    private = authority is not None and authority not in vars(AzureAuthorityHosts).values()
    return {"disable_instance_discovery": private}


def is_credential(value: object) -> bool:
    """Tell whether it is a credential, not a function or class that makes one."""
    return not isinstance(value, type) and (
        hasattr(value, "get_token") or hasattr(value, "get_token_info")
    )


def must_be_awaited(credential: object) -> bool:
    """Tell whether a credential has to be awaited."""
    get = getattr(credential, "get_token_info", None) or getattr(credential, "get_token", None)
    # A mock with the spec of a plain function has a mock for its flags, and they are all true.
    flags = getattr(getattr(get, "__code__", None), "co_flags", 0)
    return inspect.iscoroutinefunction(get) and type(flags) is int


def misfit(credential: object, *, is_async: bool) -> str | None:
    """Return what keeps an API from taking a credential, and what to type."""
    if not callable(credential) and not is_credential(credential):
        return (
            f"credential is {type(credential).__name__}, which has neither get_token nor "
            f"get_token_info: pass a credential of azure.identity, or a function that makes one"
        )
    if not is_async and must_be_awaited(credential):
        return (
            f"{name(credential)} is an async credential: use connect_async(), or the credential of "
            f"the same name in azure.identity"
        )
    return None


def is_proxy(value: object) -> bool:
    """Tell whether an object stands for another one, and may stand for a different one later.

    Its type is not its `__class__`, which it takes from that object. This holds for mocks too,
    which stand for nothing, and for functions with a wrapt decorator.
    """
    kind = type(value)
    if any(each.__name__ in _NO_PROXIES for each in kind.__mro__):
        return False
    try:
        # A LocalProxy that is bound to nothing yet has its own class.
        return value.__class__ is not kind or hasattr(kind, "_get_current_object")
    except Exception:  # noqa: BLE001  # its function has failed, with any error
        return True


def proxied(argument: str, value: object) -> str | None:
    """Return what is wrong if a proxy was passed, and what to type."""
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
        if problem := proxied(f"a member of {argument}", member):
            return problem
    return None


def _members(credential: object) -> Sequence[object]:
    """Return the credentials of a chain."""
    members = getattr(credential, "credentials", ())
    return members if isinstance(members, tuple | list) else ()


def asks_a_person(credential: object) -> bool:
    """Tell whether a credential, or one of its chain, may open a browser or print a code."""
    return any(kind.__name__ in _INTERACTIVE for kind in type(credential).__mro__) or any(
        map(asks_a_person, _members(credential))
    )


def is_azure_identitys(credential: object) -> bool:
    """Tell whether a credential, with all of its chain, is of azure-identity's own classes."""
    module = type(credential).__module__
    return module.startswith("azure.identity.") and all(
        map(is_azure_identitys, _members(credential))
    )


def name(credential: object) -> str:
    """Return what a person would call it."""
    if isinstance(credential, DefaultCredential | ServicePrincipal):
        return credential.makes
    if is_credential(credential):
        return type(credential).__name__
    return getattr(credential, "__qualname__", type(credential).__name__)


def spoke(credential: object) -> str:
    """Return the name, and for a chain the one of it that answered."""
    member = getattr(credential, "_successful_credential", None)
    return name(credential) + (f" ({name(member)})" if member is not None else "")
