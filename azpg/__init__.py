"""The correct connection from Python to Azure Database for PostgreSQL."""

from typing import TYPE_CHECKING

from ._clouds import AZURE_CHINA, AZURE_PUBLIC, AZURE_US_GOV, COSMOS_POSTGRES, Cloud
from ._explain import Explanation, explain
from .connection import AsyncConnection, Connection, connect, connect_async, conninfo
from .errors import (
    ConfigError,
    ConnectError,
    ConnectTimeoutError,
    CredentialError,
    LoginError,
    TLSError,
    UnreachableError,
)

if TYPE_CHECKING:
    from ._entra import EntraPassword
    from .pool import (
        AsyncConnectionPool,
        AsyncNullConnectionPool,
        ConnectionPool,
        NullConnectionPool,
        create_pool,
        create_pool_async,
    )

__version__ = "0.1.0"

__all__ = [
    "AZURE_CHINA",
    "AZURE_PUBLIC",
    "AZURE_US_GOV",
    "COSMOS_POSTGRES",
    "AsyncConnection",
    "AsyncConnectionPool",
    "AsyncNullConnectionPool",
    "Cloud",
    "ConfigError",
    "ConnectError",
    "ConnectTimeoutError",
    "Connection",
    "ConnectionPool",
    "CredentialError",
    "EntraPassword",
    "Explanation",
    "LoginError",
    "NullConnectionPool",
    "TLSError",
    "UnreachableError",
    "connect",
    "connect_async",
    "conninfo",
    "create_pool",
    "create_pool_async",
    "explain",
]


def __getattr__(name: str) -> object:
    # Late: psycopg_pool, and what fetches tokens, are loaded by who needs them
    if name == "EntraPassword":
        from ._entra import EntraPassword  # noqa: PLC0415

        return EntraPassword
    if "pool" in name.lower() and name in __all__:
        from . import pool  # noqa: PLC0415

        return getattr(pool, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
