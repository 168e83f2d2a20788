"""Connections end to end: real TLS, real tokens, real servers."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.rows import dict_row

import azpg

if TYPE_CHECKING:
    from fix_api import Api
    from fix_servers import Postgres
    from fix_tunnel import Dig

    from azpg.emulator import Emulator

pytestmark = pytest.mark.compat


def test_signs_in_over_verified_tls_with_a_token(api: Api, azure: Emulator) -> None:
    """A server's short name is enough: TLS is verified, the user and the token are Entra's."""
    with api.connect(server="myserver") as conn:
        assert api.row(conn, "select current_user, current_database()") == ("myapp", "postgres")
        assert conn.pgconn.ssl_in_use
        assert conn.info.get_parameters()["sslmode"] == "verify-full"
        assert conn.info.port == 5432


def test_goes_through_pgbouncer_without_prepared_statements(api: Api, azure: Emulator) -> None:
    """pgbouncer=True means port 6432 and no prepared statements."""
    with api.connect(server="myserver", pgbouncer=True) as conn:
        assert api.row(conn, "select current_user") == ("myapp",)
        assert conn.info.port == 6432
        assert conn.prepare_threshold is None


def test_signs_in_with_a_password_over_the_servers_own_tls(api: Api, postgres: Postgres) -> None:
    """A role's password signs in by SCRAM, and the server itself says that TLS is used."""
    with api.connect(**postgres.conninfo()) as conn:
        query = "select ssl, version from pg_stat_ssl where pid = pg_backend_pid()"
        assert api.row(conn, query) == (True, "TLSv1.3")


def test_is_a_psycopg_connection(api: Api, azure: Emulator) -> None:
    """What connect() returns is used wherever psycopg's connection is."""
    with api.connect() as conn:
        assert isinstance(conn, psycopg.Connection | psycopg.AsyncConnection)


def test_refused_sign_in_raises_login_error(api: Api, azure: Emulator) -> None:
    """A role that does not exist is refused in the server's own words."""
    with pytest.raises(azpg.LoginError, match="password authentication failed") as caught:
        api.open(user="nobody")
    assert caught.value.kind == "login"


# The way there


def test_a_tunnel_keeps_the_servers_name(api: Api, azure: Emulator, dig: Dig) -> None:
    """`server` is verified, `host` and port are reached: a tunnel's near end, looked up by name."""
    tunnel = dig((azure.hostaddr, azure.port))
    with api.connect(server="myserver", host="localhost", port=tunnel.port) as conn:
        assert api.row(conn, "select current_user") == ("myapp",)
        assert conn.info.host == azure.host
        assert conn.info.hostaddr == "127.0.0.1"
        assert conn.info.get_parameters()["sslmode"] == "verify-full"
    assert tunnel.connections == 1


def test_hostaddr_is_reached_under_the_hosts_name(
    api: Api, azure: Emulator, dig: Dig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """hostaddr= says where, host= what is verified, as in libpq."""
    monkeypatch.delenv("PGHOSTADDR")
    tunnel = dig((azure.hostaddr, azure.port))
    with api.connect(host=azure.host, hostaddr="127.0.0.1", port=tunnel.port) as conn:
        assert api.row(conn, "select current_user") == ("myapp",)
    assert tunnel.connections == 1


def test_the_second_host_of_a_list_is_reached(
    api: Api, azure: Emulator, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list of hosts, the first of them dead, ends at the one that answers."""
    monkeypatch.delenv("PGHOSTADDR")
    with api.connect(
        host=f"dead.postgres.database.azure.com,{azure.host}",
        hostaddr=f"127.0.0.1,{azure.hostaddr}",
        port=f"{free_port},{azure.port}",
    ) as conn:
        assert conn.info.host == azure.host


@pytest.mark.parametrize(
    "option",
    [
        {"target_session_attrs": "read-write"},
        {"target_session_attrs": "primary"},
        {"load_balance_hosts": "random"},
        {"sslnegotiation": "direct"},
        {"channel_binding": "disable"},
        {"application_name": "shop"},
        {"options": "-c search_path=pg_catalog"},
    ],
    ids=lambda option: "=".join(*option.items()),
)
def test_libpqs_own_keywords_pass(api: Api, azure: Emulator, option: dict[str, str]) -> None:
    """What azpg has no opinion on reaches libpq as it was given."""
    with api.connect(**option) as conn:
        assert api.row(conn, "select current_user") == ("myapp",)
        assert option.items() <= conn.info.get_parameters().items()


def test_two_hosts_in_any_order(api: Api, azure: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """load_balance_hosts=random takes one host of a list, each verified by its own name."""
    monkeypatch.delenv("PGHOSTADDR")
    replica = "replica.postgres.database.azure.com"
    with api.connect(
        host=f"{azure.host},{replica}",
        hostaddr=f"{azure.hostaddr},{azure.hostaddr}",
        load_balance_hosts="random",
    ) as conn:
        assert conn.info.host in (azure.host, replica)


def test_a_unix_socket_with_an_empty_password(api: Api, postgres: Postgres) -> None:
    """A socket needs no TLS, and password="" says that the server asks for nothing."""
    with api.connect(host=postgres.socket, user="app", dbname="postgres", password="") as conn:
        assert api.row(conn, "select current_user") == ("app",)
        assert not conn.pgconn.ssl_in_use


def test_a_unix_socket_with_a_password(api: Api, postgres: Postgres) -> None:
    """A password is at hand for a socket whose server asks for one."""
    with api.connect(
        host=postgres.socket, user="app", dbname="postgres", password=postgres.password
    ) as conn:
        assert api.row(conn, "select current_user") == ("app",)


def test_a_developers_own_server_without_tls(api: Api, postgres: Postgres) -> None:
    """An explicit sslmode=disable is obeyed outside Azure, for a password."""
    address = {"host": postgres.hostaddr, "hostaddr": None, "sslrootcert": None}
    with api.connect(**postgres.conninfo(**address, sslmode="disable")) as conn:
        assert not conn.pgconn.ssl_in_use


def test_outside_azure_the_default_is_verified(api: Api, postgres: Postgres) -> None:
    """A host outside Azure with nothing said is verified by Azure's roots, and fails on its own."""
    address = {"host": "localhost", "sslrootcert": None}
    with pytest.raises(azpg.TLSError) as caught:
        api.open(**postgres.conninfo(**address))
    assert caught.value.kind == "certificate"
    assert "sslmode=disable" in caught.value.hint


# What psycopg takes


@pytest.mark.parametrize(
    ("given", "pgbouncer", "direct"),
    [({}, None, 5), *(({"prepare_threshold": n}, n, n) for n in (0, 5, 7, None))],
    ids=["unset", "0", "5", "7", "None"],
)
def test_the_callers_prepare_threshold_wins(
    api: Api,
    azure: Emulator,
    given: dict[str, Any],
    pgbouncer: int | None,
    direct: int | None,
) -> None:
    """Without one it is None under PgBouncer and psycopg's own elsewhere; any value given stays."""
    with api.connect(pgbouncer=True, **given) as conn:
        assert conn.prepare_threshold == pgbouncer
    with api.connect(**given) as conn:
        assert conn.prepare_threshold == direct


def test_pgbouncers_port_alone_turns_prepared_statements_off(api: Api, azure: Emulator) -> None:
    """port=6432 is PgBouncer unless pgbouncer=False says that it is not.

    PgBouncer 1.26 announces itself, whatever pgbouncer= says.
    """
    with api.connect(port=azure.pgbouncer_port) as conn:
        assert conn.prepare_threshold is None
    with api.connect(port=azure.pgbouncer_port, pgbouncer=False) as conn:
        is_announced = conn.pgconn.parameter_status(b"pgbouncer.version") is not None
        assert conn.prepare_threshold == (None if is_announced else 5)


def test_many_statements_go_through_pgbouncer(api: Api, azure: Emulator) -> None:
    """The same query, over and over, is never prepared under PgBouncer."""
    with api.connect(pgbouncer=True, autocommit=True) as conn:
        for number in range(12):
            assert api.row(conn, "select %s::int as unprepared", number) == (number,)
        # PgBouncer's connection may have statements that another test has prepared
        query = "select count(*) from pg_prepared_statements where statement like %s"
        assert api.row(conn, query, "%as unprepared%") == (0,)


def test_psycopgs_own_options_pass(api: Api, azure: Emulator) -> None:
    """autocommit, row_factory and context do what they do in psycopg."""
    context = psycopg.adapt.AdaptersMap(psycopg.adapters)
    context.register_loader("int4", psycopg.types.string.TextLoader)

    class Context:
        adapters = context
        connection = None

    with api.connect(autocommit=True, row_factory=dict_row, context=Context()) as conn:
        assert conn.autocommit
        assert api.row(conn, "select 1 as one") == {"one": "1"}


def test_a_cursor_factory_passes(api: Api, azure: Emulator) -> None:
    """cursor_factory makes the connection's cursors."""
    factory = psycopg.ClientCursor if api.kind == "sync" else psycopg.AsyncClientCursor
    with api.connect(cursor_factory=factory) as conn:
        assert isinstance(conn.cursor(), factory)


def test_a_subclass_connects_as_itself(api: Api, azure: Emulator) -> None:
    """connect() of a subclass returns the subclass, in psycopg's own way."""
    own: Any = type("Own", (api.connection_class,), {})
    conn = api.run(own.connect("dbname=postgres", server="myserver", autocommit=True))
    try:
        assert type(conn) is own
        assert conn.autocommit
    finally:
        api.run(conn.close())


def test_a_running_query_can_be_cancelled(api: Api, azure: Emulator) -> None:
    """cancel_safe() reaches the server by the same way, verified as the connection was."""
    with api.connect() as conn:
        cancel = conn.cancel_safe
        before = azure.counts
        with ThreadPoolExecutor(1) as other:
            query = other.submit(lambda: api.row(conn, "select pg_sleep(60)"))
            while not query.done():  # a request that comes before the query does nothing
                api.run(cancel())
            with pytest.raises(psycopg.errors.QueryCanceled):
                query.result()
        assert (azure.counts - before).cancel_requests >= 1


def test_a_connection_is_a_context(azure: Emulator) -> None:
    """`with connect()` and `async with await connect_async()` commit and close."""
    with azpg.connect() as conn:
        conn.execute("select 1")
    assert conn.closed

    async def main() -> bool:
        async with await azpg.connect_async() as conn:
            await conn.execute("select 1")
        return conn.closed

    assert asyncio.run(main())


def test_a_dbname_that_looks_like_a_conninfo_is_a_name(api: Api, azure: Emulator) -> None:
    """`dbname` is not expanded: it cannot lead the connection elsewhere."""
    with pytest.raises(azpg.LoginError, match=r"host=evil\.example") as caught:
        api.open(dbname="host=evil.example sslmode=disable")
    assert caught.value.kind == "no-database"


def test_conninfo_leads_where_connect_does(azure: Emulator) -> None:
    """conninfo() is text without a secret that psycopg itself takes, the token given apart."""
    text = azpg.conninfo(server="myserver", user="myapp")
    assert psycopg.conninfo.conninfo_to_dict(text)["sslmode"] == "verify-full"
    with psycopg.connect(text, password=azure.token()) as conn:
        assert conn.execute("select current_user").fetchone() == ("myapp",)


def test_conninfo_holds_no_secret(azure: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A password of any source is left out of conninfo()."""
    monkeypatch.setenv("PGPASSWORD", "hunter2")
    for conninfo in ("", "password=hunter2"):
        assert "hunter2" not in azpg.conninfo(conninfo, server="myserver", user="me")
    assert "hunter2" not in azpg.conninfo(server="myserver", user="me", password="hunter2")
    with pytest.raises(azpg.ConfigError) as caught:
        azpg.conninfo("password=hunter2 sslmode=nonsense")
    assert "hunter2" not in str(caught.value)
