"""The liveness check before each checkout: a connection that the server closed is replaced."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from fix_pools import backends, idle, terminate, until

from azpg.pool._liveness import is_alive

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fix_api import Api
    from fix_hostile import Hostile, Peer
    from fix_tunnel import Dig

    from azpg.emulator import Emulator

pytestmark = pytest.mark.compat

PID = "select pg_backend_pid()"


ENDS: dict[str, Callable[[Emulator], object]] = {
    "restart": lambda emulator: emulator.restart_postgres("fast"),
    "immediate restart": lambda emulator: emulator.restart_postgres("immediate"),
    "killed server": lambda emulator: emulator.restart_postgres("kill"),
    "killed backend": lambda emulator: emulator.restart_postgres("kill-backend"),
    "FIN": lambda emulator: emulator.cut(),
    "RST": lambda emulator: emulator.cut(reset=True),
}


# In a pool


@pytest.mark.parametrize("end", ENDS)
def test_no_client_gets_a_closed_connection(api: Api, mortal: Emulator, end: str) -> None:
    """After the server closed all eight, the next checkout works and eight are idle again."""
    with api.pool(min_size=8) as pool:
        before = backends(pool)
        ENDS[end](mortal)
        until(lambda: not any(is_alive(conn) for conn in pool._pool))
        pid = api.row_of_pool(pool, PID)[0]
        assert pid not in before
        until(lambda: idle(pool) == 8)
        assert not backends(pool) & before
        assert pool.get_stats()["connections_lost"] == 8


def test_a_restart_of_pgbouncer(api: Api, azure: Emulator) -> None:
    """After a restart of PgBouncer each checkout works."""
    with api.pool(min_size=3, pgbouncer=True) as pool:
        azure.restart_pgbouncer()
        for _ in range(3):
            assert api.row_of_pool(pool, "select 1") == (1,)
        until(lambda: idle(pool) == 3)
        assert pool.get_stats()["connections_lost"] == 3


def test_only_closed_connections_are_replaced(api: Api, azure: Emulator) -> None:
    """A checkout replaces all closed connections, and keeps the open ones."""
    with api.pool(min_size=4) as pool:
        first, second, third, fourth = (conn.info.backend_pid for conn in pool._pool)
        terminate(api, {first, third})
        assert api.row_of_pool(pool, PID) == (second,)
        until(lambda: idle(pool) == 4)
        assert {second, fourth} == backends(pool) & {first, second, third, fourth}


def test_a_waiting_client_gets_no_closed_connection(api: Api, azure: Emulator) -> None:
    """A connection that was closed in use is replaced, not handed to a waiting client."""
    with api.pool(min_size=1) as pool:
        conn = api.run(pool.getconn())
        waiting = api.begin(pool.getconn, 60)
        until(lambda: pool.get_stats()["requests_waiting"])
        terminate(api, {conn.info.backend_pid})
        api.run(pool.putconn(conn))
        other = waiting.result(60)
        assert other is not conn
        assert api.row(other, "select 1") == (1,)
        api.run(pool.putconn(other))


def test_check_is_called_with_open_connections_only(api: Api, azure: Emulator) -> None:
    """The liveness check runs first, so that `check` never fails and delays the checkout."""
    checked: list[bool] = []

    def check(conn: Any) -> None:
        checked.append(is_alive(conn))

    async def check_async(conn: Any) -> None:
        check(conn)

    with api.pool(min_size=3, check=check if api.kind == "sync" else check_async) as pool:
        terminate(api, backends(pool))
        assert api.row_of_pool(pool, "select 1") == (1,)
    assert checked == [True]


def test_a_notification_of_an_idle_connection_is_not_lost(api: Api, azure: Emulator) -> None:
    """notifies() returns, after checkout, what arrived while the connection was idle."""
    with api.pool(min_size=1, autocommit=True) as pool, api.connect(autocommit=True) as other:
        conn = api.run(pool.getconn())
        api.run(conn.execute("listen news"))
        api.run(pool.putconn(conn))
        api.run(other.execute("notify news, 'of the day'"))
        again = api.run(pool.getconn())
        assert again is conn
        if api.kind == "sync":
            received = [each.payload for each in conn.notifies(timeout=30, stop_after=1)]
        else:

            async def notified() -> list[str]:
                return [each.payload async for each in conn.notifies(timeout=30, stop_after=1)]

            received = api.run(notified())
        assert received == ["of the day"]
        api.run(pool.putconn(conn))


# On one connection


@pytest.fixture
def conn(azure: Emulator) -> Iterator[Any]:
    """Connect as an ordinary client."""
    import azpg

    with azpg.connect(autocommit=True) as conn:
        yield conn


def test_an_idle_connection_is_alive(conn: Any) -> None:
    """An idle connection is alive, also after queries."""
    assert is_alive(conn)
    conn.execute("select 1")
    assert is_alive(conn)


def test_a_closed_connection_is_not_alive(conn: Any) -> None:
    """A connection that the client closed is not alive."""
    conn.close()
    assert not is_alive(conn)


@pytest.mark.packets
def test_the_check_makes_no_round_trip(azure: Emulator, dig: Dig) -> None:
    """If the network drops every packet, the check still returns at once, with True."""
    import azpg

    tunnel = dig((azure.hostaddr, azure.port))
    with azpg.connect(hostaddr="127.0.0.1", port=tunnel.port) as conn:
        tunnel.swallow()
        started = time.monotonic()
        for _ in range(1000):
            assert is_alive(conn)
        assert time.monotonic() - started < 5
        tunnel.mend()


def test_notices_are_passed_to_their_handler(hostile: Callable[..., Hostile]) -> None:
    """The check calls the caller's notice handler, and the connection stays alive."""
    connected = threading.Event()

    def script(peer: Peer) -> None:
        accept(peer)
        connected.wait(30)
        peer.say(b"N", b"SNOTICE\0VNOTICE\0C00000\0Mbackup begins\0\0")
        peer.read_all()

    received: list[str | None] = []
    with connect_unencrypted(hostile(script)) as conn:
        connected.set()
        conn.add_notice_handler(lambda notice: received.append(notice.message_primary))
        until(lambda: is_alive(conn) and received)
        assert received == ["backup begins"]
        assert is_alive(conn)


@pytest.mark.parametrize("severity", ["FATAL", "PANIC"])
def test_a_fatal_error_is_the_end(hostile: Callable[..., Hostile], severity: str) -> None:
    """A connection with an unread fatal error is not alive, even if its socket is open."""
    connected = threading.Event()

    def script(peer: Peer) -> None:
        accept(peer)
        connected.wait(30)
        peer.say(b"E", f"S{severity}\0V{severity}\0C57P01\0Mterminating\0\0".encode())
        peer.read_all()

    with connect_unencrypted(hostile(script)) as conn:
        connected.set()
        until(lambda: not is_alive(conn))
        assert not conn.closed


def test_endless_input_is_the_end(hostile: Callable[..., Hostile]) -> None:
    """A connection on which the server never stops sending is not alive."""

    def script(peer: Peer) -> None:
        accept(peer)
        notice = b"SNOTICE\0VNOTICE\0C00000\0M" + b"x" * 60000 + b"\0\0"
        while True:
            peer.say(b"N", notice)

    with connect_unencrypted(hostile(script)) as conn:
        until(lambda: not is_alive(conn))


def test_an_error_of_a_handler_is_logged(
    conn: Any, azure: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    """If the notification handler raises, the error is logged and the connection is not alive."""
    import azpg

    def handle(_: object) -> None:
        raise ZeroDivisionError

    conn.add_notify_handler(handle)
    conn.execute("listen news")
    with azpg.connect(autocommit=True) as other:
        other.execute("notify news")
    with caplog.at_level(logging.WARNING, "azpg"):
        until(lambda: not is_alive(conn))
    assert "ZeroDivisionError" in caplog.text


def accept(peer: Peer) -> None:
    """Accept a client without authentication."""
    peer.packet()
    peer.ask(0)
    peer.say(b"Z", b"I")


def connect_unencrypted(server: Hostile) -> psycopg.Connection[Any]:
    """Connect without TLS."""
    return psycopg.connect(
        host=server.host, port=server.port, user="me", dbname="x", sslmode="disable"
    )
