"""The correct connection from Python to Azure Database for PostgreSQL."""

from importlib import import_module
from typing import TYPE_CHECKING

from ._clouds import AZURE_CHINA, AZURE_PUBLIC, AZURE_US_GOV, COSMOS_POSTGRES, Cloud
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
    from ._explain import Explanation, explain
    from .connection import AsyncConnection, Connection, connect, connect_async, conninfo
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

_LATE = {
    "connection": ("AsyncConnection", "Connection", "connect", "connect_async", "conninfo"),
    "_entra": ("EntraPassword",),
    "_explain": ("Explanation", "explain"),
    "pool": (
        "AsyncConnectionPool",
        "AsyncNullConnectionPool",
        "ConnectionPool",
        "NullConnectionPool",
        "create_pool",
        "create_pool_async",
    ),
}
"""module -> names that load it when they are first used"""


def __getattr__(name: str) -> object:
    for module, names in _LATE.items():
        if name in names:
            return globals().setdefault(name, getattr(import_module(f".{module}", __name__), name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*{*globals(), *__all__}]
