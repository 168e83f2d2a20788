"""Write hints: what to type, from a pattern's template and what is known of the attempt. Pure."""

from __future__ import annotations

import ipaddress

from azpg._record import Record
from azpg._redact import redact

_PGBOUNCER_PORTS = ("6432", "8432")
_PGBOUNCER_TAKES = 2047
"""bytes of a password, up to 1.25; pgbouncer/pgbouncer#1310 made it more"""


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


def write_hint(template: str, context: Context, names: dict[str, str]) -> str:
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
    if is_address(context.address) and _is_private(context.address):
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


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_private(address: str) -> bool:
    known = ipaddress.ip_address(address)
    return known.is_private and not known.is_loopback
