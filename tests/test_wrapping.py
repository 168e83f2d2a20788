"""Frameworks that wrap azpg: subclasses, injected objects, instrumentation, psycopg's features."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import fix_pools
import psycopg
import psycopg_pool
import pytest
from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from psycopg.adapt import Dumper
from psycopg.rows import class_row

import azpg

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fix_api import Api
    from fix_credentials import Credentials
    from fix_leaks import Leaks, Tokens
    from fix_servers import Postgres

    from azpg.emulator import Emulator

pytestmark = pytest.mark.compat

WRAPPED: tuple[type[Any], ...] = (psycopg.Connection, psycopg.AsyncConnection)
WAYS = pytest.mark.parametrize("pgbouncer", [False, True], ids=["direct", "pgbouncer"])


# Subclasses and injected objects


def subclass(api: Api) -> Any:
    """Return a framework's connection class, which has one more argument."""

    class Tenant(azpg.Connection[Any]):
        tenant = ""

        @classmethod
        def connect(  # type: ignore[override]  # psycopg has no tenant
            cls, conninfo: str = "", *, tenant: str = "", **options: Any
        ) -> Any:
            conn = super().connect(conninfo, application_name=f"shop/{tenant}", **options)
            conn.tenant = tenant
            return conn

    class AsyncTenant(azpg.AsyncConnection[Any]):
        tenant = ""

        @classmethod
        async def connect(  # type: ignore[override]  # as above
            cls, conninfo: str = "", *, tenant: str = "", **options: Any
        ) -> Any:
            conn = await super().connect(conninfo, application_name=f"shop/{tenant}", **options)
            conn.tenant = tenant
            return conn

    return Tenant if api.kind == "sync" else AsyncTenant


def test_a_subclass_adds_arguments(api: Api, azure: Emulator) -> None:
    """A subclass's connect() may have more arguments, and returns the subclass."""
    own = subclass(api)
    conn = api.run(own.connect(server="myserver", tenant="north"))
    try:
        assert type(conn) is own
        assert conn.tenant == "north"
        assert api.row(conn, "show application_name") == ("shop/north",)
    finally:
        api.run(conn.close())


def test_a_pool_of_a_subclass(api: Api, azure: Emulator) -> None:
    """An azpg pool makes connections of a subclass, with its arguments in kwargs."""
    own = subclass(api)
    options = {"server": "myserver", "tenant": "south"}

    async def construct() -> Any:
        return made()

    def made() -> Any:
        return api.pool_class(connection_class=own, kwargs=options, min_size=1, open=False)

    pool = made() if api.kind == "sync" else api.run(construct())
    try:
        api.run(pool.open(wait=True))
        assert api.row_of_pool(pool, "show application_name") == ("shop/south",)
        (conn,) = pool._pool
        assert type(conn) is own
    finally:
        api.run(pool.close())


def test_a_credential_is_injected(api: Api, azure: Emulator, credentials: Credentials) -> None:
    """A credential that the framework passes authenticates, with the scope of the cloud."""
    credential = credentials.of(azure)
    with api.connect(server="myserver", credential=credential) as conn:
        assert conn.info.user == "myapp"
    assert credential.scopes == {azpg.AZURE_PUBLIC.scope}


def test_a_cloud_is_injected(api: Api, azure: Emulator, credentials: Credentials) -> None:
    """A custom cloud defines which hosts may receive a token, and its scope."""
    cloud = azpg.Cloud(
        "mine",
        suffixes=(".azure.com",),
        scope="https://mine.example/.default",
        authority="login.microsoftonline.com",
    )
    credential = credentials.of(azure)
    with api.connect(host=azure.host, cloud=cloud, credential=credential) as conn:
        assert conn.info.user == "myapp"
    assert credential.scopes == {"https://mine.example/.default"}


def test_a_password_callback_is_injected(api: Api, azure: Emulator) -> None:
    """A function given as password is called once for each physical connection."""
    asked: list[str] = []
    user = f"wrapped_{api.kind}"
    azure.add_role(user, password="a rotated one")

    def look_up() -> str:
        asked.append(user)
        return "a rotated one"

    password = api.callback(look_up)
    with api.pool(
        server="myserver", dbname="postgres", user=user, password=password, min_size=2
    ) as pool:
        assert api.row_of_pool(pool, "select current_user") == (user,)
    assert len(asked) == 2


def test_an_entra_password_is_injected(api: Api, azure: Emulator, credentials: Credentials) -> None:
    """All connections use a framework's EntraPassword, which requests one token."""
    credential = credentials.of(azure)
    token = azpg.EntraPassword(credential)
    for _ in range(2):
        with api.connect(server="myserver", user="myapp", password=token) as conn:
            assert conn.info.user == "myapp"
    assert credential.calls == 1


# Libraries that build a psycopg_pool of their own


@pytest.mark.parametrize("null", [False, True], ids=["pool", "null pool"])
def test_a_psycopg_pool_of_azpgs_connections(api: Api, azure: Emulator, null: bool) -> None:
    """A library that takes the connection class and kwargs connects with azpg."""
    own: Any = azpg.Connection if api.kind == "sync" else azpg.AsyncConnection
    pool = psycopg_pool_of(api, null=null, connection_class=own, kwargs={"server": "myserver"})
    try:
        assert api.row_of_pool(pool, "select current_user") == ("myapp",)
        conn = api.run(pool.getconn())
        assert type(conn) is own
        assert conn.info.get_parameters()["sslmode"] == "verify-full"
        api.run(pool.putconn(conn))
    finally:
        api.run(pool.close())


def test_a_psycopg_pool_of_psycopgs_connections(
    api: Api, azure: Emulator, credentials: Credentials
) -> None:
    """A library that takes only a connection string and kwargs: azpg's, and a fresh token."""
    credential = credentials.of(azure)
    entra = azpg.EntraPassword(credential)

    async def kwargs_async() -> dict[str, str]:
        return {"password": await entra.call_async()}

    kwargs: Any = kwargs_async if api.kind == "async" else lambda: {"password": entra()}
    conninfo = azpg.conninfo(server="myserver", dbname="postgres", user="myapp")
    pool = psycopg_pool_of(api, conninfo, kwargs=kwargs)
    try:
        assert api.row_of_pool(pool, "select current_user") == ("myapp",)
        conn = api.run(pool.getconn())
        assert type(conn) in WRAPPED
        assert conn.info.get_parameters()["sslmode"] == "verify-full"
        api.run(pool.putconn(conn))
    finally:
        api.run(pool.close())
    assert credential.calls == 1
    assert "password" not in conninfo


def psycopg_pool_of(api: Api, *args: Any, null: bool = False, **options: Any) -> Any:
    """Return an open psycopg_pool pool, as a library builds it."""
    names = ["NullConnectionPool", "AsyncNullConnectionPool"] if null else []
    names = names or ["ConnectionPool", "AsyncConnectionPool"]
    made: Any = getattr(psycopg_pool, names[api.kind == "async"])
    sizes = {"max_size": 2} if null else {"min_size": 1, "max_size": 2}
    pool = fix_pools.make(api, *args, pool_class=made, **sizes, **options)
    api.run(pool.open(wait=True))
    return pool


# OpenTelemetry


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """Instrument psycopg, as an application does when it starts."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    # uninstrument() leaves the method bound to psycopg's own class, for subclasses too
    methods = [(owner, vars(owner)["connect"]) for owner in WRAPPED]
    instrumentor = PsycopgInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    try:
        yield exporter
    finally:
        instrumentor.uninstrument()
        for owner, method in methods:
            owner.connect = method
        provider.shutdown()


@WAYS
def test_opentelemetry_sees_each_query(
    api: Api, spans: InMemorySpanExporter, tokens: Tokens, leaks: Leaks, pgbouncer: bool
) -> None:
    """Psycopg's instrumentation traces azpg's connections and pools, without tokens."""
    options = {"server": "myserver", "pgbouncer": pgbouncer, "credential": tokens.credential}
    with api.connect(**options) as conn:
        assert isinstance(conn, api.connection_class)
        assert api.row(conn, "select 1") == (1,)
    with api.pool(**options, min_size=1) as pool:
        assert api.row_of_pool(pool, "select 2") == (2,)
    seen: list[Any] = list(spans.get_finished_spans())
    assert [span.attributes["db.statement"] for span in seen] == ["select 1", "select 2"]
    for span in seen:
        assert span.attributes["db.user"] == "myapp"
        assert tokens.given[0] not in span.to_json()
    leaks.none_in_logs(tokens.given[0])


def test_a_failed_login_with_opentelemetry(
    api: Api, spans: InMemorySpanExporter, tokens: Tokens, leaks: Leaks
) -> None:
    """The instrumentation's frames, which contain the password, are not in azpg's errors."""
    with pytest.raises(azpg.LoginError) as caught:
        api.open(server="myserver", user="stranger", credential=tokens.credential)
    leaks.none_held(caught.value, tokens.given[-1], tokens)


# Reprs


@WAYS
def test_reprs_of_connections_and_pools(api: Api, tokens: Tokens, pgbouncer: bool) -> None:
    """They show host, user, database and sslmode, and no secret."""
    options = {"server": "myserver", "pgbouncer": pgbouncer, "credential": tokens.credential}
    port = " port=6432" if pgbouncer else ""
    server = (
        f"(host=myserver.postgres.database.azure.com{port} user=myapp database=postgres "
        "sslmode=verify-full)"
    )
    with api.connect(**options) as conn:
        assert f"{api.connection_class.__name__} [IDLE] {server} at 0x" in repr(conn)
        assert tokens.given[0] not in repr(conn)
    assert re.fullmatch(r"<azpg.\w*Connection \[BAD\] at 0x\w+>", repr(conn))
    with api.pool(**options, min_size=1, name="mine") as pool:
        assert f"{api.pool_class.__name__} 'mine' {server} at 0x" in repr(pool)
        assert tokens.given[0] not in repr(pool)
    assert re.fullmatch(r"<azpg.\w*ConnectionPool 'mine' at 0x\w+>", repr(pool))


# psycopg's features


@dataclass
class Point:
    """A caller's type with its own adapter."""

    x: int
    y: int


class PointDumper(Dumper):
    """Dump a Point as PostgreSQL's point."""

    oid = psycopg.postgres.types["point"].oid

    def dump(self, obj: Point) -> bytes:
        """Return its text."""
        return f"({obj.x},{obj.y})".encode()


@WAYS
def test_adapters(api: Api, azure: Emulator, pgbouncer: bool) -> None:
    """Adapters in context= and row factories work as in psycopg."""
    adapters = psycopg.adapt.AdaptersMap(psycopg.adapters)
    adapters.register_dumper(Point, PointDumper)

    class Context:
        connection = None

    context: Any = Context()
    context.adapters = adapters
    with api.connect(
        server="myserver", pgbouncer=pgbouncer, context=context, row_factory=class_row(Point)
    ) as conn:
        assert api.row(conn, "select p[0] as x, p[1] as y from (select %s p)", Point(1, 2)) == (
            Point(1, 2)
        )


@WAYS
def test_copy_in_and_out(api: Api, azure: Emulator, pgbouncer: bool) -> None:
    """COPY writes and reads rows in one transaction."""
    with api.connect(server="myserver", pgbouncer=pgbouncer) as conn:
        api.run(conn.execute("create temporary table copied (a int, b text) on commit drop"))
        cur = conn.cursor()

        def copied() -> list[Any]:
            with cur.copy("copy copied from stdin") as copy:
                for row in [(1, "a"), (2, "b")]:
                    copy.write_row(row)
            with cur.copy("copy copied to stdout") as copy:
                return [bytes(line) for line in copy]

        async def copied_async() -> list[Any]:
            async with cur.copy("copy copied from stdin") as copy:
                for row in [(1, "a"), (2, "b")]:
                    await copy.write_row(row)
            async with cur.copy("copy copied to stdout") as copy:
                return [bytes(line) async for line in copy]

        lines = copied() if api.kind == "sync" else api.run(copied_async())
        assert lines == [b"1\ta\n", b"2\tb\n"]


@WAYS
def test_server_side_cursors(api: Api, azure: Emulator, pgbouncer: bool) -> None:
    """A named cursor fetches a few rows at a time, in a transaction also through PgBouncer."""
    with api.connect(server="myserver", pgbouncer=pgbouncer) as conn:
        cur = conn.cursor("piecewise")
        api.run(cur.execute("select generate_series(1, 1000)"))
        assert api.run(cur.fetchmany(2)) == [(1,), (2,)]
        api.run(cur.scroll(996))
        assert api.run(cur.fetchall()) == [(999,), (1000,)]
        api.run(cur.close())


@WAYS
def test_pipeline_mode(api: Api, azure: Emulator, pgbouncer: bool) -> None:
    """A pipeline sends its queries together and gets the results in order."""
    with api.connect(server="myserver", pgbouncer=pgbouncer) as conn:

        def piped() -> list[Any]:
            with conn.pipeline():
                return [conn.execute("select %s::int", (n,)) for n in range(3)]

        async def piped_async() -> list[Any]:
            async with conn.pipeline():
                return [await conn.execute("select %s::int", (n,)) for n in range(3)]

        cursors = piped() if api.kind == "sync" else api.run(piped_async())
        assert [api.run(cur.fetchone()) for cur in cursors] == [(0,), (1,), (2,)]


def test_listen_and_notify(api: Api, azure: Emulator) -> None:
    """A notification reaches a listening connection, which bypasses PgBouncer."""
    with api.connect(autocommit=True) as listening, api.connect(autocommit=True) as speaking:
        api.run(listening.execute("listen news"))
        api.run(speaking.execute("select pg_notify('news', 'from ' || current_user)"))

        def heard() -> Any:
            return next(iter(listening.notifies(timeout=30, stop_after=1))).payload

        async def heard_async() -> Any:
            return await anext(each.payload async for each in listening.notifies(timeout=30))

        assert (heard() if api.kind == "sync" else api.run(heard_async())) == "from myapp"


def test_two_phase_commit(api: Api, postgres: Postgres) -> None:
    """A prepared transaction survives its connection, and another connection commits it."""
    known = postgres.conninfo(password=postgres.password)
    with api.connect(**known) as first:
        xid = first.xid(1, "azpg", api.kind)
        api.run(first.tpc_begin(xid))
        api.run(first.execute(f"create table prepared_{api.kind} ()"))
        api.run(first.tpc_prepare())
    with api.connect(**known) as second:
        (found,) = [each for each in api.run(second.tpc_recover()) if each.bqual == api.kind]
        api.run(second.tpc_commit(found))
        assert api.row(second, "select to_regclass(%s)::text", f"prepared_{api.kind}") == (
            f"prepared_{api.kind}",
        )
        api.run(second.execute(f"drop table prepared_{api.kind}"))
        api.run(second.commit())
