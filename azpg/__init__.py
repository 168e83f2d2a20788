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
    from ._diagnosis.explain import Explanation, explain
    from ._tokens.entra import EntraPassword
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
    "AsyncConnection": "connection",
    "Connection": "connection",
    "EntraPassword": "_tokens.entra",
    "Explanation": "_diagnosis.explain",
    "connect": "connection",
    "connect_async": "connection",
    "conninfo": "connection",
    "explain": "_diagnosis.explain",
    **{name: "pool" for name in __all__ if "pool" in name.lower()},
}
"""name -> the module that is loaded when it is first used"""


def __getattr__(name: str) -> object:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault(name, getattr(import_module(f".{_LATE[name]}", __name__), name))


def __dir__() -> list[str]:
    return [*{*globals(), *__all__}]
