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

from typing import TYPE_CHECKING, NamedTuple

import psycopg

from ._spelling import spelled

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
    """No connection could be made; the message says why, and what to do.

    Attributes:
        kind: the error kind to branch on, such as `"certificate-name"` or `"refused"`; `"unknown"`
            if azpg does not recognize the failure. The reference lists all of them.
        hint: what to do, which the message ends with; empty if azpg has no hint.
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
        hint = spelled(hint)
        text = spelled(text)
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
        problems = (problems,) if isinstance(problems, str) else problems
        self.problems = tuple(map(spelled, problems))
        super().__init__("\n".join(self.problems))


class LibpqConfigError(ConfigError, psycopg.OperationalError):
    """libpq rejects the arguments, which psycopg reports as an OperationalError."""


class ErrorKind(NamedTuple):
    """What every error of one kind has in common."""

    error: type[ConnectError | ConfigError]
    """the class that a failed connect raises"""
    transient: bool | None
    """whether a later attempt may succeed without any change; None if that depends on the cause"""
    meaning: str


KINDS = {
    # Configuration
    "config": ErrorKind(ConfigError, False, "the arguments are invalid or contradict each other"),
    "file-descriptors": ErrorKind(ConnectError, False, "the process has no file descriptors left"),
    "event-loop": ErrorKind(ConnectError, False, "psycopg does not support this event loop"),
    # The token, or the password from a callback
    "credential": ErrorKind(CredentialError, None, "the credential failed"),
    "credential-timeout": ErrorKind(CredentialError, True, "the credential did not answer in time"),
    "interaction-required": ErrorKind(CredentialError, False, "the user must sign in again"),
    "no-user": ErrorKind(CredentialError, False, "the token contains no name: pass user="),
    "callback": ErrorKind(CredentialError, False, "the password callback failed"),
    "token-expired": ErrorKind(LoginError, False, "the token has expired"),
    "token-audience": ErrorKind(LoginError, False, "the token is for another resource"),
    "token-invalid": ErrorKind(LoginError, False, "the server cannot validate the token"),
    # The role and the database
    "login": ErrorKind(LoginError, False, "no such role, or a wrong password"),
    "no-role": ErrorKind(LoginError, False, "the role does not exist"),
    "wrong-role": ErrorKind(LoginError, False, "the role belongs to another identity"),
    "wrong-object-id": ErrorKind(LoginError, False, "the role is bound to another identity"),
    "no-login": ErrorKind(LoginError, False, "the role may not log in"),
    "no-connect": ErrorKind(LoginError, False, "the role may not connect to the database"),
    "no-database": ErrorKind(LoginError, False, "the database does not exist or is disabled"),
    "firewall": ErrorKind(LoginError, False, "the server rejects this machine's address"),
    "no-tls": ErrorKind(LoginError, False, "the server requires TLS"),
    "auth-method": ErrorKind(LoginError, False, "the authentication method is not allowed"),
    "startup-parameter": ErrorKind(LoginError, False, "PgBouncer rejects a setting"),
    "server-option": ErrorKind(LoginError, False, "the server rejects a setting"),
    "server-fault": ErrorKind(LoginError, False, "a known fault of the server"),
    "pgbouncer-password-length": ErrorKind(
        LoginError, False, "the token is too long for PgBouncer"
    ),
    # TLS
    "certificate": ErrorKind(TLSError, False, "the server's certificate is not trusted"),
    "certificate-name": ErrorKind(TLSError, False, "the certificate is for another name"),
    "client-certificate": ErrorKind(TLSError, False, "the client certificate cannot be used"),
    "root-file": ErrorKind(TLSError, False, "the root certificate file cannot be used"),
    "tls": ErrorKind(TLSError, False, "the TLS handshake failed"),
    "tls-refused": ErrorKind(TLSError, False, "the server does not support TLS"),
    "direct-tls": ErrorKind(TLSError, False, "the server does not support direct TLS"),
    # The network
    "resolver": ErrorKind(UnreachableError, True, "DNS did not answer"),
    "unknown-host": ErrorKind(UnreachableError, False, "the host name does not exist"),
    "timeout": ErrorKind(ConnectTimeoutError, True, "no answer in time"),
    "refused": ErrorKind(UnreachableError, True, "nothing listens on the port"),
    "no-route": ErrorKind(UnreachableError, True, "the network is unreachable"),
    "no-socket": ErrorKind(UnreachableError, True, "nothing listens on the Unix socket"),
    "cut": ErrorKind(UnreachableError, True, "the connection was closed or reset"),
    # The server
    "too-many-connections": ErrorKind(ConnectError, True, "no connection is free"),
    "starting": ErrorKind(ConnectError, True, "the server is restarting or failing over"),
    "pgbouncer-server": ErrorKind(ConnectError, True, "PgBouncer cannot connect to the server"),
    "no-replica": ErrorKind(ConnectError, False, "no host is a read replica"),
    "session-attrs": ErrorKind(ConnectError, True, "no host matches target_session_attrs"),
    "protocol": ErrorKind(ConnectError, False, "the response is not PostgreSQL's protocol"),
    # Queries and sessions
    "read-only": ErrorKind(ConnectError, False, "a write in a read-only transaction"),
    "storage-full": ErrorKind(ConnectError, False, "the server's storage is full"),
    "idle": ErrorKind(ConnectError, True, "the server closed an idle session"),
    "query-timeout": ErrorKind(ConnectError, False, "a query took longer than PgBouncer allows"),
    "prepared-statement": ErrorKind(ConnectError, False, "a prepared statement with PgBouncer"),
    "extension": ErrorKind(ConnectError, False, "an extension is not allowed, or not created"),
    "permission": ErrorKind(ConnectError, False, "the role may not do that"),
    "closed": ErrorKind(ConnectError, True, "the connection was closed earlier"),
    # Pools
    "configure": ErrorKind(ConnectError, None, "the pool's configure= function failed"),
    "pool-timeout": ErrorKind(ConnectError, True, "the pool had no connection in time"),
    "pool-closed": ErrorKind(ConnectError, False, "the pool is closed"),
    "unknown": ErrorKind(ConnectError, False, "azpg does not recognize the failure"),
}
"""Every error kind. Their names are API: docs/reference/support.md says how one is renamed."""
