"""What a driver's text means: kind, error class, worth another try, and what to type. Pure."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

from ._failures import CREDENTIALS, SIGN_IN_AGAIN, STATES, TABLE
from ._record import Record
from ._redact import redact
from ._refusals import compiled
from .errors import ConnectError

if TYPE_CHECKING:
    from ._refusals import Row


class Context(Record):
    """What is known of the attempt; hints are written with it."""

    host: str = "the server"
    port: str = "5432"
    user: str = ""
    dbname: str = ""
    entra: bool = False
    scope: str = ""
    secret_length: int = 0
    root_file: str = ""
    """the caller's own sslrootcert"""
    address: str = ""
    """the address that was tried, where the text tells"""
    client: str = ""
    """the address that the server saw, where the text tells"""


class Diagnosis(Record):
    """What one text means."""

    kind: str = "unknown"
    error: type[ConnectError] = ConnectError
    hint: str = ""
    transient: bool = False

    @classmethod
    def of(cls, row: Row, hint: str) -> Diagnosis:
        """Return what a row of the table says."""
        return cls(kind=row.kind, error=row.error, hint=hint, transient=row.transient)


UNKNOWN = Diagnosis()

BAD_TOKEN = frozenset({"token-audience", "token-expired", "token-invalid"})
"""Kinds of refusals that blame the token itself."""

TRANSIENT = frozenset(row.kind for row in TABLE if row.transient) | {"credential-timeout"}
"""Kinds of failures that may mend themselves."""

_PGBOUNCER_PORTS = ("6432", "8432")
_PGBOUNCER_TAKES = 2047
"""bytes of a password, up to 1.25; pgbouncer/pgbouncer#1310 made it more"""

_SEVERAL = "all failures were:"
_QUOTED = r'"[^"\n]*"'
_ATTEMPT = r"- host: '([^'\n]*)', port: '(\d+)'"
_ADDRESS = r"""(?:server at "|hostaddr: ')([0-9a-f.:]+)"""
_CLIENT = r'for host "([0-9a-f.:]+)"'


def diagnose(text: str, context: Context, state: str = "") -> Diagnosis:
    """Return what a text means, as far as it is known; `state` is its SQLSTATE, if it has one."""
    if state and state not in STATES:
        return UNKNOWN
    if found := telling(text):
        row, said = found
        line = text[said.end() :].partition("\n")[0]
        context = _of_attempt(text[: said.end()] + line, context)
        # Only a query's error may give names: at a connect they could be a secret thrown back
        names = said.groupdict() if state else {}
        return Diagnosis.of(row, _hint(row.hint, context, names))
    for row in TABLE:
        if state and row.kind == STATES[state]:
            return Diagnosis.of(row, _hint(row.hint, context, {}))
    return UNKNOWN


def telling(text: str) -> tuple[Row, re.Match[str]] | None:
    """Return the row that tells most of a text, and where the text says so."""
    # psycopg puts the last of several failures first, without a word about where it happened
    several = compiled(_SEVERAL).search(text)
    begin = several.end() if several else 0
    # What is quoted are mostly names, which may hold any words
    plain = compiled(_QUOTED).sub(lambda quoted: f'"{"." * (len(quoted[0]) - 2)}"', text)
    for row in TABLE:
        pattern = compiled(row.pattern)
        if said := pattern.search(plain, begin) or pattern.match(plain):
            return row, said
    return None


def _of_attempt(text: str, context: Context) -> Context:
    """Return the context of the attempt that a text ends with, as far as the text tells."""
    if attempts := compiled(_ATTEMPT).findall(text):
        host, port = attempts[-1]
        if host in context.host.split(","):
            context = context.replace(host=host, port=port)
    addresses, clients = compiled(_ADDRESS).findall(text), compiled(_CLIENT).findall(text)
    return context.replace(
        address=addresses[-1] if addresses else "",
        client=clients[-1] if clients and _is_address(clients[-1]) else "this machine's address",
    )


def _hint(template: str, context: Context, names: dict[str, str]) -> str:
    context = context.replace(user=context.user or "…")
    words = {
        "host": context.host,
        "port": context.port,
        "user": repr(context.user),
        "name": _identifier(context.user),
        "database": _identifier(context.dbname or "…"),
        "client": context.client,
        "secret": "token" if context.entra else "password",
        "secret_length": context.secret_length,
        "what": names.get("what", "…"),
        "object": _identifier(names.get("object") or "…"),
        "asked": f"the token was asked for {_resource(context)}; " if context.scope else "",
        "token": _token(context),
        "login": _login(context),
        "long": _long(context),
        "roots": _roots(context),
        "listens": _listens(context),
        "silence": _silence(context),
        "local": "" if context.entra else "For a server on your own machine only: sslmode=disable",
    }
    return redact(template.format_map(words))


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"


def _resource(context: Context) -> str:
    return context.scope.removesuffix("/.default")


def _token(context: Context) -> str:
    if context.entra:
        return (
            "the server cannot read the token: hand it over exactly as the credential gave it, and "
            "take it from the server's own tenant (az login --tenant …, or AZURE_TENANT_ID)"
        )
    return (
        f"role {context.user!r} is one of Microsoft Entra, which takes a token: leave out "
        "password= (or unset PGPASSWORD), and azpg gets one"
    )


def _login(context: Context) -> str:
    role = _literal(context.user)
    short = context.host.partition(".")[0]
    name = context.user.removesuffix(f"@{short}")
    single = f"Flexible Server takes no @{short}: user={_literal(name)}"
    if context.entra:
        return (
            (f"{single}. Otherwise " if name != context.user else "")
            + _MAKE_ROLE.format(role=role)
            + _long(context)
        )
    return (
        f"check user={role} and its password; a role of Microsoft Entra has none: leave out "
        "password= (or unset PGPASSWORD), and azpg gets a token"
        + (f"; {single}" if name != context.user else "")
        + _long(context)
    )


_MAKE_ROLE = (
    "no role of Microsoft Entra has exactly the name {role} here, or its sign-in is off (portal: "
    "Authentication). An Entra administrator makes the role, in database postgres: SELECT * FROM "
    "pgaadauth_create_principal({role}, false, false); or by the identity's object id, with 'user' "
    "or 'group' for those: SELECT * FROM pgaadauth_create_principal_with_oid({role}, "
    "'<object id>', 'service', false, false)"
)


def _long(context: Context) -> str:
    if context.port not in _PGBOUNCER_PORTS or context.secret_length <= _PGBOUNCER_TAKES:
        return ""
    secret = "token" if context.entra else "password"
    return (
        f". The {secret} has {context.secret_length} bytes, and PgBouncer may take only "
        f"{_PGBOUNCER_TAKES}: pgbouncer=False goes to the server itself"
    )


def _roots(context: Context) -> str:
    if context.root_file == "system":
        return (
            "sslrootcert=system finds the system's roots only where SSL_CERT_FILE names them: "
            "leave it out for Azure's own. "
        )
    if context.root_file:
        return (
            f"The roots are those of {context.root_file} (sslrootcert or PGSSLROOTCERT), which may "
            f"be out of date: leave it out for Azure's own. "
        )
    return ""


def _listens(context: Context) -> str:
    if context.port in _PGBOUNCER_PORTS:
        return (
            ": turn on PgBouncer (server parameter pgbouncer.enabled; not in the Burstable tier), "
            "or write pgbouncer=False"
        )
    return f" of {context.host}: is it started (portal: Overview), and is that its port?"


def _silence(context: Context) -> str:
    waits = (
        ". Or PgBouncer waits for the server behind it, as for a dbname= that does not exist: "
        "pgbouncer=False tells"
        if context.port in _PGBOUNCER_PORTS
        else ""
    )
    if _is_address(context.address) and _is_private(context.address):
        return (
            f"{context.address} is a private address, reached only from its virtual network: check "
            f"VPN, peering and private endpoint" + waits
        )
    return (
        f"the server's firewall has no rule for this machine's address (portal: Networking), or a "
        f"firewall here lets nothing out to port {context.port}. A server with private access is "
        f"reached only from its virtual network, under a name that its private DNS zone resolves"
        + waits
    )


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_private(address: str) -> bool:
    known = ipaddress.ip_address(address)
    return known.is_private and not known.is_loopback


def credential(name: str, error: BaseException) -> tuple[str, str, str]:
    """Return text, kind and hint for a credential that raised."""
    said = redact(str(error)) or type(error).__name__
    kind = "credential"
    person = type(error).__name__ == "AuthenticationRequiredError"
    if person or compiled(SIGN_IN_AGAIN).search(said):
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
    elif known := [hint for pattern, hint in CREDENTIALS.items() if compiled(pattern).search(said)]:
        hint = known[0]
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
