"""The errors azpg raises. Every one is a psycopg error too, so existing `except` clauses hold.

psycopg.Error
├─ OperationalError
│  └─ ConnectError            the connection could not be made
│     ├─ CredentialError      no token, or no password from a callback, could be obtained
│     ├─ LoginError           the server rejected the authentication
│     ├─ TLSError             the server could not be verified
│     └─ UnreachableError     no server could be reached: name, route, firewall, port
│        └─ ConnectTimeoutError   (also psycopg.errors.ConnectionTimeout)
└─ ProgrammingError
   └─ ConfigError             the arguments are invalid or conflict (also a ValueError)
      └─ LibpqConfigError     libpq rejects them (also an OperationalError, as in psycopg)

Each ConnectError has a class in azpg.pool that is a psycopg_pool.PoolTimeout too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg.pq.abc import PGconn

__all__ = [
    "ConfigError",
    "ConnectError",
    "ConnectTimeoutError",
    "CredentialError",
    "LoginError",
    "TLSError",
    "UnreachableError",
]


class ConnectError(psycopg.OperationalError):
    """The connection could not be made; the message says why, and what to type.

    Attributes:
        kind: a short word to branch on, such as `"certificate-name"` or `"refused"`; `"unknown"`
            if azpg does not know the failure.
        hint: what to type, which the message ends with; empty if azpg knows nothing better.
        transient: whether a later attempt may succeed without any change.
        pgconn: a copy of the finished connection without its secrets, as on psycopg's errors.
    """

    __module__ = "azpg"

    kind: str
    hint: str
    transient: bool

    def __init__(
        self,
        text: str,
        *,
        kind: str = "unknown",
        hint: str = "",
        transient: bool = False,
        pgconn: PGconn | None = None,
    ) -> None:
        super().__init__(f"{text}\nHINT: {hint}" if hint else text, pgconn=pgconn)
        self.kind = kind
        self.hint = hint
        self.transient = transient


class CredentialError(ConnectError):
    """No token, or no password from a callback, could be obtained."""

    __module__ = "azpg"

    # When the credential is asked again at the earliest, on the monotonic clock: until then the
    # token cache answers with this failure, so connect(retry_timeout=) sleeps until that moment.
    _retry_at: float | None = None


class LoginError(ConnectError):
    """The server rejected the authentication."""

    __module__ = "azpg"


class TLSError(ConnectError):
    """The server could not be verified; no secret was sent to it."""

    __module__ = "azpg"


class UnreachableError(ConnectError):
    """No server could be reached: its name, the route, a firewall, or a closed port."""

    __module__ = "azpg"


class ConnectTimeoutError(UnreachableError, psycopg.errors.ConnectionTimeout):
    """No server answered in time."""

    __module__ = "azpg"


class ConfigError(psycopg.ProgrammingError, ValueError):
    """The arguments are invalid or contradict each other; the message lists every problem.

    Attributes:
        problems: the problems one by one.
        kind: always `"config"`.
        hint: always empty, since each problem says what to do.
        transient: always False.
    """

    __module__ = "azpg"

    kind = "config"
    hint = ""
    transient = False
    problems: tuple[str, ...]

    def __init__(self, problems: Sequence[str] | str) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class LibpqConfigError(ConfigError, psycopg.OperationalError):
    """libpq rejects the arguments, which psycopg reports as an OperationalError."""
