"""Write a hint from a pattern's template and from what is known of the attempt."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, NamedTuple

from psycopg.pq import ConnStatus

from azpg._redact import redact

if TYPE_CHECKING:
    from collections.abc import Mapping

_PGBOUNCER_PORTS = ("6432", "8432")
_VIRTUAL_ENDPOINT = re.compile(r"[^.,]+\.(writer|reader)(\.postgres\.database\.[a-z.-]+)")
"""Source: MicrosoftDocs/azure-databases-docs, articles/postgresql/read-replica (2026-11-27)."""


class HintContext(NamedTuple):
    """What is known of the attempt that failed."""

    host: str = "the server"
    port: str = "5432"
    user: str = ""
    dbname: str = ""
    entra: bool = False
    """the password is a Microsoft Entra token"""
    scope: str = ""
    """the scope that the token was requested for"""
    assumed_scope_of: str = ""
    """the name of the cloud, if its scope is an assumption"""
    secret_length: int = 0
    """of the token or password, in bytes"""
    root_file: str = ""
    """the caller's own sslrootcert"""
    root_file_source: str = "sslrootcert or PGSSLROOTCERT"
    """the option or variable that names it"""
    has_azure_root: bool | None = None
    """whether that file has any of the Azure root certificates; None if that is not known"""
    has_pinned_roots: bool = True
    """the roots are azpg's pinned ones, if the caller named no file"""
    server_address: str = ""
    """the IP address that was tried, if the message contains it"""
    reached: int | None = None
    """the `ConnStatus` of a connection that did not answer in time, if it is known"""
    client_address: str = ""
    """this machine's IP address as the server saw it, if the message contains it"""


def write_hint(template: str, context: HintContext, names: Mapping[str, str]) -> str:
    """Return a hint: the template of a pattern, filled in.

    Args:
        template: the pattern's `hint`.
        context: what is known of the attempt.
        names: `object_type` and `object_name` from the message, if a pattern matched them.
    """
    context = context._replace(user=context.user or "…")
    values = {
        "host": context.host,
        "port": context.port,
        "user": repr(context.user),
        "role": _identifier(context.user),
        "database": _identifier(context.dbname or "…"),
        "client_address": context.client_address,
        "secret": "token" if context.entra else "password",
        "secret_length": context.secret_length,
        "object_type": names.get("object_type", "…"),
        "object_name": _identifier(names.get("object_name") or "…"),
        "audience": _hint_audience(context),
        "token": _hint_token(context),
        "login": _hint_login(context),
        "certificate_name": _hint_certificate_name(context),
        "roots": _hint_roots(context),
        "new_root": _hint_new_root(context),
        "port_closed": _hint_port_closed(context),
        "no_answer": _hint_no_answer(context),
        "own_machine": _hint_own_machine(context),
    }
    return redact(template.format_map(values))


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"


def _hint_audience(context: HintContext) -> str:
    requested = ""
    if context.scope:
        requested = f"the token was asked for {context.scope.removesuffix('/.default')}"
    if context.assumed_scope_of:
        return (
            f"{requested}, which is an assumption: Azure does not publish the resource for the "
            f"cloud {context.assumed_scope_of!r}. Take it from the server's message or from the "
            f"portal (Connect), and pass cloud=azpg.Cloud(…, scope='<resource>/.default', …)"
        )
    return (
        f"{requested}{'; ' if requested else ''}name the cloud of the server: "
        'cloud="usgov", "china", "bleu", or "cosmos" for Azure Cosmos DB for PostgreSQL. A token '
        "of your own must be for the resource that the server names"
    )


def _hint_token(context: HintContext) -> str:
    if context.entra:
        return (
            "the server cannot read the token: hand it over exactly as the credential gave it, and "
            "take it from the server's own tenant (az login --tenant …, or AZURE_TENANT_ID)"
        )
    return (
        f"role {context.user!r} is one of Microsoft Entra, which takes a token: leave out "
        "password= (or unset PGPASSWORD), and azpg gets one"
    )


def _hint_login(context: HintContext) -> str:
    role = _literal(context.user)
    server = context.host.partition(".")[0]
    # Single Server took user@server
    name = context.user.removesuffix(f"@{server}")
    has_server_suffix = name != context.user
    suffix_hint = f"Flexible Server takes no @{server}: user={_literal(name)}"
    if context.entra:
        hint = _CREATE_ROLE.format(role=role)
        if has_server_suffix:
            hint = f"{suffix_hint}. Otherwise {hint}"
    else:
        hint = (
            f"check user={role} and its password; a role of Microsoft Entra has none: leave out "
            "password= (or unset PGPASSWORD), and azpg gets a token"
        )
        if has_server_suffix:
            hint = f"{hint}; {suffix_hint}"
    return hint


_CREATE_ROLE = (
    "no role of Microsoft Entra has exactly the name {role} here, or its sign-in is off (portal: "
    "Authentication). An Entra administrator makes the role, in database postgres: SELECT * FROM "
    "pgaadauth_create_principal({role}, false, false); or by the identity's object id, with 'user' "
    "or 'group' for those: SELECT * FROM pgaadauth_create_principal_with_oid({role}, "
    "'<object id>', 'service', false, false)"
)


def _hint_certificate_name(context: HintContext) -> str:
    if endpoint := _VIRTUAL_ENDPOINT.search(context.host):
        kind, suffix = endpoint.groups()
        attrs = "read-write" if kind == "writer" else "prefer-standby"
        return (
            f"the server's certificate does not have the name of the virtual endpoint: give the "
            f'list of servers instead, host="<server>{suffix},<replica>{suffix}", '
            f'target_session_attrs="{attrs}", which follows a promotion too'
        )
    return (
        f'pass server="myserver", host="{context.host}" (or hostaddr=): server is the name that '
        "the certificate is verified against, host the address to connect to"
    )


def _hint_roots(context: HintContext) -> str:
    if context.root_file == "system":
        return (
            "sslrootcert=system finds the system's roots only where SSL_CERT_FILE names them: "
            "leave it out for Azure's own. "
        )
    if not context.root_file:
        return ""
    problem = "may be out of date"
    if context.has_azure_root is False:
        problem = "has no Azure root"
    source = context.root_file_source
    remedy = f"unset {source}" if source.startswith("PG") else "leave it out"
    return (
        f"The root certificates are those of {context.root_file} ({source}), which {problem}: "
        f"{remedy} for Azure's own. "
    )


def _hint_new_root(context: HintContext) -> str:
    if context.root_file or not context.has_pinned_roots:
        return ""
    return (
        "If Azure has a new root, upgrade azpg, or until then set PGSSLROOTCERT=$(python -m "
        "certifi). "
    )


def _hint_port_closed(context: HintContext) -> str:
    if context.port in _PGBOUNCER_PORTS:
        return (
            ": turn on PgBouncer (server parameter pgbouncer.enabled; not in the Burstable tier), "
            "or write pgbouncer=False"
        )
    return f" of {context.host}: is it started (portal: Overview), and is that its port?"


def _hint_no_answer(context: HintContext) -> str:
    pooled = context.port in _PGBOUNCER_PORTS
    if context.reached in _TCP_STATUSES:
        return (
            "the TCP connection was made, so no firewall blocks it, but TLS was not answered: the "
            "server is overloaded or restarting, or something else listens there"
        )
    if context.reached == ConnStatus.AWAITING_RESPONSE:
        hint = "TLS was set up, so the address is right, but the login was not answered: "
        return hint + (_PGBOUNCER_WAITS if pooled else "the server is overloaded or restarting")
    if context.reached in _LOGIN_STATUSES:
        hint = "the server accepted the login, but started no session: "
        return hint + (_PGBOUNCER_WAITS if pooled else "it is overloaded or restarting")
    if is_address(context.server_address) and _is_private(context.server_address):
        hint = (
            f"{context.server_address} is a private address, reached only from its virtual "
            "network: check VPN, peering and private endpoint"
        )
    else:
        hint = (
            "the server's firewall has no rule for this machine's address (portal: Networking), or "
            f"a firewall here lets nothing out to port {context.port}. A server with private "
            "access is reached only from its virtual network, under a name that its private DNS "
            "zone resolves"
        )
    if pooled and context.reached is None:
        hint += f". Or {_PGBOUNCER_WAITS}"
    return hint


_TCP_STATUSES = (ConnStatus.MADE, ConnStatus.SSL_STARTUP)
_LOGIN_STATUSES = (
    ConnStatus.AUTH_OK,
    ConnStatus.SETENV,
    ConnStatus.CHECK_WRITABLE,
    ConnStatus.CONSUME,
    ConnStatus.CHECK_TARGET,
    ConnStatus.CHECK_STANDBY,
)
_PGBOUNCER_WAITS = (
    "PgBouncer waits for the server behind it, as for a dbname= that does not exist: "
    "pgbouncer=False tells"
)


def _hint_own_machine(context: HintContext) -> str:
    if context.entra:
        return ""
    return "For a server on your own machine only: sslmode=disable"


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_private(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    return ip.is_private and not ip.is_loopback
