"""The types of the arguments of azpg, for annotations in code that wraps it.

As in `psycopg.abc`, these are for annotations: import them under `if TYPE_CHECKING`, or anywhere.

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
"""A credential of azure-identity, or a function that makes one or that returns the text of a token.

A function that returns text is called for each new token.
"""

_Provider: TypeAlias = "TokenProvider | AsyncTokenProvider"
Credential: TypeAlias = "_Provider | Callable[[], _Provider | str | Awaitable[_Provider | str]]"
"""The same, for the async API: a credential of azure.identity.aio too, and the function may be
async."""

Password: TypeAlias = str | Callable[[], str]
"""A password, or a function that returns it and is called once per new connection."""

AsyncPassword: TypeAlias = str | Callable[[], str] | Callable[[], Awaitable[str]]
"""The same, for the async API: the function may be async."""

PrepareThreshold: TypeAlias = int | Unset | None
"""How often a query is executed before it is prepared; None: never. Left out, it is psycopg's
default of 5, or None behind PgBouncer."""
