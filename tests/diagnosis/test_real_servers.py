"""Classify the errors of real servers: each test provokes one."""

from __future__ import annotations

import contextlib
import re
import select
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import psycopg
import psycopg_pool
import pytest

import azpg
from azpg._diagnosis.patterns import PATTERNS

if TYPE_CHECKING:
    from fix_faults import Servers

pytestmark = pytest.mark.compat


Provoke: TypeAlias = "Callable[[Servers], object]"


class Failure(NamedTuple):
    """A failure: its kind, a part of its hint and of its message, and how to provoke it."""

    kind: str
    hint: str
    message: str
    provoke: Provoke


FAILURES: list[Failure] = []


def fails_with(kind: str, hint: str, message: str) -> Callable[[Provoke], Provoke]:
    """Add a function that provokes a failure to `FAILURES`."""

    def add(function: Provoke) -> Provoke:
        FAILURES.append(Failure(kind, hint, message, function))
        return function

    return add


# PostgreSQL


@fails_with("login", "check user='app' and its password", "password authentication failed")
def wrong_password(servers: Servers) -> None:
    servers.connect(password="wrong")


@fails_with("no-role", "create the role", 'role "nobody" does not exist')
def no_role(servers: Servers) -> None:
    psycopg.connect(host=servers.postgres.socket, port=servers.postgres.port, user="nobody")


@fails_with("no-database", 'CREATE DATABASE "none"', 'database "none" does not exist')
def no_database(servers: Servers) -> None:
    servers.connect(dbname="none")


@fails_with("no-login", 'ALTER ROLE "locked" LOGIN', "is not permitted to log in")
def no_login(servers: Servers) -> None:
    servers.admin("create role locked password 'x'")
    servers.connect(user="locked", password="x")


@fails_with("no-connect", "GRANT CONNECT ON DATABASE", "User does not have CONNECT")
def no_connect(servers: Servers) -> None:
    servers.admin("create database closed", "revoke connect on database closed from public")
    servers.connect(dbname="closed")


@fails_with("firewall", "firewall rule for 127.0.0.1", "pg_hba.conf rejects connection for host")
def firewall(servers: Servers) -> None:
    with servers.rule("hostssl all outsider all reject"):
        servers.connect(user="outsider")


@fails_with("server-option", "correct it", "unrecognized configuration parameter")
def server_option(servers: Servers) -> None:
    servers.connect(options="-c nonsense=1")


@fails_with(
    "auth-method", "leave out require_auth", 'requirement "password" failed: server requested SASL'
)
def auth_method(servers: Servers) -> None:
    servers.connect(require_auth="password")


@fails_with("auth-method", "pass password=", "fe_sendauth: no password supplied")
def no_password(servers: Servers) -> None:
    servers.connect(password="")


@fails_with("certificate-name", 'server="myserver", host="', "does not match host name")
def certificate_name(servers: Servers) -> None:
    servers.connect(host="db15.sub.postgres.database.azure.com")


@fails_with("client-certificate", "leave out sslcert", "certificate present, but not private key")
def client_certificate(servers: Servers) -> None:
    servers.connect(sslcert=servers.postgres.root)


@fails_with("tls", "TLS 1.2 and 1.3", "SSL error: no protocols available")
def tls(servers: Servers) -> None:
    servers.connect(ssl_min_protocol_version="TLSv1", ssl_max_protocol_version="TLSv1")


@fails_with("too-many-connections", 'ALTER ROLE "few"', 'too many connections for role "few"')
def few_connections(servers: Servers) -> None:
    servers.admin("create role few login password 'x' connection limit 0")
    servers.connect(user="few", password="x")


@fails_with("session-attrs", "name the right server", "session is read-only")
def session_attrs(servers: Servers) -> None:
    servers.connect(
        target_session_attrs="read-write", options="-c default_transaction_read_only=on"
    )


@fails_with("no-replica", "prefer-standby", "session is not read-only")
def no_reader(servers: Servers) -> None:
    servers.connect(target_session_attrs="read-only")


@fails_with("no-replica", "name the replica", "server is not in hot standby mode")
def no_standby(servers: Servers) -> None:
    servers.connect(target_session_attrs="standby")


@fails_with("read-only", "pg_is_in_recovery()", "cannot execute CREATE TABLE in a read-only")
def read_only(servers: Servers) -> None:
    with servers.opened(options="-c default_transaction_read_only=on") as conn:
        conn.execute("create table t()")


@fails_with(
    "permission", 'GRANT SELECT ON table "pg_authid"', "permission denied for table pg_authid"
)
def permission(servers: Servers) -> None:
    with servers.opened() as conn:
        conn.execute("select * from pg_authid")


@fails_with("extension", "azure.extensions", "is not allow-listed for")
def extension(servers: Servers) -> None:
    with azpg.connect(**servers.there) as conn:
        conn.execute("create extension pageinspect")


@fails_with("permission", "grant it as the owner", "must be owner of table pg_class")
def ownership(servers: Servers) -> None:
    with servers.opened() as conn:
        conn.execute("drop table pg_class")


@fails_with("starting", "connect again", "terminating connection due to administrator command")
def terminated(servers: Servers) -> None:
    with servers.opened() as conn:
        conn.execute("select pg_terminate_backend(pg_backend_pid())")


@fails_with("closed", "open a new one", "the connection is closed")
def closed(servers: Servers) -> None:
    with servers.opened() as conn:
        conn.close()
        conn.execute("select 1")


@fails_with("idle", "max_idle=", "terminating connection due to idle-session timeout")
def idle(servers: Servers) -> None:
    with servers.opened() as conn:
        conn.execute("set idle_session_timeout = 1")
        select.select([conn], [], [])
        conn.execute("select 1")


@fails_with("idle", "end transactions at once", "due to idle-in-transaction timeout")
def idle_in_transaction(servers: Servers) -> None:
    with servers.opened() as conn, conn.transaction():
        conn.execute("set local idle_in_transaction_session_timeout = 1")
        select.select([conn], [], [])
        conn.execute("select 1")


# Azure: the emulator's proxy, its PgBouncer, and the errors that a fault makes it return


@fails_with("no-tls", "leave out sslmode", "no encryption")
def no_tls(servers: Servers) -> None:
    psycopg.connect(**servers.there, sslmode="disable", user="u", dbname="d")


@fails_with("login", "pgaadauth_create_principal('stranger', false, false)", "password auth")
def stranger(servers: Servers) -> None:
    servers.connect_azure(user="stranger")


@fails_with("auth-method", "PGCHANNELBINDING", "channel binding required but not supported")
def channel_binding(servers: Servers) -> None:
    servers.connect_azure(channel_binding="require")


@fails_with("token-invalid", "leave out password=", "The access token has invalid format")
def password_for_token(servers: Servers) -> None:
    servers.connect_azure(user=servers.azure.principal.name, password="no token")


@fails_with("login", "check user='nobody'", "no such user")
def nobody_at_pgbouncer(servers: Servers) -> None:
    servers.connect_azure(user="nobody", password="x", dbname="postgres", pgbouncer=True)


@fails_with("startup-parameter", "ALTER ROLE", "unsupported startup parameter")
def options_at_pgbouncer(servers: Servers) -> None:
    # PgBouncer 1.26 accepts search_path
    servers.connect_azure(pgbouncer=True, options="-c work_mem=8MB")


@fails_with("prepared-statement", "prepare_threshold=None", 'prepared statement "_pg3_0" already')
def prepared(servers: Servers) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            conn = stack.enter_context(
                azpg.connect(**servers.there, pgbouncer=True, prepare_threshold=0)
            )
            conn.execute("select 1")
            conn.commit()


@fails_with("refused", "leave out hostaddr=", "Connection refused")
def refused(servers: Servers) -> None:
    with contextlib.closing(socket.create_server((servers.azure.hostaddr, 0))) as closed:
        port = closed.getsockname()[1]
    servers.connect_azure(port=port)


@fails_with("cut", "connect again", "server closed the connection unexpectedly")
def cut(servers: Servers) -> None:
    with servers.azure.fault(connect="cut-at-ssl-request"):
        servers.connect_azure()


@fails_with("timeout", "firewall", "connection timeout expired")
def stalled(servers: Servers) -> None:
    with servers.azure.fault(connect="stall"):
        servers.connect_azure(connect_timeout=2)


@fails_with("starting", "failing over", "the database system is starting up")
def starting(servers: Servers) -> None:
    with servers.azure.fault(say=("57P03", "the database system is starting up")):
        servers.connect_azure()


@fails_with("no-database", "CREATE DATABASE", "cached error")
def cached_error(servers: Servers) -> None:
    message = 'server login has been failing, cached error: database "x" does not exist'
    with servers.azure.fault(say=("08P01", f"{message} (server_login_retry)"), at="pgbouncer"):
        servers.connect_azure(pgbouncer=True)


@fails_with("wrong-object-id", 'SECURITY LABEL FOR "pgaadauth"', "oid mismatch for role")
def wrong_object_id(servers: Servers) -> None:
    with servers.azure.fault(say=("28000", "Service Principal oid mismatch for role[myapp].")):
        servers.connect_azure()


# PgBouncer


@fails_with("pgbouncer-password-length", "2026-04-22", "client sent partial pkt in startup")
def long_token(servers: Servers) -> None:
    with servers.azure.fault(say=("08P01", "client sent partial pkt in startup phase")):
        servers.connect_azure()


@fails_with("no-database", "correct dbname=", "no such database: none")
def no_such_database(servers: Servers) -> None:
    psycopg.connect(**servers.pooler | {"dbname": "none"}, password="pw")


@fails_with("too-many-connections", "pgbouncer.default_pool_size", "query_wait_timeout")
def query_wait(servers: Servers) -> None:
    psycopg.connect(**servers.pooler, password="pw")


@fails_with("too-many-connections", "pgbouncer.max_client_conn", "no more connections allowed")
def pgbouncer_is_full(servers: Servers) -> None:
    path = "{host}/.s.PGSQL.{port}".format(**servers.pooler)
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(path)
        psycopg.connect(**servers.pooler, password="pw")


# psycopg and its pool


@fails_with("no-socket", 'server="myserver"', "No such file or directory")
def no_socket(_servers: Servers) -> None:
    psycopg.connect(host="/nowhere")


@fails_with("pool-timeout", "max_size=", "couldn't get a connection")
def pool_in_use(servers: Servers) -> None:
    with (
        psycopg_pool.ConnectionPool(
            kwargs={**servers.postgres.conninfo()}, min_size=1, max_size=1
        ) as pool,
        pool.connection(),
    ):
        pool.getconn(timeout=0.01)


@fails_with("pool-closed", "pool.open()", "is not open yet")
def pool_unopened(_servers: Servers) -> None:
    psycopg_pool.ConnectionPool(open=False).getconn()


# The tests


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.provoke.__name__)
def test_the_error_of_a_server_is_classified(servers: Servers, failure: Failure) -> None:
    """It has its kind and hint, on azpg's own errors as from `explain`."""
    with pytest.raises(psycopg.Error, match=re.escape(failure.message)) as caught:
        failure.provoke(servers)
    found = azpg.explain(caught.value)
    assert found.kind == failure.kind
    assert failure.hint in found.hint
    if isinstance(caught.value, azpg.ConnectError):
        assert (caught.value.kind, caught.value.hint) == (found.kind, found.hint)


def test_every_other_kind_is_tested_elsewhere() -> None:
    """The kinds that no server here can be made to report."""
    elsewhere = {
        "file-descriptors",  # test_descriptors
        # test_classify and conninfo/test_bad_input
        *("config", "unknown-host", "root-file", "certificate", "tls-refused"),
        # tokens/test_token_rejected
        *("token-expired", "token-audience", "wrong-role", "query-timeout"),
        # Only test_classify: a full disk, a resolver that is down, a missing route, Windows, and
        # messages of a newer libpq or a busy PgBouncer
        *("storage-full", "resolver", "no-route", "event-loop", "direct-tls", "pgbouncer-server"),
        # test_protocol_errors and integrations/test_asyncpg_hostile
        "protocol",
        # Only test_classify: a fault of Azure
        "server-fault",
    }
    kinds = {pattern.kind for pattern in PATTERNS}
    assert kinds == elsewhere | {failure.kind for failure in FAILURES}
