"""Verified, authenticated psycopg connections to Azure Database for PostgreSQL."""

from typing import TYPE_CHECKING

from ._clouds import AZURE_CHINA, AZURE_PUBLIC, AZURE_US_GOV, COSMOS_POSTGRES, Cloud
from ._diagnosis.explain import Explanation, explain
from ._tokens.entra import EntraPassword
from ._version import __version__ as __version__
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
    from .pool import (
        AsyncConnectionPool,
        AsyncNullConnectionPool,
        ConnectionPool,
        NullConnectionPool,
        create_pool,
        create_pool_async,
    )

_POOL_NAMES = (
    "AsyncConnectionPool",
    "AsyncNullConnectionPool",
    "ConnectionPool",
    "NullConnectionPool",
    "create_pool",
    "create_pool_async",
)
"""the names in azpg.pool, which imports psycopg_pool: only programs that use a pool load it"""

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
    if name in _POOL_NAMES:
        from . import pool  # noqa: PLC0415  # loaded by the first use of one of its names

        return getattr(pool, name)
    if name in ("apilevel", "paramstyle", "threadsafety"):
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}, because it is not a DB-API module: "
            'for SQLAlchemy leave out module= and write create_engine("postgresql+azpg://…"), or '
            "creator=azpg.connect"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__", "abc"]
