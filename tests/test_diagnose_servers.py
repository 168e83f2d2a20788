"""What servers really say, and what azpg makes of it: failures provoked, row by row."""

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
from azpg._diagnosis.patterns import TABLE

if TYPE_CHECKING:
    from fix_failures import Servers


Provoke: TypeAlias = "Callable[[Servers], object]"


class Failure(NamedTuple):
    """A way to fail: what it means, a piece of the hint, and of what the server says."""

    kind: str
    hint: str
    said: str
    provoke: Provoke


FAILURES: list[Failure] = []


def told(kind: str, hint: str, said: str) -> Callable[[Provoke], Provoke]:
    """Note that a function brings a failure about."""

    def note(function: Provoke) -> Provoke:
        FAILURES.append(Failure(kind, hint, said, function))
        return function

    return note


# PostgreSQL


@told("login", "check user='app' and its password", "password authentication failed")
def wrong_password(servers: Servers) -> None:
    servers.connect(password="wrong")


@told("no-role", "create the role", 'role "nobody" does not exist')
def no_role(servers: Servers) -> None:
    psycopg.connect(host=servers.postgres.socket, port=servers.postgres.port, user="nobody")


@told("no-database", 'CREATE DATABASE "none"', 'database "none" does not exist')
def no_database(servers: Servers) -> None:
    servers.connect(dbname="none")


@told("no-login", 'ALTER ROLE "locked" LOGIN', "is not permitted to log in")
def no_login(servers: Servers) -> None:
    servers.admin("create role locked password 'x'")
    servers.connect(user="locked", password="x")


@told("no-connect", "GRANT CONNECT ON DATABASE", "User does not have CONNECT")
def no_connect(servers: Servers) -> None:
    servers.admin("create database closed", "revoke connect on database closed from public")
    servers.connect(dbname="closed")


@told("firewall", "does not let 127.0.0.1 in", "pg_hba.conf rejects connection for host")
def firewall(servers: Servers) -> None:
    with servers.rule("hostssl all outsider all reject"):
        servers.connect(user="outsider")


@told("server-option", "correct it", "unrecognized configuration parameter")
def server_option(servers: Servers) -> None:
    servers.connect(options="-c nonsense=1")


@told("auth-method", "leave it out", 'requirement "password" failed: server requested SASL')
def auth_method(servers: Servers) -> None:
    servers.connect(require_auth="password")


@told("auth-method", "give password=", "fe_sendauth: no password supplied")
def no_password(servers: Servers) -> None:
    servers.connect(password="")


@told("certificate-name", 'server="myserver", host="', "does not match host name")
def certificate_name(servers: Servers) -> None:
    servers.connect(host="db15.sub.postgres.database.azure.com")


@told("client-certificate", "leave out sslcert", "certificate present, but not private key")
def client_certificate(servers: Servers) -> None:
    servers.connect(sslcert=servers.postgres.root)


@told("tls", "TLS 1.2 and 1.3", "SSL error: no protocols available")
def tls(servers: Servers) -> None:
    servers.connect(ssl_min_protocol_version="TLSv1", ssl_max_protocol_version="TLSv1")


@told("too-many-connections", 'ALTER ROLE "few"', 'too many connections for role "few"')
def few_connections(servers: Servers) -> None:
    servers.admin("create role few login password 'x' connection limit 0")
    servers.connect(user="few", password="x")


@told("session-attrs", "name the right server", "session is not read-only")
def session_attrs(servers: Servers) -> None:
    servers.connect(target_session_attrs="read-only")


@told("session-attrs", "A failover", "server is not in hot standby mode")
def no_standby(servers: Servers) -> None:
    servers.connect(target_session_attrs="standby")


@told("read-only", "pg_is_in_recovery()", "cannot execute CREATE TABLE in a read-only")
def read_only(servers: Servers) -> None:
    with servers.opened(options="-c default_transaction_read_only=on") as conn:
        conn.execute("create table t()")


@told("permission", 'GRANT ALL ON table "pg_authid"', "permission denied for table pg_authid")
def permission(servers: Servers) -> None:
    with servers.opened() as conn:
        conn.execute("select * from pg_authid")


@told("permission", "let the owner grant it", "must be owner of table pg_class")
def ownership(servers: Servers) -> None:
    with servers.opened() as conn:
        conn.execute("drop table pg_class")


@told("starting", "connect again", "terminating connection due to administrator command")
def terminated(servers: Servers) -> None:
    with servers.opened() as conn:
        conn.execute("select pg_terminate_backend(pg_backend_pid())")


@told("closed", "take another one", "the connection is closed")
def closed(servers: Servers) -> None:
    with servers.opened() as conn:
        conn.close()
        conn.execute("select 1")


@told("idle", "max_idle=", "terminating connection due to idle-session timeout")
def idle(servers: Servers) -> None:
    with servers.opened() as conn:
        conn.execute("set idle_session_timeout = 1")
        select.select([conn], [], [])
        conn.execute("select 1")


@told("idle", "end transactions at once", "due to idle-in-transaction timeout")
def idle_in_transaction(servers: Servers) -> None:
    with servers.opened() as conn, conn.transaction():
        conn.execute("set local idle_in_transaction_session_timeout = 1")
        select.select([conn], [], [])
        conn.execute("select 1")


# Azure: the emulator's proxy, its PgBouncer, and the errors that a fault makes it return


@told("no-tls", "leave out sslmode", "no encryption")
def no_tls(servers: Servers) -> None:
    psycopg.connect(**servers.there, sslmode="disable", user="u", dbname="d")


@told("login", "pgaadauth_create_principal('stranger', false, false)", "password auth")
def stranger(servers: Servers) -> None:
    servers.connect_azure(user="stranger")


@told("auth-method", "PGCHANNELBINDING", "channel binding required but not supported")
def channel_binding(servers: Servers) -> None:
    servers.connect_azure(channel_binding="require")


@told("token-invalid", "leave out password=", "The access token has invalid format")
def password_for_token(servers: Servers) -> None:
    servers.connect_azure(user=servers.azure.principal.name, password="no token")


@told("login", "check user='nobody'", "no such user")
def nobody_at_pgbouncer(servers: Servers) -> None:
    servers.connect_azure(user="nobody", password="x", dbname="postgres", pgbouncer=True)


@told("startup-parameter", "ALTER ROLE", "unsupported startup parameter: options")
def options_at_pgbouncer(servers: Servers) -> None:
    servers.connect_azure(pgbouncer=True, options="-c search_path=x")


@told("prepared-statement", "prepare_threshold=None", 'prepared statement "_pg3_0" already')
def prepared(servers: Servers) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            conn = stack.enter_context(
                azpg.connect(**servers.there, pgbouncer=True, prepare_threshold=0)
            )
            conn.execute("select 1")
            conn.commit()


@told("refused", "is that its port?", "Connection refused")
def refused(servers: Servers) -> None:
    with contextlib.closing(socket.create_server((servers.azure.hostaddr, 0))) as closed:
        port = closed.getsockname()[1]
    servers.connect_azure(port=port)


@told("cut", "Connect again", "server closed the connection unexpectedly")
def cut(servers: Servers) -> None:
    with servers.azure.fault(connect="cut-at-ssl-request"):
        servers.connect_azure()


@told("timeout", "firewall", "connection timeout expired")
def stalled(servers: Servers) -> None:
    with servers.azure.fault(connect="stall"):
        servers.connect_azure(connect_timeout=2)


@told("starting", "failing over", "the database system is starting up")
def starting(servers: Servers) -> None:
    with servers.azure.fault(say=("57P03", "the database system is starting up")):
        servers.connect_azure()


@told("no-database", "CREATE DATABASE", "cached error")
def cached_error(servers: Servers) -> None:
    said = 'server login has been failing, cached error: database "x" does not exist'
    with servers.azure.fault(say=("08P01", f"{said} (server_login_retry)"), at="pgbouncer"):
        servers.connect_azure(pgbouncer=True)


@told("wrong-object-id", 'SECURITY LABEL FOR "pgaadauth"', "oid mismatch for role")
def wrong_object_id(servers: Servers) -> None:
    with servers.azure.fault(say=("28000", "Service Principal oid mismatch for role[myapp].")):
        servers.connect_azure()


# PgBouncer


@told("pgbouncer-password-length", "has 5000 bytes", "client sent partial pkt in startup")
def long_password(servers: Servers) -> None:
    psycopg.connect(**servers.pooler, password="x" * 5000)


@told("login", "has 3000 bytes", "password authentication failed")
def longer_than_pgbouncer_keeps(servers: Servers) -> None:
    psycopg.connect(**servers.pooler, password="x" * 3000)


@told("no-database", "correct dbname=", "no such database: none")
def no_such_database(servers: Servers) -> None:
    psycopg.connect(**servers.pooler | {"dbname": "none"}, password="pw")


@told("too-many-connections", "pgbouncer.default_pool_size", "query_wait_timeout")
def query_wait(servers: Servers) -> None:
    psycopg.connect(**servers.pooler, password="pw")


@told("too-many-connections", "pgbouncer.max_client_conn", "no more connections allowed")
def no_place(servers: Servers) -> None:
    path = "{host}/.s.PGSQL.{port}".format(**servers.pooler)
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            place = stack.enter_context(socket.socket(socket.AF_UNIX))
            place.connect(path)
        psycopg.connect(**servers.pooler, password="pw")


# psycopg and its pool


@told("no-socket", 'server="myserver"', "No such file or directory")
def no_socket(_servers: Servers) -> None:
    psycopg.connect(host="/nowhere")


@told("pool-timeout", "max_size=", "couldn't get a connection")
def pool_in_use(servers: Servers) -> None:
    with (
        psycopg_pool.ConnectionPool(
            kwargs={**servers.postgres.conninfo()}, min_size=1, max_size=1
        ) as pool,
        pool.connection(),
    ):
        pool.getconn(timeout=0.01)


@told("pool-closed", "pool.open()", "is not open yet")
def pool_unopened(_servers: Servers) -> None:
    psycopg_pool.ConnectionPool(open=False).getconn()


# The tests


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.provoke.__name__)
def test_what_a_server_says_is_known(servers: Servers, failure: Failure) -> None:
    """It is told by its kind, and its hint says what to type: from connect() or explain() alike."""
    with pytest.raises(psycopg.Error, match=re.escape(failure.said)) as caught:
        failure.provoke(servers)
    found = azpg.explain(caught.value)
    assert found.kind == failure.kind
    assert failure.hint in found.hint
    if isinstance(caught.value, azpg.ConnectError):
        assert (caught.value.kind, caught.value.hint) == (found.kind, found.hint)


def test_the_rest_is_known_by_its_words() -> None:
    """What no server here says was seen elsewhere, or is provoked in another test."""
    elsewhere = {
        # test_diagnose and test_bad_input
        *("config", "unknown-host", "root-file", "certificate", "tls-refused"),
        # test_rejection
        *("token-expired", "token-audience", "wrong-role"),
        # Nowhere: a full disk, a resolver that is down, a network without a way, Windows, and
        # what only a newer libpq and a busy PgBouncer say
        *("storage-full", "resolver", "no-route", "event-loop", "direct-tls", "pgbouncer-server"),
        # test_hostile_talk and test_asyncpg_hostile
        "protocol",
        # and a fault of Azure's
        "server-fault",
    }
    kinds = {row.kind for row in TABLE}
    assert kinds == elsewhere | {failure.kind for failure in FAILURES}
