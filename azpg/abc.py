"""Types of arguments, for annotations in code that wraps azpg.

>>> def open_connection(credential: azpg.abc.SyncCredential) -> azpg.Connection:
...     return azpg.connect(server="myserver", credential=credential)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from azure.core.credentials import TokenProvider
    from azure.core.credentials_async import AsyncTokenProvider

__all__ = ["AsyncPassword", "Credential", "Password", "PrepareThreshold", "SyncCredential"]


class Unset:
    """The type of an argument that was left out, for which None is a value of its own."""

    def __repr__(self) -> str:
        return "..."


UNSET: Final = Unset()

SyncCredential: TypeAlias = "TokenProvider | Callable[[], TokenProvider | str]"
"""An azure-identity credential, or a function that returns one or the text of a token.

A function that returns text is called for each new token.
"""

_Provider: TypeAlias = "TokenProvider | AsyncTokenProvider"
Credential: TypeAlias = "_Provider | Callable[[], _Provider | str | Awaitable[_Provider | str]]"
"""As `SyncCredential`, for the async API. The credential and the function may be async."""

Password: TypeAlias = str | Callable[[], str]
"""A password, or a function that returns it and is called for each new connection."""

AsyncPassword: TypeAlias = str | Callable[[], str] | Callable[[], Awaitable[str]]
"""As `Password`, for the async API. The function may be async."""

PrepareThreshold: TypeAlias = int | Unset | None
"""Executions of a query before psycopg prepares it, None for never.

The default is 5, or None with PgBouncer.
"""
