"""What a driver's text means: kind, error class, worth another try, and what to type. Pure.

libpq gives no SQLSTATE for a failed connect, so its text is all there is. The texts have changed
over the years and will again: patterns are loose, and a text that none matches passes unchanged.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from .errors import (
    ConnectError,
    ConnectTimeoutError,
    CredentialError,
    LoginError,
    TLSError,
    UnreachableError,
)


@dataclass(frozen=True, slots=True)
class Context:
    """What is known of the attempt; hints are written with it."""

    host: str = "the server"
    port: str = "5432"
    user: str = ""
    entra: bool = False
    scope: str = ""
    secret_length: int = 0
    root_file: str = ""
    """the caller's own sslrootcert"""


class Diagnosis(NamedTuple):
    """What one text means."""

    kind: str
    error: type[ConnectError]
    transient: bool
    hint: str


class _Row(NamedTuple):
    kind: str
    error: type[ConnectError]
    transient: bool
    pattern: re.Pattern[str]
    hint: str


def _row(
    kind: str, error: type[ConnectError], pattern: str, hint: str, *, transient: bool = False
) -> _Row:
    return _Row(kind, error, transient, re.compile(pattern, re.IGNORECASE | re.DOTALL), hint)


# The most telling first: several attempts are joined in one message, and the last hides the first.
_TABLE = (
    # The call itself
    _row(
        "config",
        ConnectError,
        r"^(connection is bad: )?(connection to server at [^\n]* failed: )?"
        r"(invalid \S+ value|weak sslmode|could not match|could not parse network address)",
        "",
    ),
    # The sign-in
    _row(
        "token-expired",
        LoginError,
        r"access token has expired",
        "the token was out of date when it arrived: check this machine's clock (timedatectl)",
    ),
    _row(
        "token-audience",
        LoginError,
        r"valid audience claim",
        "the token was asked for {scope}: if the server is of another cloud, name it with cloud=",
    ),
    _row(
        "token-invalid",
        LoginError,
        r"access token (has invalid format|doesn't have|does not have)|validating the access token",
        "hand over the token exactly as the credential gave it; a password of a PostgreSQL role "
        "goes into password=",
    ),
    _row(
        "wrong-role",
        LoginError,
        r"AAD_AUTH_TOKENTYPE|Service Principals cannot generate|(Azure AD|Entra) user token for",
        "the token's owner is not the owner of role {user!r}: names are case-sensitive, and a "
        'member of a group signs in with user="<the group\'s name>"',
    ),
    _row(
        "pgbouncer-password-length",
        LoginError,
        r"password packet|packet too long|pkt too",
        "the token has {secret_length} bytes, more than this PgBouncer takes: write "
        "pgbouncer=False to go to the server itself",
    ),
    _row(
        "login",
        LoginError,
        r"password authentication failed|SASL authentication failed|no such user",
        "{login}",
    ),
    _row(
        "no-role",
        LoginError,
        r'role "[^"]*" does not exist',
        "create the role, or correct user= (names are case-sensitive)",
    ),
    _row(
        "no-database",
        LoginError,
        r'database "[^"]*" does not exist|no such database',
        "create the database, or correct dbname=",
    ),
    _row(
        "no-tls",
        LoginError,
        r"no pg_hba\.conf entry.*(no encryption|SSL off)|SSL connection is required|SSL required",
        "the server takes only TLS: leave out sslmode, azpg asks for verify-full",
    ),
    _row(
        "firewall",
        LoginError,
        r"no pg_hba\.conf entry",
        "the server does not let this address in: add a firewall rule for it, or connect through "
        "the private endpoint",
    ),
    _row(
        "startup-parameter",
        LoginError,
        r"unsupported startup parameter|unsupported options startup parameter",
        "PgBouncer takes no options=: set it on the role, ALTER ROLE {user} SET … = …",
    ),
    _row(
        "auth-method",
        LoginError,
        r"authentication method requirement|no password supplied|channel binding required",
        "the server asked for another way to sign in: check password=, require_auth and "
        "channel_binding (a token works with neither of the last two)",
    ),
    # TLS
    _row(
        "certificate-name",
        TLSError,
        r"certificate for .* does not match host name|server certificate for",
        "connect under the name on the certificate, and give the way there apart from it: "
        'server="myserver", host="{host}"',
    ),
    _row(
        "root-file",
        TLSError,
        r"root certificate file|root\.crt|no certificate or crl found",
        "sslrootcert (or PGSSLROOTCERT) names a file that holds no PEM certificates: leave it out "
        "for Azure's own roots",
    ),
    _row(
        "certificate",
        TLSError,
        r"certificate verify failed|self.signed certificate|unable to get local issuer",
        "the certificate is expired, or ends in none of the trusted roots. {roots}Something "
        "between you and {host} may break TLS open; if Azure has a new root, upgrade azpg or set "
        "PGSSLROOTCERT=$(python -m certifi). {local}",
    ),
    _row(
        "tls-refused",
        TLSError,
        r"does not support SSL|server does not support",
        "Azure always has TLS, so this is not its server or something in between took TLS away; "
        "nothing was sent. {local}",
    ),
    _row(
        "direct-tls",
        TLSError,
        r"direct SSL connection|ALPN",
        "leave out sslnegotiation=direct: this server does not take it",
    ),
    _row(
        "tls",
        TLSError,
        r"SSL error(?!: unexpected eof)|tlsv1 alert|wrong version number|unsupported protocol",
        "no TLS connection could be made: check that {host}:{port} is the PostgreSQL server",
    ),
    # Busy, starting, going down
    _row(
        "too-many-connections",
        ConnectError,
        r"too many (clients|connections)|remaining connection slots|no more connections allowed|"
        r"client connections exceeded",
        "connections are used up: make pools smaller, or go through PgBouncer (pgbouncer=True)",
        transient=True,
    ),
    _row(
        "starting",
        ConnectError,
        r"database system is (starting up|shutting down|in recovery|not (yet )?accepting)|"
        r"administrator command|crash of another server process|server shutting down|"
        r"server login (has been|failed)|query_wait_timeout|client_login_timeout|pgbouncer error",
        "the server is restarting or failing over, which takes up to two minutes",
        transient=True,
    ),
    # The way there
    _row(
        "unknown-host",
        UnreachableError,
        r"failed to resolve host|could not translate host name|name or service not known",
        "check the spelling of {host}; a server with private access has a name only inside its "
        "virtual network",
    ),
    _row(
        "timeout",
        ConnectTimeoutError,
        r"timeout expired|timed out",
        "no answer from {host} on port {port}: a firewall rule is missing, or the private network "
        "or DNS is not reached from here",
        transient=True,
    ),
    _row(
        "refused",
        UnreachableError,
        r"connection refused",
        "nothing listens on port {port}{pgbouncer}",
        transient=True,
    ),
    _row(
        "no-socket",
        UnreachableError,
        r"connection to server on socket",
        "no server has this Unix socket",
        transient=True,
    ),
    _row(
        "cut",
        UnreachableError,
        r"server closed the connection|connection reset|EOF detected|unexpected eof|"
        r"network is unreachable|no route to host|broken pipe|could not (send|receive)",
        "the connection was cut on its way to {host}: a restart, or a firewall in between",
        transient=True,
    ),
)


BAD_TOKEN = frozenset({"token-audience", "token-expired", "token-invalid"})
"""Kinds of refusals that blame the token itself."""

TRANSIENT = frozenset(row.kind for row in _TABLE if row.transient) | {"credential-timeout"}
"""Kinds of failures that may mend themselves."""


def diagnose(text: str, context: Context) -> Diagnosis:
    """Return what a driver's text means, as far as it is known."""
    for row in _TABLE:
        if row.pattern.search(text):
            return Diagnosis(row.kind, row.error, row.transient, _hint(row.hint, context))
    return Diagnosis("unknown", ConnectError, transient=False, hint="")


_CREATE_ROLE = "select * from pgaadauth_create_principal({}, false, false)"


def _hint(template: str, context: Context) -> str:
    role = "'" + context.user.replace("'", "''") + "'"
    listens = (
        ": turn on PgBouncer (server parameter pgbouncer.enabled; not in the Burstable tier)"
        if context.port in ("6432", "8432")
        else f" of {context.host}"
    )
    login = (
        "the role must exist on the server as one of Microsoft Entra, with exactly this name; its "
        f"administrator makes it, in the database postgres: {_CREATE_ROLE.format(role)}"
        if context.entra
        else f"check user={role} and its password"
    )
    roots = (
        f"They are those of {context.root_file} (sslrootcert or PGSSLROOTCERT), which may be out "
        f"of date: leave it out for Azure's own. "
        if context.root_file
        else ""
    )
    return template.format(
        host=context.host,
        port=context.port,
        user=context.user,
        scope=context.scope.removesuffix("/.default"),
        secret_length=context.secret_length,
        pgbouncer=listens,
        login=login,
        roots=roots,
        local="" if context.entra else "For a server on your own machine only: sslmode=disable",
    ).rstrip()


# How every JWT begins: an endpoint's answer may be quoted that was cut in the middle of a token.
_TOKEN = re.compile(r"eyJ[\w.-]{16,}", re.ASCII)


def shown(text: str, *secrets: str | None) -> str:
    """Return a server's text fit to print: no control characters, no secret thrown back."""
    text = _TOKEN.sub("…", text)
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "…")
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text).strip()


# What only a person can mend: a second factor, a password or session that has run out, a consent.
# The codes are listed at learn.microsoft.com/entra/identity-platform/reference-error-codes
_SIGN_IN_AGAIN = re.compile(
    r"interaction_required|consent_required|login_required|"
    r"AADSTS(16000|50055|50058|5007[2469]|50078|50133|50144|50158|50173|53003|65001|65004|700082|"
    r"70008|70043|700084)\b"
)


def credential(name: str, error: BaseException) -> tuple[str, str, str]:
    """Return text, kind and hint for a credential that raised."""
    said = shown(str(error)) or type(error).__name__
    kind = "credential"
    if type(error).__name__ == "AuthenticationRequiredError" or _SIGN_IN_AGAIN.search(said):
        kind = "interaction-required"
        hint = (
            "sign in again as the person you are (`az login` on your own machine): no program can "
            "do it for you"
        )
    elif said == "Event loop is closed":
        hint = (
            "an async credential belongs to the event loop it was first used on, and that one has "
            "ended: pass a function that makes the credential, or azure.identity's sync one"
        )
    elif isinstance(error, ImportError):
        hint = "install what it names, or pass a credential of azure.identity, which needs no more"
    elif name == "DefaultAzureCredential":
        hint = (
            "run `az login` on your own machine; on Azure give the application a managed identity, "
            'and client_id="…" where it has several'
        )
    else:
        hint = f"{name} could not sign in: its own words above say why"
    return f"no token from {name}: {type(error).__name__}: {said}", kind, hint


def credential_late(name: str, timeout: float) -> tuple[str, str, str]:
    """Return text, kind and hint for a credential that took too long."""
    return (
        f"no token from {name} within {timeout:g} s",
        "credential-timeout",
        (
            "check that its endpoint is reached from here, or name one credential instead of a "
            "chain (AZURE_TOKEN_CREDENTIALS=ManagedIdentityCredential)"
        ),
    )


def callback(error: BaseException | None, given: str = "") -> CredentialError:
    """Return the error for a password callback that raised, or gave no password."""
    text = (
        f"the password callback returned {given}"
        if error is None
        else f"the password callback raised {type(error).__name__}: {shown(str(error))}"
    )
    return CredentialError(
        text, kind="callback", hint="it must return the password, as text that is not empty"
    )
