"""Credentials: what counts as one, which must be awaited, and a cloud's default one."""

from __future__ import annotations

import inspect
import os
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from azure.core.credentials import TokenProvider
    from azure.core.credentials_async import AsyncTokenProvider

    AnyCredential: TypeAlias = TokenProvider | AsyncTokenProvider
    Credential: TypeAlias = AnyCredential | Callable[[], AnyCredential]
    SyncCredential: TypeAlias = TokenProvider | Callable[[], TokenProvider]

_INTERACTIVE = {"DeviceCodeCredential", "InteractiveBrowserCredential"}


class DefaultCredential:
    """Make a cloud's default credential; azure-identity is imported no earlier than here."""

    def __init__(self, authority: str, client_id: str | None) -> None:
        self.options: dict[str, str] = {}
        if "AZURE_AUTHORITY_HOST" not in os.environ:
            self.options["authority"] = authority
        if client_id is not None:
            self.options |= {
                "managed_identity_client_id": client_id,
                "workload_identity_client_id": client_id,
            }

    def __call__(self) -> object:
        """Make it."""
        from azure.identity import AzureAuthorityHosts, DefaultAzureCredential  # noqa: PLC0415

        # Microsoft, asked whether it knows the authority, would refuse a private cloud's.
        authority = self.options.get("authority")
        private = authority is not None and authority not in vars(AzureAuthorityHosts).values()
        return DefaultAzureCredential(**self.options, disable_instance_discovery=private)


def is_credential(value: object) -> bool:
    """Tell whether it is a credential, not a function or class that makes one."""
    return not isinstance(value, type) and (
        hasattr(value, "get_token") or hasattr(value, "get_token_info")
    )


def is_async(credential: object) -> bool:
    """Tell whether a credential has to be awaited."""
    get = getattr(credential, "get_token_info", None) or getattr(credential, "get_token", None)
    return inspect.iscoroutinefunction(get)


def asks_a_person(credential: object) -> bool:
    """Tell whether a credential, or one of its chain, may open a browser or print a code."""
    return any(kind.__name__ in _INTERACTIVE for kind in type(credential).__mro__) or any(
        map(asks_a_person, getattr(credential, "credentials", ()))
    )


def name(credential: object) -> str:
    """Return what a person would call it."""
    if isinstance(credential, DefaultCredential):
        return "DefaultAzureCredential"
    if is_credential(credential):
        return type(credential).__name__
    return getattr(credential, "__qualname__", type(credential).__name__)


def spoke(credential: object) -> str:
    """Return the name, and for a chain the one of it that answered."""
    member = getattr(credential, "_successful_credential", None)
    return name(credential) + (f" ({name(member)})" if member is not None else "")
