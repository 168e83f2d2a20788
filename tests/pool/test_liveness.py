"""The look before each checkout: what the server has closed is never handed out."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from fix_pools import backends, idle, terminate, until

from azpg.pool._liveness import alive

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fix_api import Api
    from fix_hostile import Hostile, Peer
    from fix_tunnel import Dig

    from azpg.emulator import Emulator

PID = "select pg_backend_pid()"


ENDS: dict[str, Callable[[Emulator], object]] = {
    "restart": lambda emulator: emulator.restart_postgres("fast"),
    "immediate restart": lambda emulator: emulator.restart_postgres("immediate"),
    "killed server": lambda emulator: emulator.restart_postgres("kill"),
    "killed backend": lambda emulator: emulator.restart_postgres("kill-backend"),
    "FIN": lambda emulator: emulator.cut(),
    "RST": lambda emulator: emulator.cut(reset=True),
}


# Of a pool


@pytest.mark.parametrize("end", ENDS)
def test_no_client_meets_a_connection_that_has_ended(api: Api, mortal: Emulator, end: str) -> None:
    """After all eight have ended the next checkout works, and soon eight wait again."""
    with api.pool(min_size=8) as pool:
        before = backends(pool)
        ENDS[end](mortal)
        until(lambda: not any(alive(conn) for conn in pool._pool))
        pid = api.row_of_pool(pool, PID)[0]
        assert pid not in before
        until(lambda: idle(pool) == 8)
        assert not backends(pool) & before
        assert pool.get_stats()["connections_lost"] == 8


def test_pgbouncer_may_restart(api: Api, azure: Emulator) -> None:
    """The same through PgBouncer, when it is restarted."""
    with api.pool(min_size=3, pgbouncer=True) as pool:
        azure.restart_pgbouncer()
        for _ in range(3):
            assert api.row_of_pool(pool, "select 1") == (1,)
        until(lambda: idle(pool) == 3)
        assert pool.get_stats()["connections_lost"] == 3


def test_those_that_live_stay(api: Api, azure: Emulator) -> None:
    """Only what has ended is replaced, all of it at once."""
    with api.pool(min_size=4) as pool:
        first, second, third, fourth = (conn.info.backend_pid for conn in pool._pool)
        terminate(api, {first, third})
        assert api.row_of_pool(pool, PID) == (second,)
        until(lambda: idle(pool) == 4)
        assert {second, fourth} == backends(pool) & {first, second, third, fourth}


def test_a_client_that_waits_gets_no_dead_connection(api: Api, azure: Emulator) -> None:
    """A connection that ended while it was out is replaced, not handed to who waits for it."""
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


def test_the_callers_check_comes_after_the_look(api: Api, azure: Emulator) -> None:
    """check= is called with live connections only, so that its pauses never begin."""
    checked: list[bool] = []

    def check(conn: Any) -> None:
        checked.append(alive(conn))

    async def check_async(conn: Any) -> None:
        check(conn)

    with api.pool(min_size=3, check=check if api.kind == "sync" else check_async) as pool:
        terminate(api, backends(pool))
        assert api.row_of_pool(pool, "select 1") == (1,)
    assert checked == [True]


def test_a_notification_that_waited_is_not_lost(api: Api, azure: Emulator) -> None:
    """What arrives while a connection waits in the pool is there for notifies() after checkout."""
    with api.pool(min_size=1, autocommit=True) as pool, api.connect(autocommit=True) as other:
        conn = api.run(pool.getconn())
        api.run(conn.execute("listen news"))
        api.run(pool.putconn(conn))
        api.run(other.execute("notify news, 'of the day'"))
        again = api.run(pool.getconn())
        assert again is conn
        if api.kind == "sync":
            told = [each.payload for each in conn.notifies(timeout=5, stop_after=1)]
        else:

            async def notified() -> list[str]:
                return [each.payload async for each in conn.notifies(timeout=5, stop_after=1)]

            told = api.run(notified())
        assert told == ["of the day"]
        api.run(pool.putconn(conn))


# Of a connection


@pytest.fixture
def conn(azure: Emulator) -> Iterator[Any]:
    """Connect as an ordinary client."""
    import azpg

    with azpg.connect(autocommit=True) as conn:
        yield conn


def test_an_idle_connection_is_alive(conn: Any) -> None:
    """A connection at rest is alive, after queries too."""
    assert alive(conn)
    conn.execute("select 1")
    assert alive(conn)


def test_a_closed_connection_is_not(conn: Any) -> None:
    """One that was closed here is not."""
    conn.close()
    assert not alive(conn)


def test_a_look_sends_nothing(azure: Emulator, dig: Dig) -> None:
    """What becomes of a connection behind a network that drops all is not known at a look."""
    import azpg

    tunnel = dig((azure.hostaddr, azure.port))
    with azpg.connect(hostaddr="127.0.0.1", port=tunnel.port) as conn:
        tunnel.swallow()
        started = time.monotonic()
        for _ in range(1000):
            assert alive(conn)
        assert time.monotonic() - started < 5
        tunnel.mend()


def test_notices_reach_their_handler(hostile: Callable[..., Hostile]) -> None:
    """A notice that waited is told to the caller's handler, and the connection goes on."""
    connected = threading.Event()

    def script(peer: Peer) -> None:
        welcome(peer)
        connected.wait(30)
        peer.say(b"N", b"SNOTICE\0VNOTICE\0C00000\0Mbackup begins\0\0")
        peer.read_all()

    told: list[str | None] = []
    with plain(hostile(script)) as conn:
        connected.set()
        conn.add_notice_handler(lambda notice: told.append(notice.message_primary))
        until(lambda: alive(conn) and told)
        assert told == ["backup begins"]
        assert alive(conn)


@pytest.mark.parametrize("severity", ["FATAL", "PANIC"])
def test_last_words_are_the_end(hostile: Callable[..., Hostile], severity: str) -> None:
    """A fatal error that waits is the end, also before the socket is closed."""
    connected = threading.Event()

    def script(peer: Peer) -> None:
        welcome(peer)
        connected.wait(30)
        peer.say(b"E", f"S{severity}\0V{severity}\0C57P01\0Mterminating\0\0".encode())
        peer.read_all()

    with plain(hostile(script)) as conn:
        connected.set()
        until(lambda: not alive(conn))
        assert not conn.closed


def test_endless_talk_is_the_end(hostile: Callable[..., Hostile]) -> None:
    """Who never stops talking on an idle connection is not waited for."""

    def script(peer: Peer) -> None:
        welcome(peer)
        notice = b"SNOTICE\0VNOTICE\0C00000\0M" + b"x" * 60000 + b"\0\0"
        while True:
            peer.say(b"N", notice)

    with plain(hostile(script)) as conn:
        until(lambda: not alive(conn))


def test_a_handler_that_fails_costs_the_connection(
    conn: Any, azure: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    """The error of a notification's handler is logged, and its connection given up."""
    import azpg

    def handle(_: object) -> None:
        raise ZeroDivisionError

    conn.add_notify_handler(handle)
    conn.execute("listen news")
    with azpg.connect(autocommit=True) as other:
        other.execute("notify news")
    with caplog.at_level(logging.WARNING, "azpg"):
        until(lambda: not alive(conn))
    assert "ZeroDivisionError" in caplog.text


def welcome(peer: Peer) -> None:
    """Let a client in without a question."""
    peer.packet()
    peer.ask(0)
    peer.say(b"Z", b"I")


def plain(server: Hostile) -> psycopg.Connection[Any]:
    """Connect in clear, as nothing but the talk afterwards matters."""
    return psycopg.connect(
        host=server.host, port=server.port, user="me", dbname="x", sslmode="disable"
    )
