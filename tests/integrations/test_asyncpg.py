"""azpg.asyncpg.connect: authentication and TLS, in pools and with SQLAlchemy."""

from __future__ import annotations

import asyncio
import functools
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

import azpg
import azpg.asyncpg
from azpg._redact import Secret

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_asyncpg import Run
    from fix_clock import Clock
    from fix_credentials import Credentials
    from fix_hostile import Certificates, Hostile
    from fix_leaks import Leaks, Tokens
    from fix_servers import Postgres
    from fix_tunnel import Dig

    from azpg.emulator import Emulator

pytestmark = pytest.mark.compat

WHO = "select current_user"


@pytest.fixture
def ask(look: Callable[..., Any]) -> Callable[..., Any]:
    """Return the value that a query gives on a connection of its own."""

    def ask(query: str = WHO, *args: Any, **options: Any) -> Any:
        return look(lambda conn: conn.fetchval(query), *args, **options)

    return ask


# Authentication


def test_it_authenticates_with_a_token(
    ask: Callable[..., Any], look: Callable[..., Any], azure: Emulator
) -> None:
    """A server's name is enough: the user is the token's role, and TLS is verified."""
    assert ask(server="myserver") == "myapp"

    async def over(conn: Any) -> tuple[str, bool]:
        made = conn._transport.get_extra_info("ssl_object")
        return made.version(), made.context.check_hostname

    assert look(over, server="myserver") == ("TLSv1.3", True)


@pytest.mark.parametrize(
    "call",
    [
        {},
        {"dsn": "postgresql:///postgres"},
        {"dsn": "host=myserver.postgres.database.azure.com dbname=template1 sslmode=require"},
        {"host": "myserver.postgres.database.azure.com", "port": 5432},
        {"host": ["myserver.postgres.database.azure.com"], "port": ["5432"]},
        {"dsn": "postgresql://stranger@/template1", "user": "myapp"},
    ],
    ids=["environment", "URI", "key-value", "host", "lists", "keyword-wins"],
)
def test_sources_of_the_server(
    ask: Callable[..., Any], azure: Emulator, call: dict[str, Any]
) -> None:
    """The environment, a connection string of either form, or arguments name the server."""
    assert ask("select current_database()", **call, database="postgres") == "postgres"


def test_asyncpgs_own_arguments(
    ask: Callable[..., Any], look: Callable[..., Any], azure: Emulator
) -> None:
    """Arguments that azpg does not need are passed to asyncpg."""

    class Record(asyncpg.Record):
        """A caller's record class."""

    class Connection(asyncpg.Connection):
        """A caller's connection class."""

    async def seen(conn: Any) -> tuple[object, ...]:
        return type(conn), conn._config.command_timeout, conn._config.statement_cache_size

    options: dict[str, Any] = {
        "connection_class": Connection,
        "record_class": Record,
        "command_timeout": 7,
        "statement_cache_size": 3,
        "server_settings": {"application_name": "shop", "search_path": "own"},
    }
    assert look(seen, server="myserver", **options) == (Connection, 7, 3)
    assert ask("show application_name", server="myserver", **options) == "shop"
    assert ask("show search_path", server="myserver", **options) == "own"
    assert ask("show application_name", server="myserver") == "azpg"


def test_an_unknown_argument(ask: Callable[..., Any], azure: Emulator) -> None:
    """An argument that neither azpg, libpq nor asyncpg has is asyncpg's TypeError."""
    with pytest.raises(TypeError, match="statment_cache_size"):
        ask(server="myserver", statment_cache_size=0)


def test_a_password(ask: Callable[..., Any], postgres: Postgres) -> None:
    """A PostgreSQL role's password is text, a Secret, or a function called each time."""
    rest = postgres.conninfo()
    password = rest.pop("password")
    database = rest.pop("dbname")

    async def awaited() -> Any:
        return password

    for given in (password, Secret(password), lambda: Secret(password), awaited):
        assert ask(**rest, password=given, database=database) == "app"


def test_a_password_from_the_environment(
    ask: Callable[..., Any], postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PG* variables alone are enough to authenticate a role, as in libpq."""
    for name, value in postgres.conninfo().items():
        variable = {"dbname": "DATABASE"}.get(name, name.upper())
        monkeypatch.setenv(f"PG{variable}", str(value))
    assert ask() == "app"


def test_a_password_file(
    ask: Callable[..., Any], postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A password file is used if the caller names it, and only then."""
    file = tmp_path / "home" / ".pgpass"
    file.write_text(f"*:*:*:app:{postgres.password}")
    file.chmod(0o600)
    rest = postgres.conninfo(password=None)
    assert ask(**rest, passfile=str(file)) == "app"
    with pytest.raises(azpg.LoginError):
        ask(**rest | {"password": ""})


def test_without_tls_if_requested(ask: Callable[..., Any], postgres: Postgres) -> None:
    """A server that is not Azure's is reached by its socket, or with a weaker sslmode."""
    socket_options = {"host": postgres.socket, "port": 5432, "user": "admin", "password": ""}
    assert ask(**socket_options, database="postgres") == "admin"
    rest = postgres.conninfo(host="localhost", hostaddr=None)
    del rest["sslrootcert"], rest["hostaddr"], rest["host"]
    for mode, encrypted in (("disable", False), ("prefer", True), ("require", True)):
        query = "select ssl from pg_stat_ssl where pid = pg_backend_pid()"
        assert ask(query, **rest, host=postgres.hostaddr, ssl=mode) is encrypted


# Hosts and TLS


def test_through_a_tunnel(
    ask: Callable[..., Any], azure: Emulator, dig: Dig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """server= is verified, and host= is the address to connect to."""
    monkeypatch.delenv("PGHOSTADDR")
    tunnel = dig((azure.hostaddr, azure.port))
    here = {"server": "myserver", "host": "localhost", "port": tunnel.port}
    # localhost may have an address without a listener: asyncpg tries the next one
    assert ask(**here) == "myapp"
    assert tunnel.connections == 1
    with azure.fault(certificate="other-name"), pytest.raises(azpg.TLSError) as caught:
        ask(**here, retry_timeout=0)
    assert caught.value.kind == "certificate-name"


def test_the_next_of_several_hosts(
    ask: Callable[..., Any], azure: Emulator, free_port: int
) -> None:
    """If the first host does not answer, the next one is tried."""
    host = f"{azure.host},{azure.host}"
    port = [free_port, azure.port]
    assert ask(host=host, hostaddr=f"127.0.0.1,{azure.hostaddr}", port=port) == "myapp"


def test_direct_tls_begins_with_tls(
    look: Callable[..., Any], hostile: Callable[..., Hostile], credentials: Credentials
) -> None:
    """direct_tls=True sends no SSLRequest before the TLS handshake."""
    server = hostile(lambda peer: peer.read(1))
    options = {"credential": credentials.with_get_token(), "user": "x", "direct_tls": True}
    with pytest.raises(azpg.ConnectError):
        look(None, **server.address(), **options)
    assert server.clear[:1] == b"\x16"


def test_a_root_file_that_changed(
    ask: Callable[..., Any], azure: Emulator, certificates: Certificates, tmp_path: Path
) -> None:
    """The root certificates are read again if their file has changed."""
    file = tmp_path / "roots.pem"
    file.write_text(Path(certificates.root).read_text())
    with pytest.raises(azpg.TLSError):
        ask(server="myserver", sslrootcert=str(file))
    file.write_text(Path(azure.root_certificate).read_text())
    assert ask(server="myserver", sslrootcert=str(file)) == "myapp"


def test_direct_tls(ask: Callable[..., Any], azure: Emulator) -> None:
    """direct_tls=True verifies the server's name."""
    assert ask(server="myserver", direct_tls=True) == "myapp"


def test_a_query_is_canceled_over_verified_tls(run: Run, azure: Emulator) -> None:
    """The connection of asyncpg for a cancel request verifies the same name."""

    async def main() -> None:
        conn = await azpg.asyncpg.connect(server="myserver")
        with pytest.raises(TimeoutError):
            await conn.execute("select pg_sleep(30)", timeout=0.2)
        assert await conn.fetchval("select 1") == 1
        await conn.close()

    run(main())


def test_idle_connections_are_kept_alive(look: Callable[..., Any], azure: Emulator) -> None:
    """TCP keepalives are set as libpq does, by the same keywords."""

    async def seen(conn: Any) -> list[int]:
        sock = conn._transport.get_extra_info("socket")
        number = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        return [
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            *(sock.getsockopt(socket.IPPROTO_TCP, each) for each in number),
            sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
        ]

    assert look(seen, server="myserver") == [1, 30, 10, 3, 60000]
    assert look(seen, "keepalives_idle=7", server="myserver")[:2] == [1, 7]
    assert look(seen, server="myserver", keepalives=0)[0] == 0


# PgBouncer


def test_through_pgbouncer(look: Callable[..., Any], run: Run, azure: Emulator) -> None:
    """pgbouncer=True means port 6432 and no statement cache, also for concurrent queries."""

    async def seen(conn: Any) -> tuple[int, int]:
        return conn._addr[1], conn._config.statement_cache_size

    assert look(seen, server="myserver", pgbouncer=True) == (6432, 0)
    assert look(seen, server="myserver", port=6432) == (6432, 0)
    assert look(seen, server="myserver", pgbouncer=True, statement_cache_size=5) == (6432, 5)
    assert look(seen, server="myserver") == (5432, 100)

    async def main() -> None:
        options: dict[str, Any] = {"server": "myserver", "pgbouncer": True, "max_size": 4}
        async with asyncpg.create_pool(connect=azpg.asyncpg.connect, min_size=1, **options) as pool:
            pending = [pool.fetchval("select $1::int", number) for number in range(40)]
            assert await asyncio.gather(*pending) == list(range(40))

    run(main())


# Pools and the lifetime of tokens


def test_a_pool_outlives_its_tokens(
    run: Run, azure: Emulator, clock: Clock, credentials: Credentials
) -> None:
    """Each new connection of a pool has a valid token; connections made together share one."""
    clock.of(azure)
    credential = credentials.of(azure)

    async def main() -> None:
        connect = functools.partial(azpg.asyncpg.connect, server="myserver", credential=credential)
        async with asyncpg.create_pool(connect=connect, min_size=3, max_size=3) as pool:
            for hours in range(3):
                assert {await pool.fetchval(WHO) for _ in range(3)} == {"myapp"}
                assert credential.calls == hours + 1
                clock.goes_on(2 * 3600)
                await pool.expire_connections()

    run(main())


def test_a_pool_survives_a_restart(run: Run, azure: Emulator) -> None:
    """After a restart a pool has new connections, and no client gets a closed one."""

    async def main() -> None:
        connect = functools.partial(azpg.asyncpg.connect, server="myserver")
        async with asyncpg.create_pool(connect=connect, min_size=3, max_size=3) as pool:
            await asyncio.to_thread(azure.restart_postgres, "immediate")
            pending = [pool.fetchval(WHO) for _ in range(3)]
            assert await asyncio.gather(*pending) == ["myapp"] * 3

    run(main())


def test_a_rejected_token_is_replaced_once(
    ask: Callable[..., Any], azure: Emulator, credentials: Credentials
) -> None:
    """If the server rejects a token, another one is acquired, once."""
    answers = [azure.token(lifetime=-60), azure.token()]
    credential = credentials.with_get_token(lambda: answers[min(credential.calls, 2) - 1])
    assert ask(server="myserver", credential=credential) == "myapp"
    assert credential.calls == 2


def test_sqlalchemys_own_asyncpg_dialect(run: Run, azure: Emulator) -> None:
    """SQLAlchemy's postgresql+asyncpg connects with azpg as its async_creator_fn."""

    async def main() -> None:
        args = {"async_creator_fn": azpg.asyncpg.connect, "server": "myserver"}
        engine = create_async_engine("postgresql+asyncpg:///postgres", connect_args=args)
        async with engine.connect() as conn:
            assert (await conn.execute(text(WHO))).scalar_one() == "myapp"
        await engine.dispose()

    run(main())


def test_a_slow_credential_does_not_block_the_event_loop(
    run: Run, azure: Emulator, credentials: Credentials
) -> None:
    """While a sync credential runs, the event loop goes on: here the loop lets it return."""
    gate = threading.Event()

    async def main() -> None:
        loop, begun = asyncio.get_running_loop(), asyncio.Event()

        def answer() -> str:
            loop.call_soon_threadsafe(begun.set)
            assert gate.wait(30)
            return azure.token()

        credential = credentials.with_get_token(answer)
        pending = asyncio.create_task(
            azpg.asyncpg.connect(server="myserver", credential=credential)
        )
        await begun.wait()
        gate.set()
        await (await pending).close()

    run(main())


def test_a_connection_shows_no_token(run: Run, tokens: Tokens, leaks: Leaks) -> None:
    """Neither a connection, its parameters nor a query logger shows the token."""
    records: list[Any] = []

    async def main() -> str:
        conn: Any = await azpg.asyncpg.connect(server="myserver", credential=tokens.credential)
        conn.add_query_logger(records.append)
        await conn.fetchval("select 1")
        shown = f"{conn!r} {conn._params!r}"
        await conn.close()
        return shown

    shown = run(main())
    (token,) = tokens.given
    assert len(records) == 1
    assert token not in f"{shown} {records!r}"
    leaks.none_in_logs(token)


def test_the_example_runs(azure: Emulator) -> None:
    """The example is short and works."""
    path = Path(__file__).parent.parent.parent / "examples" / "asyncpg_pool.py"
    assert len(path.read_text().splitlines()) < 40
    shown = subprocess.run([sys.executable, path], check=True, stdout=subprocess.PIPE, text=True)
    assert shown.stdout == "myapp 0 2 4 6 8\n"
