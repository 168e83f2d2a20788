"""What a driver's text means: every row of the table is hit by a text that was really seen."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

import azpg
from azpg import _diagnose

HOST = "myserver.postgres.database.azure.com"
AT = 'connection failed: connection to server at "192.0.2.1", port 5432 failed: '
FATAL = AT + "FATAL:  "
CONTEXT = _diagnose.Context(
    host=HOST,
    port="5432",
    user="alice",
    entra=True,
    scope=azpg.AZURE_PUBLIC.scope,
    secret_length=5000,
)

# kind -> its error, whether it may mend itself, and texts: Azure's, PostgreSQL's, PgBouncer's,
# libpq's and psycopg's, older wordings beside newer ones
SEEN: dict[str, tuple[type[azpg.ConnectError], bool, list[str]]] = {
    "config": (
        azpg.ConnectError,
        False,
        [
            'connection is bad: invalid channel_binding value: "x"',
            'connection is bad: invalid "ssl_min_protocol_version" value: "x"',
            (
                'connection is bad: connection to server at "127.0.0.1", port 5432 failed: '
                'invalid integer value "x" for connection option "keepalives_idle"'
            ),
            (
                'connection is bad: weak sslmode "require" may not be used with sslrootcert=system '
                '(use "verify-full")'
            ),
            "could not match 2 port numbers to 1 hosts",
            'connection is bad: could not parse network address "x": Name or service not known',
        ],
    ),
    "token-expired": (
        azpg.LoginError,
        False,
        [
            FATAL + "The access token has expired. Please acquire a new token and retry.",
            FATAL + "Access token has expired. Acquire a new token and try again.",
        ],
    ),
    "token-audience": (
        azpg.LoginError,
        False,
        [
            FATAL + "The access token does not have a valid audience claim. Please acquire a new "
            "token for the resource https://ossrdbms-aad.database.windows.net",
        ],
    ),
    "token-invalid": (
        azpg.LoginError,
        False,
        [
            FATAL + "The access token has invalid format. Please ensure the token is passed "
            "exactly as returned",
            FATAL + "The access token doesn't have a valid oid claim",
            FATAL + "An error occurred while validating the access token. Please acquire a new "
            "token and retry",
        ],
    ),
    "wrong-role": (
        azpg.LoginError,
        False,
        [
            FATAL + "Service Principals cannot generate AAD_AUTH_TOKENTYPE_APP_USER tokens for "
            "role[x]",
            FATAL + 'Service Principals cannot generate AAD_AUTH_TOKENTYPE_APP_USER for role "x"',
            FATAL + "Azure AD user token for role[x] is neither an AAD_AUTH_TOKENTYPE_APP_USER "
            "or an AAD_AUTH_TOKENTYPE_APP_OBO token.",
            FATAL + 'Microsoft Entra user token for role "x" is neither of them',
        ],
    ),
    "pgbouncer-password-length": (azpg.LoginError, False, [FATAL + "packet too long"]),
    "login": (
        azpg.LoginError,
        False,
        [
            FATAL + 'password authentication failed for user "x"',
            FATAL + "SASL authentication failed",
            FATAL + "no such user: x",
        ],
    ),
    "no-role": (azpg.LoginError, False, [FATAL + 'role "x" does not exist']),
    "no-database": (
        azpg.LoginError,
        False,
        [FATAL + 'database "x" does not exist', FATAL + "no such database: x"],
    ),
    "no-tls": (
        azpg.LoginError,
        False,
        [
            FATAL + 'no pg_hba.conf entry for host "1", user "u", database "d", no encryption',
            FATAL + 'no pg_hba.conf entry for host "1", user "u", database "d", SSL off',
            FATAL + "SSL connection is required. Specify SSL options and retry.",
            FATAL + "SSL required",
        ],
    ),
    "firewall": (
        azpg.LoginError,
        False,
        [
            FATAL + 'no pg_hba.conf entry for host "1", user "u", database "d", SSL encryption',
            FATAL + 'no pg_hba.conf entry for host "1", user "u", database "d", SSL on',
        ],
    ),
    "startup-parameter": (
        azpg.LoginError,
        False,
        [
            FATAL + "unsupported startup parameter: extra_float_digits",
            FATAL + "unsupported startup parameter in options: search_path",
            FATAL + "unsupported options startup parameter: only '-c config=val' and "
            "'--config=val' are allowed",
        ],
    ),
    "auth-method": (
        azpg.LoginError,
        False,
        [
            AT + 'authentication method requirement "scram-sha-256" failed: server requested a '
            "cleartext password",
            AT + "fe_sendauth: no password supplied",
            AT + "channel binding required, but server authenticated client without it",
        ],
    ),
    "certificate-name": (
        azpg.TLSError,
        False,
        [
            AT + 'server certificate for "a.example" does not match host name "b.example"',
            AT + 'server certificate for "a" (and 2 other names) does not match host name "b"',
        ],
    ),
    "root-file": (
        azpg.TLSError,
        False,
        [
            AT + 'root certificate file "/x" does not exist\nEither provide the file, use the '
            "system's trusted roots with sslrootcert=system, or change sslmode to disable server "
            "certificate verification.",
            AT + 'could not read root certificate file "/x": no certificate or crl found',
        ],
    ),
    "certificate": (
        azpg.TLSError,
        False,
        [
            AT + "SSL error: certificate verify failed",
            AT + "SSL error: certificate verify failed: self-signed certificate in chain",
            AT + "SSL error: self signed certificate",
            AT + "unable to get local issuer certificate",
        ],
    ),
    "tls-refused": (
        azpg.TLSError,
        False,
        [
            AT + "server does not support SSL, but SSL was required",
            AT + "SSL error: unsupported protocol\nThis may indicate that the server does not "
            "support any SSL protocol version between TLSv1.2 and TLSv1.3.",
        ],
    ),
    "direct-tls": (
        azpg.TLSError,
        False,
        [
            AT + "direct SSL connection was established without ALPN protocol negotiation "
            "extension",
            AT + "SSL error: tlsv1 alert no application protocol (ALPN)",
        ],
    ),
    "tls": (
        azpg.TLSError,
        False,
        [
            AT + "SSL error: sslv3 alert handshake failure",
            AT + "SSL error: wrong version number",
            AT + "SSL error: tlsv1 alert unknown ca",
        ],
    ),
    "too-many-connections": (
        azpg.ConnectError,
        True,
        [
            FATAL + "sorry, too many clients already",
            FATAL + 'too many connections for role "x"',
            FATAL + "remaining connection slots are reserved for roles with the SUPERUSER "
            "attribute",
            FATAL + "no more connections allowed (max_client_conn)",
            FATAL + "client connections exceeded (max_user_client_connections)",
        ],
    ),
    "starting": (
        azpg.ConnectError,
        True,
        [
            FATAL + "the database system is starting up",
            FATAL + "the database system is shutting down",
            FATAL + "the database system is in recovery mode",
            FATAL + "the database system is not yet accepting connections",
            FATAL + "the database system is not accepting connections",
            FATAL + "terminating connection due to administrator command",
            FATAL + "terminating connection because of crash of another server process",
            FATAL + "query_wait_timeout",
            FATAL + "client_login_timeout (server down)",
            FATAL + "server login has been failing, cached error: connect failed",
            FATAL + "server shutting down",
        ],
    ),
    "unknown-host": (
        azpg.UnreachableError,
        False,
        [
            "failed to resolve host 'x': [Errno -2] Name or service not known",
            "failed to resolve host 'x': [Errno 11001] getaddrinfo failed",
            'could not translate host name "x" to address: nodename nor servname provided',
        ],
    ),
    "timeout": (
        azpg.ConnectTimeoutError,
        True,
        ["connection timeout expired", AT + "timeout expired", AT + "Connection timed out"],
    ),
    "refused": (
        azpg.UnreachableError,
        True,
        [
            AT + "Connection refused\n\tIs the server running on that host and accepting TCP/IP "
            "connections?",
        ],
    ),
    "no-socket": (
        azpg.UnreachableError,
        True,
        [
            (
                'connection failed: connection to server on socket "/tmp/.s.PGSQL.5432" failed: '
                "No such file or directory\n\tIs the server running locally and accepting "
                "connections on that socket?"
            ),
        ],
    ),
    "cut": (
        azpg.UnreachableError,
        True,
        [
            AT + "server closed the connection unexpectedly\n\tThis probably means the server "
            "terminated abnormally before or while processing the request.",
            AT + "could not receive data from server: Connection reset by peer",
            AT + "SSL SYSCALL error: EOF detected",
            AT + "SSL SYSCALL error: Connection reset by peer",
            AT + "SSL error: unexpected eof while reading",
            AT + "Network is unreachable",
            AT + "No route to host",
        ],
    ),
}
TEXTS = [(kind, text) for kind, (_, _, texts) in SEEN.items() for text in texts]


@pytest.mark.parametrize(("kind", "text"), TEXTS)
@pytest.mark.parametrize("change", [str, str.upper, str.lower])
def test_a_text_that_was_seen_is_known(kind: str, text: str, change: type[str]) -> None:
    """Its kind, its class and whether it may mend itself, in capitals or not."""
    if kind == "direct-tls" and change is str.lower:
        text = text.replace("ALPN", "alpn")
    found = _diagnose.diagnose(change(text), CONTEXT)
    error, transient, _ = SEEN[kind]
    assert (found.kind, found.error, found.transient) == (kind, error, transient)


def test_every_row_of_the_table_has_been_seen() -> None:
    """No row stands there on a guess, and every one says what to type."""
    assert [row.kind for row in _diagnose._TABLE] == list(SEEN)
    assert all(row.hint for row in _diagnose._TABLE if row.kind != "config")


def test_the_transient_are_those_of_the_table() -> None:
    """And a credential that took too long."""
    transient = {kind for kind, (_, transient, _) in SEEN.items() if transient}
    assert transient | {"credential-timeout"} == _diagnose.TRANSIENT


@pytest.mark.parametrize("text", ["", "something new", FATAL + "bouncer config error"])
def test_a_text_that_none_knows_passes(text: str) -> None:
    """No guess: a ConnectError without a hint, and not tried again."""
    assert _diagnose.diagnose(text, CONTEXT) == ("unknown", azpg.ConnectError, False, "")


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["Connection refused", "SSL error: certificate verify failed"], "certificate"),
        (["Network is unreachable", 'FATAL:  role "x" does not exist'], "no-role"),
        (["timeout expired", "Connection refused"], "timeout"),
        (["FATAL:  the database system is starting up", "Connection refused"], "starting"),
        (["Connection refused", "FATAL:  The access token has expired."], "token-expired"),
    ],
)
def test_the_telling_one_of_several_attempts_counts(texts: list[str], kind: str) -> None:
    """In whichever order psycopg joins them: the last does not hide the first."""
    for said in (texts, texts[::-1]):
        joined = f"{AT}{said[-1]}\nMultiple connection attempts failed. All failures were:\n"
        joined += "".join(f"- host: 'a', port: '5432', hostaddr: '192.0.2.1': {t}\n" for t in said)
        assert _diagnose.diagnose(joined, CONTEXT).kind == kind


def test_a_servers_own_words_are_no_config_error() -> None:
    """Only libpq's text, which stands first, means the call: not what a server says."""
    assert _diagnose.diagnose(FATAL + 'invalid foo value: "x"', CONTEXT).kind == "unknown"


@pytest.mark.parametrize(
    "words",
    [
        {"ssl_min_protocol_version": "x"},
        {"keepalives_idle": "x"},
        {"load_balance_hosts": "x"},
        {"sslmode": "require", "sslrootcert": "system"},
        {"sslnegotiation": "direct", "sslmode": "prefer"},
        {"hostaddr": "x"},
    ],
)
def test_what_libpq_refuses_is_a_config_error(words: dict[str, Any]) -> None:
    """A value that azpg passes on untouched and libpq does not take, in libpq's own words."""
    with pytest.raises(psycopg.OperationalError) as theirs:
        psycopg.connect(host="localhost", password="s3cret", **words)
    with pytest.raises(azpg.ConfigError) as ours:
        azpg.connect(host="localhost", password="s3cret", **({"sslmode": "disable"} | words))
    assert str(ours.value).split(":")[-1] == str(theirs.value).split(":")[-1]


@pytest.mark.parametrize(("kind", "text"), TEXTS)
def test_a_hint_is_filled_in(kind: str, text: str) -> None:
    """No template shows through."""
    told = _diagnose.diagnose(text, CONTEXT).hint
    assert "{" not in told
    assert "None" not in told
