"""Facts of an open connection: user, server, how PgBouncer pools, and the round-trip time."""

from __future__ import annotations

import secrets
import statistics
import time
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
from psycopg.rows import tuple_row

if TYPE_CHECKING:
    from .result import Detail

ROUND_TRIP_SAMPLES = 9

_SESSION_QUERY = """
select session_user, current_user, current_database(), current_setting('server_version'),
    pg_is_in_recovery() or current_setting('transaction_read_only')::bool,
    array(
        select roles.rolname::text from pg_auth_members
        join pg_roles roles on roles.oid = roleid join pg_roles members on members.oid = member
        where members.rolname = current_user order by 1
    ),
    (select count(*) from pg_stat_activity where backend_type = 'client backend'),
    current_setting('max_connections')::int, extract(epoch from clock_timestamp())::float8
"""


def session_details(conn: psycopg.Connection[Any]) -> dict[str, Detail]:
    """Return the user, the database, the server and its clock."""
    before = time.time()
    row = _fetch_row(conn, _SESSION_QUERY)
    client_clock = (before + time.time()) / 2
    session_user, user, database, version, read_only, roles, count, maximum, server_clock = row
    return {
        "user": user if user == session_user else f"{user}, authenticated as {session_user}",
        "member_of": roles,
        "database": database,
        "server_version": version,
        "read_only": read_only,
        "connections": f"{count} of {maximum}",
        "clock_ahead_seconds": round(server_clock - client_clock, 1),
        "tls": conn.pgconn.ssl_in_use,
        "tls_at_the_server": _tls_at_server(conn),
    }


def _fetch_row(conn: psycopg.Connection[Any], query: LiteralString) -> tuple[Any, ...]:
    with conn.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute(query).fetchone()
    return row or ()


def _tls_at_server(conn: psycopg.Connection[Any]) -> str:
    # Behind a gateway or PgBouncer the server does not see the client's TLS.
    row = conn.execute(
        "select version || ' ' || cipher from pg_stat_ssl where pid = pg_backend_pid() and ssl"
    ).fetchone()
    return str(row[0]) if row else "none: TLS is terminated before the server"


def pool_mode(first: psycopg.Connection[Any], second: psycopg.Connection[Any]) -> str:
    """Return PgBouncer's pool mode, as far as two idle connections in autocommit show it."""
    try:
        with first.transaction():
            first.execute("select 1")
    except psycopg.OperationalError:
        return "statement"
    pids = {_fetch_row(conn, "select pg_backend_pid()")[0] for conn in (first, second, first)}
    return "transaction" if len(pids) == 1 else "session (or PgBouncer is too busy to tell)"


def tracks_prepared_statements(conn: psycopg.Connection[Any]) -> bool:
    """Return whether PgBouncer tracks prepared statements (max_prepared_statements above 0)."""
    name = f"azpg_{secrets.token_hex(8)}"
    with conn.transaction():
        conn.pgconn.prepare(name.encode(), b"select 1")
        row = conn.execute(
            "select 1 from pg_prepared_statements where name = %s", [name], prepare=False
        ).fetchone()
        if row is None:
            return True  # PgBouncer has given it a name of its own
        conn.execute(f"deallocate {name}")
    return False


def round_trip_ms(conn: psycopg.Connection[Any]) -> float:
    """Return the median time of a round trip, in milliseconds."""
    times = []
    for _ in range(ROUND_TRIP_SAMPLES):
        started = time.perf_counter()
        conn.execute("select 1")
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)
