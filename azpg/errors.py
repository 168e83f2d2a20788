"""The errors azpg raises. Every one is a psycopg error too, so existing `except` clauses hold.

psycopg.Error
├─ OperationalError
│  └─ ConnectError            the connection could not be made
│     ├─ CredentialError      no password or token could be had
│     ├─ LoginError           the server refused the sign-in
│     ├─ TLSError             the server could not be verified
│     └─ UnreachableError     name, route, firewall, refused
│        └─ ConnectTimeoutError   (also psycopg.errors.ConnectionTimeout)
└─ ProgrammingError
   └─ ConfigError             the call cannot be meant as it stands (also a ValueError)
      └─ LibpqConfigError     libpq itself says so (also an OperationalError, as in psycopg)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

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
    """Tell why a connection could not be made, and what to type next.

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
    """Tell that no token, or no password from a callback, could be had."""

    __module__ = "azpg"

    # When the credential is asked again at the earliest, on the monotonic clock: until then the
    # token cache answers with this failure, so connect(retry_timeout=) sleeps until that moment.
    _retry_at: float | None = None


class LoginError(ConnectError):
    """Tell that the server refused the sign-in."""

    __module__ = "azpg"


class TLSError(ConnectError):
    """Tell that the server could not be verified; nothing secret was sent to it."""

    __module__ = "azpg"


class UnreachableError(ConnectError):
    """Tell that no server answered: name, route, firewall, refused."""

    __module__ = "azpg"


class ConnectTimeoutError(UnreachableError, psycopg.errors.ConnectionTimeout):
    """Tell that no server answered in time."""

    __module__ = "azpg"


class ConfigError(psycopg.ProgrammingError, ValueError):
    """List every problem of a call at once, each with what to type instead.

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
    """Tell what libpq itself refused of a call: to psycopg's users an OperationalError."""


_E = TypeVar("_E", bound=BaseException)


def clean(error: _E) -> _E:
    """Cut an error loose from the frames and errors behind it: they hold passwords."""
    error.__cause__ = error.__context__ = None
    error.__suppress_context__ = True
    return error.with_traceback(None)
