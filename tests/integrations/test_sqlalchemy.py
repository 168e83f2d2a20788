"""The SQLAlchemy dialect: authentication, pools, reconnecting and errors of engines."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import sqlalchemy
from sqlalchemy import event, exc, pool, text
from sqlalchemy.ext.asyncio import create_async_engine

import azpg
import azpg.sqlalchemy

if TYPE_CHECKING:
    from fix_api import Api
    from fix_clock import Clock
    from fix_credentials import Credentials
    from fix_leaks import Leaks, Tokens
    from fix_servers import Postgres
    from fix_sqlalchemy import Engines

    from azpg.emulator import Emulator

pytestmark = pytest.mark.compat

WHO = "select current_user"
PID = "select pg_backend_pid()"
START = "select pg_postmaster_start_time()"
EXAMPLES = Path(__file__).parent.parent.parent / "examples"


# Authentication


def test_an_engine_authenticates_with_a_token(engines: Engines, azure: Emulator) -> None:
    """A URL with a server is enough; the driver's connection is azpg's."""
    before = azure.counts.sign_ins
    conn = engines.open(engines.make("postgresql+azpg:///postgres?server=myserver"))
    assert engines.ask(conn, WHO) == "myapp"
    assert type(engines.driver(conn)) is engines.api.connection_class
    assert engines.driver(conn).info.parameter_status("application_name") == "azpg"
    assert azure.counts.sign_ins == before + 1


def test_the_environment_names_the_server(engines: Engines, azure: Emulator) -> None:
    """An empty URL connects to PGHOST."""
    assert engines.scalar(engines.make("postgresql+azpg://"), WHO) == "myapp"


def test_a_url_with_user_and_host(engines: Engines, azure: Emulator) -> None:
    """Host, port, database and user may be in the URL, escaped as in SQLAlchemy."""
    azure.sign_in_as(alice := azure.add_role(f"{engines.api.kind}@contoso.com"))
    try:
        url = (
            f"postgresql+azpg://{alice.name.replace('@', '%40')}@{azure.host}:{azure.port}/postgres"
        )
        assert engines.scalar(engines.make(url), WHO) == alice.name
    finally:
        azure.sign_in_as(azure.principal)


def test_a_credential_goes_into_connect_args(
    engines: Engines, azure: Emulator, credentials: Credentials
) -> None:
    """connect_args take objects that a URL cannot contain; all connections share one token."""
    credential = credentials.of(azure)
    engine = engines.make(connect_args={"credential": credential})
    conns = [engines.open(engine) for _ in range(3)]
    assert {engines.ask(conn, WHO) for conn in conns} == {"myapp"}
    assert credential.calls == 1


def test_connect_args_win(engines: Engines, azure: Emulator) -> None:
    """connect_args win over the URL, as keywords win over a connection string."""
    engine = engines.make(connect_args={"application_name": "args"})
    assert engines.scalar(engine, "show application_name") == "args"


def test_through_pgbouncer(engines: Engines, azure: Emulator) -> None:
    """pgbouncer=true in the URL means port 6432 and no prepared statements."""
    conn = engines.open(engines.make("postgresql+azpg://?server=myserver&pgbouncer=true"))
    assert engines.driver(conn).info.port == 6432
    assert engines.driver(conn).prepare_threshold is None
    assert {engines.ask(conn, "select 7") for _ in range(10)} == {7}


def test_a_password_in_the_url(engines: Engines, postgres: Postgres) -> None:
    """A PostgreSQL role's password in the URL, escaped, authenticates without Entra."""
    rest = postgres.conninfo(user="app")
    url = (
        f"postgresql+azpg://app:p%27ass%20w%C3%B6rd@{postgres.host}:{postgres.port}/postgres"
        f"?hostaddr={postgres.hostaddr}&sslrootcert={rest['sslrootcert']}"
    )
    engine = engines.make(url)
    assert engines.scalar(engine, WHO) == "app"
    assert "ass" not in repr(engine.url)
    assert "ass" not in repr(engine)


@pytest.mark.parametrize("name", ["azpg", "azpg_async"])
def test_the_async_dialect_has_two_names(api: Api, azure: Emulator, name: str) -> None:
    """create_async_engine finds the async dialect by both names, as with psycopg's."""
    engine = create_async_engine(f"postgresql+{name}://?server=myserver")
    assert type(engine.dialect) is azpg.sqlalchemy.AsyncDialect
    assert engine.dialect.driver == "psycopg"


def test_the_dialect_is_found_without_an_import() -> None:
    """A program that only names the dialect in a URL gets it by its entry point."""
    code = (
        "from sqlalchemy import create_engine; "
        "print(type(create_engine('postgresql+azpg://').dialect).__module__)"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert shown.strip() == "azpg.sqlalchemy"


# Pools and the lifetime of tokens


@pytest.mark.parametrize("kind", ["NullPool", "QueuePool", "StaticPool"])
def test_pools_of_sqlalchemy(engines: Engines, azure: Emulator, kind: str) -> None:
    """Each of SQLAlchemy's pools makes its connections with azpg."""
    if engines.api.kind == "async" and kind == "QueuePool":
        kind = "AsyncAdaptedQueuePool"
    engine = engines.make(poolclass=getattr(pool, kind))
    pids = [engines.scalar(engine, PID) for _ in range(2)]
    assert (pids[0] == pids[1]) is (kind != "NullPool")
    assert type(engine.pool).__name__ == kind


def test_an_engine_outlives_its_tokens(
    engines: Engines, azure: Emulator, clock: Clock, credentials: Credentials
) -> None:
    """Each new connection has a valid token, also days after the engine was made."""
    clock.of(azure)
    credential = credentials.of(azure)
    engine = engines.make(connect_args={"credential": credential}, poolclass=pool.NullPool)
    for hours in range(4):
        assert engines.scalar(engine, WHO) == "myapp"
        assert credential.calls == hours + 1
        clock.goes_on(2 * 3600)


def test_an_engine_shows_no_token(engines: Engines, tokens: Tokens, leaks: Leaks) -> None:
    """Neither the URL, the engine nor the logs contain the token."""
    engine = engines.make(connect_args={"credential": tokens.credential}, echo="debug")
    assert engines.scalar(engine, WHO) == "myapp"
    (token,) = tokens.given
    shown = [
        engine.url.render_as_string(hide_password=False),
        repr(engine),
        repr(vars(engine.pool)),
    ]
    assert not [each for each in shown if token in each]
    leaks.none_in_logs(token)


# Reconnecting


@pytest.mark.parametrize("pre_ping", [True, False], ids=["ping", "no-ping"])
def test_closed_connections_are_replaced(engines: Engines, azure: Emulator, pre_ping: bool) -> None:
    """With pool_pre_ping no client gets a closed connection; else one error clears the pool."""
    engine = engines.make(pool_pre_ping=pre_ping)
    conns = [engines.open(engine) for _ in range(3)]
    pids = [engines.ask(conn, PID) for conn in conns]
    for conn in conns:
        engines.close(conn)
    with azpg.connect(server="myserver", autocommit=True) as other:
        for pid in pids:
            other.execute("select pg_terminate_backend(%s, 10000)", (pid,))
    if not pre_ping:
        with pytest.raises(exc.OperationalError) as caught:
            engines.scalar(engine, WHO)
        assert caught.value.connection_invalidated
    new = [engines.open(engine) for _ in range(3)]
    assert [engines.ask(conn, WHO) for conn in new] == ["myapp"] * 3


def test_an_engine_survives_a_failover(engines: Engines, azure: Emulator) -> None:
    """During a failover connects wait; only running queries fail, as disconnects."""
    engine = engines.make(pool_pre_ping=True)
    conn = engines.open(engine)
    before = engines.ask(conn, START)
    engines.close(conn)
    failing_over = threading.Thread(target=azure.fail_over)
    failing_over.start()
    while failing_over.is_alive():
        try:
            engines.scalar(engine, START)
        except exc.DBAPIError as error:
            assert error.connection_invalidated  # noqa: PT017  # the query may also succeed
    failing_over.join()
    assert engines.scalar(engine, START) > before


def test_a_connect_is_retried(
    engines: Engines, azure: Emulator, dig: Any, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine retries its connects as azpg.connect does."""
    opened: list[Any] = []

    def coming_back(message: str, *_args: object) -> None:
        if not opened and message.startswith("connecting again"):
            opened.append(dig((azure.hostaddr, azure.port), ("127.0.0.1", free_port)))

    monkeypatch.setattr("azpg._connect.logger.warning", coming_back)
    url = f"postgresql+azpg://:{free_port}/?server=myserver&hostaddr=127.0.0.1"
    assert engines.scalar(engines.make(url), WHO) == "myapp"
    assert opened


# Errors


def test_a_transient_failure_is_a_disconnect(
    engines: Engines, azure: Emulator, free_port: int
) -> None:
    """connection_invalidated is set for transient failures, and only for these."""
    away = engines.make(connect_args={"port": free_port, "retry_timeout": 0})
    with pytest.raises(exc.OperationalError) as caught:
        engines.scalar(away, WHO)
    assert isinstance(caught.value.orig, azpg.UnreachableError)
    assert caught.value.connection_invalidated
    with pytest.raises(exc.OperationalError) as caught:
        engines.scalar(engines.make(connect_args={"user": "stranger"}), WHO)
    assert isinstance(caught.value.orig, azpg.LoginError)
    assert not caught.value.connection_invalidated


def test_a_failed_authentication_shows_no_token(
    engines: Engines, tokens: Tokens, leaks: Leaks
) -> None:
    """The error has azpg's message and hint, and no token in it or in its frames."""
    options = {"credential": tokens.credential, "user": "stranger"}
    with pytest.raises(exc.OperationalError, match="HINT: ") as caught:
        engines.scalar(engines.make(connect_args=options), WHO)
    (token,) = tokens.given
    assert isinstance(caught.value.orig, azpg.LoginError)
    leaks.none_held(caught.value.orig, token, tokens.credential)


@pytest.mark.parametrize("where", ["url", "query", "environment", "function"])
def test_a_rejected_password_is_in_no_frame(
    engines: Engines,
    postgres: Postgres,
    leaks: Leaks,
    where: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A wrong password is in no frame, not even in SQLAlchemy's, and not in the engine's repr."""
    wrong = "not-the-right-one"
    rest = postgres.conninfo()
    del rest["password"]
    url = {
        "url": f"postgresql+azpg://app:{wrong}@",
        "query": f"postgresql+azpg://?password={wrong}",
    }
    if where == "environment":
        monkeypatch.setenv("PGPASSWORD", wrong)
    elif where == "function":
        rest["password"] = lambda: wrong
    engine = engines.make(url.get(where, "postgresql+azpg://"), connect_args=rest)
    with pytest.raises(exc.OperationalError, match="password authentication failed") as caught:
        engines.scalar(engine, WHO)
    leaks.none_shown(caught.value, wrong)
    assert wrong not in f"{engine!r} {engine.url!r} {engine.url}"


def test_an_invalid_url_with_a_password(engines: Engines, leaks: Leaks) -> None:
    """The first connect raises its problems: create_engine's own frames contain the URL."""
    engine = engines.make(
        "postgresql+azpg://app:not-the-right-one@/?pgbouncer=maybe&cloud=a&cloud=b"
    )
    with pytest.raises(exc.ProgrammingError) as caught:
        engines.scalar(engine, WHO)
    assert isinstance(caught.value.orig, azpg.ConfigError)
    assert len(caught.value.orig.problems) == 2
    leaks.none_shown(caught.value, "not-the-right-one")


def test_a_wrong_certificate(engines: Engines, azure: Emulator) -> None:
    """An engine verifies its server as azpg.connect does."""
    with azure.fault(certificate="other-name"), pytest.raises(exc.OperationalError) as caught:
        engines.scalar(engines.make(), WHO)
    assert isinstance(caught.value.orig, azpg.TLSError)


def test_invalid_arguments(engines: Engines) -> None:
    """A ConfigError is a ProgrammingError of SQLAlchemy, with all the problems."""
    engine = engines.make("postgresql+azpg://localhost/?sslmode=disable&pgbuncer=1")
    with pytest.raises(exc.ProgrammingError) as caught:
        engines.scalar(engine, WHO)
    assert isinstance(caught.value.orig, azpg.ConfigError)
    assert len(caught.value.orig.problems) == 3


# Async


def test_a_slow_credential_does_not_block_the_event_loop(
    azure: Emulator, credentials: Credentials
) -> None:
    """While a sync credential runs, the event loop goes on: here the loop lets it return."""
    gate = threading.Event()

    async def main() -> None:
        loop, begun = asyncio.get_running_loop(), asyncio.Event()

        def answer() -> str:
            loop.call_soon_threadsafe(begun.set)
            assert gate.wait(30)
            return azure.token()

        args = {"credential": credentials.with_get_token(answer)}
        engine = create_async_engine("postgresql+azpg://?server=myserver", connect_args=args)

        async def ask() -> Any:
            async with engine.connect() as conn:
                return (await conn.execute(text(WHO))).scalar_one()

        pending = [asyncio.create_task(ask()) for _ in range(2)]
        await begun.wait()
        gate.set()
        assert [await each for each in pending] == ["myapp", "myapp"]
        await engine.dispose()

    asyncio.run(main())


def test_an_async_credential(azure: Emulator, credentials: Credentials) -> None:
    """An async engine takes an async credential, as in azure.identity.aio."""

    async def main() -> None:
        args = {"credential": credentials.async_with_get_token(azure.token)}
        engine = create_async_engine("postgresql+azpg://?server=myserver", connect_args=args)
        async with engine.connect() as conn:
            assert (await conn.execute(text(WHO))).scalar_one() == "myapp"
        await engine.dispose()

    asyncio.run(main())


# Examples


@pytest.mark.parametrize(
    ("example", "printed"),
    [("sqlalchemy_orm", "apple pear\n"), ("sqlalchemy_async", "myapp myapp myapp\n")],
)
def test_the_examples_run(azure: Emulator, example: str, printed: str) -> None:
    """Each example is short and works."""
    path = EXAMPLES / f"{example}.py"
    assert len(path.read_text().splitlines()) < 40
    command = [sys.executable, "-W", "error", str(path)]
    assert subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout == printed


@pytest.mark.parametrize("way", ["creator", "event"])
def test_a_connection_made_without_azpg_is_rejected(
    engines: Engines, postgres: Postgres, way: str
) -> None:
    """A creator= or a do_connect listener that connects with psycopg causes a ConfigError."""
    is_async = engines.api.kind == "async"
    params: dict[str, Any] = {**postgres.conninfo(), "sslmode": "require"}

    async def connect_async(*_args: Any, **_kwargs: Any) -> Any:
        return await psycopg.AsyncConnection.connect(**params)

    def connect(*_args: Any, **_kwargs: Any) -> Any:
        return psycopg.connect(**params)

    if way == "creator":
        engine = engines.make(
            **({"async_creator": connect_async} if is_async else {"creator": connect})
        )
    else:
        engine = engines.make()
        target = engine.sync_engine if is_async else engine

        @event.listens_for(target, "do_connect")
        def do_connect(dialect: Any, _record: Any, _args: Any, given: dict[str, Any]) -> Any:
            if not is_async:
                return connect()
            given["async_creator_fn"] = connect_async
            return None

    with pytest.raises(exc.ProgrammingError, match=r"creator=") as caught:
        engines.scalar(engine, "select 1")
    assert isinstance(caught.value.orig, azpg.ConfigError)


@pytest.mark.parametrize("dialect", ["postgresql+azpg", "postgresql+psycopg", "postgresql"])
def test_azpg_as_the_module_says_what_to_write(dialect: str) -> None:
    """As azpg is no DB-API module, create_engine(module=azpg) names the URL and creator=."""
    with pytest.raises(AttributeError, match=r"postgresql\+azpg://.*creator=azpg\.connect"):
        sqlalchemy.create_engine(f"{dialect}://myserver/mydb", module=azpg)


def test_a_creator_may_be_azpgs_connect(azure: Emulator) -> None:
    """creator=azpg.connect works with psycopg's dialect, with the environment's server."""
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=azpg.connect)
    with engine.connect() as conn:
        assert conn.exec_driver_sql("select current_user").scalar_one() == "myapp"
    engine.dispose()


def test_a_creator_may_call_azpg(engines: Engines, azure: Emulator) -> None:
    """A creator= that connects with azpg works, as the error says."""
    if engines.api.kind == "async":
        engine = engines.make(async_creator=lambda: azpg.connect_async(server="myserver"))
    else:
        engine = engines.make(creator=lambda: azpg.connect(server="myserver"))
    assert engines.scalar(engine, "select current_user") == "myapp"
