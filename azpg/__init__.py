"""The correct connection from Python to Azure Database for PostgreSQL."""

from ._clouds import AZURE_CHINA, AZURE_PUBLIC, AZURE_US_GOV, COSMOS_POSTGRES, Cloud
from ._entra import EntraPassword
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

__version__ = "0.1.0"

__all__ = [
    "AZURE_CHINA",
    "AZURE_PUBLIC",
    "AZURE_US_GOV",
    "COSMOS_POSTGRES",
    "AsyncConnection",
    "Cloud",
    "ConfigError",
    "ConnectError",
    "ConnectTimeoutError",
    "Connection",
    "CredentialError",
    "EntraPassword",
    "LoginError",
    "TLSError",
    "UnreachableError",
    "connect",
    "connect_async",
    "conninfo",
]
