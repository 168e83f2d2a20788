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
        "this process has no file descriptors left: close some{ulimit}",
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
        "Azure's PostgreSQL 18 had this fault with Microsoft Entra: ask Azure's support to fix it, "
        "and until then pass ⟦password=⟧ of a PostgreSQL role",
    ),
    # Azure documents the fix (2026-11-27): MicrosoftDocs/azure-databases-docs,
    # articles/postgresql/release-notes-maintenance/2026-april.md
    Pattern(
        "pgbouncer-password-length",
        r"client sent partial pkt",
        "the {secret} has {secret_length} bytes. Azure's PgBouncer accepted about 4,080 before the "
        "server's maintenance after 2026-04-22 (portal: Maintenance): until then pass "
        "⟦pgbouncer=False⟧ to connect without PgBouncer",
    ),
    # Role and database
    Pattern(
        "no-login",
        r"is not permitted to log in",
        "allow it: ALTER ROLE {role} LOGIN",
    ),
    Pattern(
        "no-connect",
        r"permission denied for database .*\s.*CONNECT privilege",
        "allow it: GRANT CONNECT ON DATABASE {database} TO {role}",
    ),
    Pattern(
        "login",
        r"authentication failed for user|(password|SASL) authentication failed|no such user",
        "{login}",
    ),
    Pattern(
        "no-role",
        r'role "[^\n]*" does not exist',
        "{no_role}",
    ),
    Pattern(
        "no-database",
        r"database .*is disabled",
        "this database is disabled in PgBouncer: pass ⟦pgbouncer=False⟧ to connect without it",
    ),
    Pattern(
        "no-database",
        r'database "[^\n]*" does not exist|no such database|is not currently accepting connections',
        "{odd_database}correct ⟦dbname=⟧ (its default with a password is the user's name), or "
        "CREATE DATABASE {database}. SELECT datname FROM pg_database lists the databases",
    ),
    Pattern(
        "firewall",
        rf"{_PG_HBA} (?!.*({_UNENCRYPTED}))",
        "add a firewall rule for {client_address} (portal: Networking), or connect through the "
        "private endpoint",
    ),
    Pattern(
        "no-tls",
        rf"{_PG_HBA} .*({_UNENCRYPTED})|SSL connection is required|(SSL|TLS connection) required",
        "the server requires TLS: leave out sslmode, azpg uses verify-full",
    ),
    Pattern(
        "startup-parameter",
        r"unsupported (options )?startup parameter(( in options)?: (?P<setting>[a-z_.]+))?",
        "{startup_parameter}",
    ),
    Pattern(
        "server-option",
        r"unrecognized configuration parameter|invalid value for parameter",
        "the server rejects a setting: correct it in ⟦options=⟧ (or PGOPTIONS), "
        "⟦client_encoding=⟧ or the role (ALTER ROLE {role} RESET ALL removes those)",
    ),
    Pattern(
        "auth-method",
        r"channel binding (is )?required",
        "leave out ⟦channel_binding=require⟧ (or PGCHANNELBINDING): it requires SCRAM, which is "
        "not used for a Microsoft Entra token; verified TLS protects the token",
    ),
    Pattern(
        "auth-method",
        r"authentication method requirement",
        "leave out require_auth (or PGREQUIREAUTH), which does not allow the server's "
        "authentication method; a Microsoft Entra token is sent as a password, inside TLS",
    ),
    Pattern(
        "auth-method",
        r"no password supplied",
        "the server requires a password: pass ⟦password=⟧, or leave it out (do not pass an empty "
        "one) to authenticate with a Microsoft Entra token",
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
        "leave out sslrootcert (or unset PGSSLROOTCERT) to use the pinned roots: the file does not "
        "exist or contains no PEM certificates",
    ),
    Pattern(
        "client-certificate",
        r"certificate file|private key file",
        "leave out sslcert and sslkey (or unset PGSSLCERT and PGSSLKEY): Azure requests no client "
        "certificate",
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
        "run azpg doctor to see which. {roots}{new_root}{own_machine}",
    ),
    Pattern(
        "certificate",
        r"certificate verify failed",
        "{roots}run azpg doctor to see the cause: a TLS-inspecting proxy between you and {host}, "
        "an incomplete chain, a root that is not pinned, or an expired certificate. "
        "{new_root}{own_machine}",
    ),
    Pattern(
        "tls-refused",
        r"does not support SSL|server refused (SSL|TLS)",
        "Azure's servers always support TLS, so this is another server, or a proxy removes TLS; "
        "nothing was sent. {own_machine}",
    ),
    Pattern(
        "direct-tls",
        r"direct SSL connection|ALPN",
        "leave out ⟦sslnegotiation=direct⟧: this server does not support it",
    ),
    Pattern(
        "tls",
        r"SSL error(?!: unexpected eof)|TLSv1 alert|wrong version number|unsupported protocol|"
        r"invalid response to SSL negotiation|after SSL response",
        "no TLS connection could be made: check that {place} is the PostgreSQL server, not "
        "a proxy or another service. Azure supports TLS 1.2 and 1.3",
    ),
    # Connection limits
    Pattern(
        "too-many-connections",
        r"too many connections for (role|database)",
        "the role or database has its own limit: use fewer connections, or raise it, ALTER "
        "ROLE {role} (or DATABASE {database}) CONNECTION LIMIT …",
    ),
    Pattern(
        "too-many-connections",
        r"too many (clients|connections)|remaining connection slots",
        "all connections of the server are in use (max_connections): make connection pools smaller "
        "(each process has one), or use PgBouncer (⟦pgbouncer=True⟧)",
    ),
    Pattern(
        "too-many-connections",
        r"no more connections allowed|client connections exceeded",
        "PgBouncer has reached its limit of clients (server parameter pgbouncer.max_client_conn): "
        "make connection pools smaller (each process has one)",
    ),
    Pattern(
        "too-many-connections",
        r"query_wait_timeout",
        "PgBouncer had no free server connection: end transactions sooner, raise the server "
        "parameter pgbouncer.default_pool_size, or pass ⟦pgbouncer=False⟧ to see whether the "
        "server is up",
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
        "no server matches target_session_attrs. During a failover, wait two minutes. Otherwise "
        "name the right server (a replica does not become writable by itself), and check the "
        "primary's storage: if it is full, the server is read-only",
    ),
    Pattern(
        "read-only",
        r"in a read-only transaction",
        "run SELECT pg_is_in_recovery(). True: this is a replica, or the primary before a "
        "failover; connect again, to the primary's name. False: the storage is more than 95 % full "
        "(enlarge it, portal: Compute + storage), or your session is set to read-only",
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
        "PgBouncer closed this connection, because it restarts or by its administrator's command: "
        "connect again",
    ),
    Pattern(
        "starting",
        r"administrator command",
        "the server is restarting or failing over, which takes up to two minutes, or this session "
        "was ended with pg_terminate_backend: connect again",
    ),
    Pattern(
        "idle",
        r"idle-session timeout|idle.in.transaction timeout|idle.transaction.timeout|"
        r"client_idle_timeout",
        "the server closed an idle session or transaction: end transactions at once, and set the "
        "pool's ⟦max_idle=⟧ below the server's limit",
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
        "DNS did not answer, so {address} may exist: check the network, VPN and DNS of this "
        "machine (in Kubernetes: CoreDNS)",
    ),
    Pattern(
        "unknown-host",
        r"failed to resolve host|could not translate host name|name or service not known|"
        r"nodename nor servname|getaddrinfo failed|Name does not resolve",
        "check the spelling of {address}. The name of a server with private access exists only in "
        "virtual networks that its private DNS zone is linked to",
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
        "this machine has no route to {address}: check the network, the VPN, and whether it has "
        "IPv6",
    ),
    Pattern(
        "cut",
        r"server closed the connection|connection reset|EOF detected|unexpected eof|broken pipe|"
        r"forcibly closed|connection abort|/10054\)|SSL connection has been closed|"
        r"could not (send|receive)|response during SSL exchange|connection is lost",
        "the connection to {address} was closed by a restart, or by a firewall: connect again",
    ),
    Pattern(
        "protocol",
        r"(expected|invalid) authentication request|unexpected response from server|"
        r"lost synchronization with server|authentication method \d+ not supported|"
        r"SASL authentication mechanisms are supported|unsupported (SASL )?authentication|"
        r"error while performing authentication|cannot read the server's answer|"
        r"error sending password authentication",
        "the response does not follow PostgreSQL's protocol: check that {place} is the "
        "PostgreSQL server or its PgBouncer, not a proxy or another service",
    ),
    # PgBouncer in general. After the patterns above, because its messages can quote their errors
    Pattern(
        "pgbouncer-server",
        r"server login (has been|failed)|client_login_timeout|pgbouncer cannot connect|"
        r"pgbouncer error|server DNS lookup failed",
        "PgBouncer cannot connect to the server, and retries only every 15 s: check database and "
        "user, and pass ⟦pgbouncer=False⟧ to see the server's message",
    ),
    # Queries
    Pattern(
        "prepared-statement",
        r"prepared statement .*(does not exist|did not exist|already exists|already in use)|"
        r"bind message supplies \d+ parameters?, but prepared statement",
        "PgBouncer may run each transaction on another server connection: pass "
        "⟦prepare_threshold=None⟧ (⟦pgbouncer=True⟧ does) and no prepare=True, or set the server "
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
        "as its owner or an administrator, grant what the query needs: GRANT {privilege} ON "
        "{object_type} {object_name} TO {role}{or_more}",
    ),
    Pattern(
        "permission",
        r"permission denied|must be (owner|member|superuser)|row-level security",
        "the role may not do that: grant it as the owner, or connect as another role, ⟦user=⟧",
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
        "this connection was closed earlier, and its first error says why: open a new one, or get "
        "one from a connection pool for each unit of work",
    ),
    Pattern(
        "pool-timeout",
        r"couldn't get a connection|pool initialization incomplete|requests waiting",
        "all connections of the pool are in use, or none can be made (its log says why): return "
        "them sooner, `with pool.connection() as conn:`, or raise ⟦max_size=⟧",
    ),
    Pattern(
        "pool-closed",
        r"the pool .* is (not open yet|already closed)|pool has already been opened/closed",
        "open it once, when the program starts, with pool.open() or `with pool:`, and close it "
        "when the program ends; a closed pool cannot be opened again",
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
