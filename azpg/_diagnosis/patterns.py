"""The error messages of drivers and servers: one table of patterns, each with its hint.

libpq reports no SQLSTATE for a failed connect, so its message is all that there is to classify.
The messages change between versions, so the patterns are loose. A message that no pattern matches
is passed on unchanged.

What the hints say of Azure, where no other source is named: TLS 1.2 and 1.3 and no client
certificates from MicrosoftDocs/azure-databases-docs, articles/postgresql/security/security-tls.md,
roles from security-entra-configure.md and security-manage-entra-users.md there, PgBouncer from
connectivity/concepts-pgbouncer.md (checked 2026-11-27).
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple


class Pattern(NamedTuple):
    """One meaning of an error message.

    Several patterns can have the same kind, and then differ in their hint only.
    """

    kind: str
    """one of `errors.KINDS`"""
    regex: str
    """searched for case-insensitively; `compile_pattern` compiles it"""
    hint: str
    """a template: `hints.write_hint` fills in the `{...}`"""
    every_host: bool = False
    """it has this meaning only if every host answered with it"""


@cache
def compile_pattern(regex: str) -> re.Pattern[str]:
    """Compile a regular expression on first use: most programs see no error at all."""
    return re.compile(regex, re.IGNORECASE)


EVENT_LOOP_HINT = (
    "replace asyncio.run(main()) by: with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) "
    "as runner: runner.run(main()) (with uvicorn: --loop asyncio:SelectorEventLoop)"
)
"""It runs on every supported Python: asyncio.run has loop_factory= from 3.12 on."""

_PG_HBA = r"(no pg_hba\.conf entry|pg_hba\.conf rejects)"
_UNENCRYPTED = r"no encryption|SSL off"

# The most specific pattern first, because one message can contain the errors of several attempts.
PATTERNS = (
    # Configuration
    Pattern(
        "config",
        r"^(connection is bad: )?(connection to server at [^\n]* failed: )?"
        r"(invalid \S+ value|weak sslmode|could not match|could not parse network address)",
        "",
    ),
    Pattern(
        "file-descriptors",
        r"^((?!FATAL:).)*Too many open files",
        "this process has no file descriptor left: close some{ulimit}",
    ),
    # Token. Azure documents none of these messages (2026-11-27); they are from public issues and
    # forums
    Pattern(
        "token-expired",
        r"access token has expired",
        "{expired}",
    ),
    Pattern(
        "token-audience",
        r"valid audience claim",
        "{audience}",
    ),
    Pattern(
        "token-invalid",
        r"access token (has invalid format|does ?n.t have|does not have)|"
        r"validating the access token",
        "{token}",
    ),
    # github.com/cyrilgdn/terraform-provider-postgresql/issues/423
    Pattern(
        "wrong-object-id",
        r"oid mismatch for role",
        "{object_id}",
    ),
    Pattern(
        "wrong-role",
        r"AAD_AUTH_TOKENTYPE|Service Principals cannot generate|(Azure AD|Entra) user token for",
        "{wrong_role}",
    ),
    # Reported in Azure/azure-postgresql#132 (2026-11-27).
    Pattern(
        "server-fault",
        r"cannot read pg_class without having selected a database",
        "Azure's PostgreSQL 18 had this fault with Microsoft Entra: ask Azure's support for its "
        "repair, and until then sign in with a password",
    ),
    # Azure documents the fix (2026-11-27): MicrosoftDocs/azure-databases-docs,
    # articles/postgresql/release-notes-maintenance/2026-april.md
    Pattern(
        "pgbouncer-password-length",
        r"client sent partial pkt",
        "the {secret} has {secret_length} bytes. Azure's PgBouncer took about 4,080 until the "
        "server's maintenance after 2026-04-22 (portal: Maintenance): until then write "
        "⟦pgbouncer=False⟧ to connect to the server itself",
    ),
    # Role and database
    Pattern(
        "no-login",
        r"is not permitted to log in",
        "let it: ALTER ROLE {role} LOGIN",
    ),
    Pattern(
        "no-connect",
        r"permission denied for database .*\s.*CONNECT privilege",
        "let the role in: GRANT CONNECT ON DATABASE {database} TO {role}",
    ),
    Pattern(
        "login",
        r"authentication failed for user|(password|SASL) authentication failed|no such user",
        "{login}",
    ),
    Pattern(
        "no-role",
        r'role "[^"]*" does not exist',
        "{no_role}",
    ),
    Pattern(
        "no-database",
        r"database .*is disabled",
        "this database is disabled in PgBouncer: ⟦pgbouncer=False⟧ connects to the server itself",
    ),
    Pattern(
        "no-database",
        r'database "[^"]*" does not exist|no such database|is not currently accepting connections',
        "correct ⟦dbname=⟧ (left out with a password, it is the user's name), or CREATE DATABASE "
        "{database}. SELECT datname FROM pg_database tells which there are",
    ),
    Pattern(
        "firewall",
        rf"{_PG_HBA} (?!.*({_UNENCRYPTED}))",
        "the server does not let {client_address} in: add a firewall rule for it (portal: "
        "Networking), or connect through the private endpoint",
    ),
    Pattern(
        "no-tls",
        rf"{_PG_HBA} .*({_UNENCRYPTED})|SSL connection is required|(SSL|TLS connection) required",
        "the server takes only TLS: leave out sslmode, azpg asks for verify-full",
    ),
    Pattern(
        "startup-parameter",
        r"unsupported (options )?startup parameter(( in options)?: (?P<setting>[a-z_.]+))?",
        "{startup_parameter}",
    ),
    Pattern(
        "server-option",
        r"unrecognized configuration parameter|invalid value for parameter",
        "the server does not take a setting of ⟦options=⟧ (or PGOPTIONS), of ⟦client_encoding=⟧ or "
        "of the role (ALTER ROLE {role} RESET ALL drops those): correct it",
    ),
    Pattern(
        "auth-method",
        r"channel binding (is )?required",
        "⟦channel_binding=require⟧ (or PGCHANNELBINDING) wants SCRAM, and a Microsoft Entra token "
        "goes without: leave it out, the token is safe in verified TLS",
    ),
    Pattern(
        "auth-method",
        r"authentication method requirement",
        "the server asks for another way to sign in than require_auth (or PGREQUIREAUTH) allows: "
        "leave it out; a Microsoft Entra token goes as a password, inside TLS",
    ),
    Pattern(
        "auth-method",
        r"no password supplied",
        "the server asks for a password: give ⟦password=⟧, or leave it out altogether (an empty "
        "one counts) to sign in with a Microsoft Entra token",
    ),
    # TLS
    Pattern(
        "certificate-name",
        r"certificate for .* does not match|does not match host name",
        "{certificate_name}",
    ),
    Pattern(
        "root-file",
        r"root certificate file|root\.crt|no certificate or crl found",
        "sslrootcert (or PGSSLROOTCERT) names a file that is not there or holds no PEM "
        "certificates: leave it out for Azure's own roots",
    ),
    Pattern(
        "client-certificate",
        r"certificate file|private key file",
        "Azure asks for no client certificate: leave out sslcert and sslkey (or PGSSLCERT and "
        "PGSSLKEY)",
    ),
    Pattern(
        "certificate",
        r"certificate has expired|certificate is not yet valid",
        "the certificate or its root has expired, or is not valid yet: check this machine's "
        "clock{timedatectl}. {roots}azpg doctor shows the dates. {own_machine}",
    ),
    Pattern(
        "certificate",
        r"self.signed certificate",
        "the chain ends in a self-signed root that is not trusted: that of a TLS-inspecting proxy "
        "between you and {host}, or a private one. {roots}azpg doctor shows its name. "
        "{own_machine}",
    ),
    Pattern(
        "certificate",
        r"unable to get (local )?issuer|unable to verify the (first|leaf)",
        "the chain ends in a root that is not trusted, or the server did not send all of it: "
        "azpg doctor tells which. {roots}{new_root}{own_machine}",
    ),
    Pattern(
        "certificate",
        r"certificate verify failed",
        "{roots}azpg doctor tells whether the cause is a TLS-inspecting proxy between "
        "you and {host}, an incomplete chain, a root that is not pinned, or an expired "
        "certificate. {new_root}{own_machine}",
    ),
    Pattern(
        "tls-refused",
        r"does not support SSL|server refused (SSL|TLS)",
        "Azure always has TLS, so this is not its server or something in between took TLS away; "
        "nothing was sent. {own_machine}",
    ),
    Pattern(
        "direct-tls",
        r"direct SSL connection|ALPN",
        "leave out ⟦sslnegotiation=direct⟧: this server does not take it",
    ),
    Pattern(
        "tls",
        r"SSL error(?!: unexpected eof)|TLSv1 alert|wrong version number|unsupported protocol|"
        r"invalid response to SSL negotiation|after SSL response",
        "no TLS connection could be made: check that {place} is the PostgreSQL server, not "
        "a proxy or another service. Azure takes TLS 1.2 and 1.3",
    ),
    # Connection limits
    Pattern(
        "too-many-connections",
        r"too many connections for (role|database)",
        "the role or database has a limit of its own: use fewer connections, or raise it, ALTER "
        "ROLE {role} (or DATABASE {database}) CONNECTION LIMIT …",
    ),
    Pattern(
        "too-many-connections",
        r"too many (clients|connections)|remaining connection slots",
        "the server's connections are used up (max_connections): make pools smaller, counting one "
        "for each process, or share them through PgBouncer (⟦pgbouncer=True⟧)",
    ),
    Pattern(
        "too-many-connections",
        r"no more connections allowed|client connections exceeded",
        "PgBouncer's places are used up (server parameter pgbouncer.max_client_conn): make pools "
        "smaller, counting one for each process",
    ),
    Pattern(
        "too-many-connections",
        r"query_wait_timeout",
        "PgBouncer had no server connection free: end transactions sooner, raise server parameter "
        "pgbouncer.default_pool_size, or see with ⟦pgbouncer=False⟧ whether the server is up",
    ),
    # Read-only
    Pattern(
        "no-replica",
        r"session is not read-only|server is not in hot standby",
        "no host is a read replica, and a primary does not become one: name the replica in "
        '⟦host=⟧, or pass ⟦target_session_attrs="prefer-standby"⟧, which takes the primary if '
        "there is no replica",
        every_host=True,
    ),
    Pattern(
        "session-attrs",
        r"session is (not )?read-only|server is (not )?in hot standby|target_session_attrs",
        "no server is what target_session_attrs asks for. A failover fixes that in two minutes; "
        "else name the right server (a replica never becomes writable by itself), and look at the "
        "primary's storage: full, it is read-only",
    ),
    Pattern(
        "read-only",
        r"in a read-only transaction",
        "SELECT pg_is_in_recovery() tells which: true, and this is a replica, or was the primary "
        "before a failover: connect again, to the primary's name. False, and the storage is more "
        "than 95 % full: enlarge it (portal: Compute + storage). Or you asked for read-only",
    ),
    Pattern(
        "storage-full",
        r"No space left on device|disk full",
        "the server's storage is full: enlarge it (portal: Compute + storage), and turn on "
        "autogrow",
    ),
    # Startup, shutdown, timeouts of the server
    Pattern(
        "starting",
        r"database system is (starting up|shutting down|in recovery|not (yet )?accept)|"
        r"crash of another server process|server shutting down|"
        r"client_login_timeout \(server down\)|immediate shutdown|unexpected postmaster exit|"
        r"server conn crashed",
        "the server is restarting or failing over, which takes up to two minutes: connect again",
    ),
    Pattern(
        "starting",
        r"admin forced disconnect|connections dropped, exiting|evicted( for|\s*$)|"
        r"pooler is shutting down|suspend_timeout|"
        r"database configuration changed|connect string changed",
        "PgBouncer ended this connection, because it restarts or was told to: connect again",
    ),
    Pattern(
        "starting",
        r"administrator command",
        "the server is restarting or failing over, which takes up to two minutes, or somebody "
        "ended this session with pg_terminate_backend: connect again",
    ),
    Pattern(
        "idle",
        r"idle-session timeout|idle.in.transaction timeout|idle.transaction.timeout|"
        r"client_idle_timeout",
        "the server closed what did nothing for too long: end transactions at once, and let a "
        "pool keep connections (⟦max_idle=⟧ below the server's limit)",
    ),
    Pattern(
        "query-timeout",
        r"\bquery.timeout|\btransaction.timeout",
        "the query or transaction took longer than PgBouncer allows: make it faster, raise the "
        "server parameter pgbouncer.query_timeout (or transaction_timeout), or run it with "
        "⟦pgbouncer=False⟧",
    ),
    # Network
    Pattern(
        "resolver",
        r"temporary failure in name resolution|Errno -3\]|Errno 11002\]|: Try again",
        "the resolver itself gave no answer, so {address} may well exist: check the network, VPN "
        "and DNS here (in Kubernetes: CoreDNS)",
    ),
    Pattern(
        "unknown-host",
        r"failed to resolve host|could not translate host name|name or service not known|"
        r"nodename nor servname|getaddrinfo failed|Name does not resolve",
        "check the spelling of {address}; a server with private access has a name only inside its "
        "virtual network, where its private DNS zone is linked",
    ),
    Pattern(
        "timeout",
        r"timeout expired|timed out|did not properly respond|/10060\)",
        "no answer from {address} on port {port}: {no_answer}",
    ),
    Pattern(
        "no-socket",
        r"on socket .*(No such file or directory|refused)",
        'no server has this Unix socket: name the server, ⟦server="myserver"⟧',
    ),
    Pattern(
        "refused",
        r"connection refused|actively refused|/10061\)",
        "{port_closed}",
    ),
    Pattern(
        "no-route",
        r"network is unreachable|unreachable (network|host)|no route to host|/10051\)|/10065\)|"
        r"cannot assign requested address",
        "no way leads from here to {address}: check the network, the VPN, and whether it has IPv6 "
        "at all",
    ),
    Pattern(
        "cut",
        r"server closed the connection|connection reset|EOF detected|unexpected eof|broken pipe|"
        r"forcibly closed|connection abort|/10054\)|SSL connection has been closed|"
        r"could not (send|receive)|response during SSL exchange|connection is lost",
        "the connection was cut on its way to {address}: a restart, or a firewall in between. "
        "Connect again",
    ),
    Pattern(
        "protocol",
        r"(expected|invalid) authentication request|unexpected response from server|"
        r"lost synchronization with server|authentication method \d+ not supported|"
        r"SASL authentication mechanisms are supported|unsupported (SASL )?authentication|"
        r"error while performing authentication|cannot read the server's answer|"
        r"error sending password authentication",
        "what answered does not follow PostgreSQL's protocol: check that {place} is the "
        "PostgreSQL server or its PgBouncer, not a proxy or another service",
    ),
    # PgBouncer in general. After the patterns above, because its messages can quote their errors
    Pattern(
        "pgbouncer-server",
        r"server login (has been|failed)|client_login_timeout|pgbouncer cannot connect|"
        r"pgbouncer error|server DNS lookup failed",
        "PgBouncer cannot sign in to the server behind it, and tries again only every 15 s: is "
        "there such a database and user? ⟦pgbouncer=False⟧ goes there directly and says more",
    ),
    # Queries
    Pattern(
        "prepared-statement",
        r"prepared statement .*(does not exist|did not exist|already exists|already in use)|"
        r"bind message supplies \d+ parameters?, but prepared statement",
        "PgBouncer gives each transaction another server connection: pass ⟦prepare_threshold=None⟧ "
        "(⟦pgbouncer=True⟧ does) and no prepare=True, or let PgBouncer keep track with server "
        "parameter pgbouncer.max_prepared_statements above 0",
    ),
    # Reported in public threads (2026-11-27)
    Pattern(
        "extension",
        r"is not allow-listed for",
        "add the extension to the server parameter azure.extensions (portal: Server parameters), "
        "then CREATE EXTENSION in this database",
    ),
    Pattern(
        "extension",
        r'type "[^"]*" does not exist|vector type not found in the database',
        "if it is an extension's type, such as vector: add the extension to the server parameter "
        "azure.extensions (portal: Server parameters), then run CREATE EXTENSION vector in this "
        "database. If the extension is there, add its schema to search_path",
    ),
    Pattern(
        "permission",
        r"permission denied for (?P<object_type>schema|table|sequence|function|database) "
        r'"?(?P<object_name>[^"\n]*)',
        "let its owner or an administrator grant what the query needs: GRANT {privilege} ON "
        "{object_type} {object_name} TO {role}{or_more}",
    ),
    Pattern(
        "permission",
        r"permission denied|must be (owner|member|superuser)|row-level security",
        "the role may not do that: let the owner grant it, or sign in as a role that may, ⟦user=⟧",
    ),
    # psycopg and its pool, whose messages are the least specific
    Pattern(
        "event-loop",
        r"ProactorEventLoop",
        EVENT_LOOP_HINT,
    ),
    Pattern(
        "closed",
        r"connection is closed|consuming input failed|sending query failed",
        "this connection ended before, and its first error says why: take another one, from a "
        "pool for each piece of work",
    ),
    Pattern(
        "pool-timeout",
        r"couldn't get a connection|pool initialization incomplete|requests waiting",
        "all of the pool's connections are in use, or none can be made (then its log says why): "
        "give them back sooner, `with pool.connection() as conn:`, or raise ⟦max_size=⟧",
    ),
    Pattern(
        "pool-closed",
        r"the pool .* is (not open yet|already closed)|pool has already been opened/closed",
        "open it once, at the program's start, with pool.open() or `with pool:`, and close it at "
        "the end; an opened pool does not survive being closed",
    ),
)

SQLSTATES = {
    "08P01": "",
    "0A000": "",
    "25006": "read-only",
    "25P03": "idle",
    "26000": "prepared-statement",
    "28000": "",
    "28P01": "login",
    "3D000": "no-database",
    "42501": "permission",
    "42704": "",
    "42P05": "prepared-statement",
    "53100": "storage-full",
    "53300": "too-many-connections",
    "57P01": "starting",
    "57P02": "starting",
    "57P03": "starting",
    "57P05": "idle",
}
"""SQLSTATE to kind, for a server whose messages are not in English. A SQLSTATE without a kind is
used for too many errors."""
