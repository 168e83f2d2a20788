"""What servers say when they refuse a sign-in: a table of texts, each with its hint."""

from __future__ import annotations

import re
from functools import cache

from .errors import ConnectError, LoginError


class Row:
    """One meaning: a short word for it, its error, and what to type; `{…}` is filled in."""

    def __init__(
        self,
        kind: str,
        error: type[ConnectError],
        pattern: str,
        hint: str,
        *,
        transient: bool = False,
    ) -> None:
        self.kind = kind
        self.error = error
        self.pattern = pattern
        self.hint = hint
        self.transient = transient


@cache
def compiled(pattern: str) -> re.Pattern[str]:
    """Compile a pattern when a text is first held against it: who connects pays for none."""
    return re.compile(pattern, re.IGNORECASE)


_HBA = r"(no pg_hba\.conf entry|pg_hba\.conf rejects) .*"
_IN_CLEAR = r"no encryption|SSL off"

# The most telling first, as in the whole table that these rows are part of.
REFUSALS = (
    # The token. Azure documents none of these texts; they were seen in public threads
    Row(
        "token-expired",
        LoginError,
        r"access token has expired",
        "a token lasts about an hour and is looked at when signing in: get a new one for each "
        "connection, as azpg.connect and azpg.create_pool do. If it was new, this machine's clock "
        "is wrong (timedatectl)",
    ),
    Row(
        "token-audience",
        LoginError,
        r"valid audience claim",
        '{asked}name the cloud of the server: cloud="usgov", "china", or "cosmos" for Azure Cosmos '
        "DB for PostgreSQL. A token of your own must be for the resource that the server names",
    ),
    Row(
        "token-invalid",
        LoginError,
        r"access token (has invalid format|does ?n.t have|does not have)|"
        r"validating the access token",
        "{token}",
    ),
    # github.com/cyrilgdn/terraform-provider-postgresql/issues/423
    Row(
        "wrong-object-id",
        LoginError,
        r"oid mismatch for role",
        "role {user} is bound to another identity, often one of the same name that was deleted. "
        "Bind it to the new one, in database postgres as an Entra administrator: SECURITY LABEL "
        "FOR \"pgaadauth\" ON ROLE {name} IS 'aadauth,oid=<object id>,type=service', with the id "
        "of az ad sp show --id <client id> --query id; or choose the right one with client_id=",
    ),
    Row(
        "wrong-role",
        LoginError,
        r"AAD_AUTH_TOKENTYPE|Service Principals cannot generate|(Azure AD|Entra) user token for",
        "the token is of somebody else than role {user}. Leave out user= to sign in under the "
        "token's own name (names are case-sensitive), choose another identity with credential= or "
        'client_id=, or name a group that it is in, user="<the group\'s name>" (a managed '
        "identity's new membership may take 24 h to count)",
    ),
    # github.com/Azure/azure-postgresql/issues/132
    Row(
        "server-fault",
        LoginError,
        r"cannot read pg_class without having selected a database",
        "Azure's PostgreSQL 18 had this fault with Microsoft Entra: ask Azure's support for its "
        "repair, and until then sign in with a password",
    ),
    # github.com/pgbouncer/pgbouncer/issues/874
    Row(
        "pgbouncer-password-length",
        LoginError,
        r"client sent partial pkt in startup phase|(password|packet|pkt) too long|password packet",
        "the {secret} has {secret_length} bytes, and PgBouncer takes 2047: write pgbouncer=False "
        "to go to the server itself, or sign in as a managed identity, whose tokens are shorter",
    ),
    # The role and the database
    Row(
        "no-login",
        LoginError,
        r"is not permitted to log in",
        "let it: ALTER ROLE {name} LOGIN",
    ),
    Row(
        "no-connect",
        LoginError,
        r"permission denied for database .*\s.*CONNECT privilege",
        "let the role in: GRANT CONNECT ON DATABASE {database} TO {name}",
    ),
    Row(
        "login",
        LoginError,
        r"authentication failed for user|(password|SASL) authentication failed|no such user",
        "{login}",
    ),
    Row(
        "no-role",
        LoginError,
        r'role "[^"]*" does not exist',
        "create the role, CREATE ROLE {name} LOGIN, or correct user= (names are case-sensitive)",
    ),
    Row(
        "no-database",
        LoginError,
        r'database "[^"]*" does not exist|no such database|is not currently accepting connections',
        "correct dbname= (left out with a password, it is the user's name), or CREATE DATABASE "
        "{database}. SELECT datname FROM pg_database tells which there are",
    ),
    Row(
        "firewall",
        LoginError,
        rf"{_HBA[:-2]}(?!.*({_IN_CLEAR}))",
        "the server does not let {client} in: add a firewall rule for it (portal: Networking), or "
        "connect through the private endpoint",
    ),
    Row(
        "no-tls",
        LoginError,
        _HBA + rf"({_IN_CLEAR})|SSL connection is required|(SSL|TLS connection) required",
        "the server takes only TLS: leave out sslmode, azpg asks for verify-full",
    ),
    Row(
        "startup-parameter",
        LoginError,
        r"unsupported (options )?startup parameter",
        "PgBouncer takes no options= and no other setting from a connection: set it once for the "
        "role, ALTER ROLE {name} IN DATABASE {database} SET search_path = …, or go to the server "
        "itself with pgbouncer=False",
    ),
    Row(
        "server-option",
        LoginError,
        r"unrecognized configuration parameter|invalid value for parameter",
        "the server does not take a setting of options= (or PGOPTIONS), of client_encoding= or of "
        "the role (ALTER ROLE {name} RESET ALL drops those): correct it",
    ),
    Row(
        "auth-method",
        LoginError,
        r"channel binding (is )?required",
        "channel_binding=require (or PGCHANNELBINDING) wants SCRAM, and a Microsoft Entra token "
        "goes without: leave it out, the token is safe in verified TLS",
    ),
    Row(
        "auth-method",
        LoginError,
        r"authentication method requirement",
        "the server asks for another way to sign in than require_auth (or PGREQUIREAUTH) allows: "
        "leave it out; a Microsoft Entra token goes as a password, inside TLS",
    ),
    Row(
        "auth-method",
        LoginError,
        r"no password supplied",
        "the server asks for a password: give password=, or leave it out altogether (an empty one "
        "counts) to sign in with a Microsoft Entra token",
    ),
)
