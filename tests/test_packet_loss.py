"""Connections that end in silence: packets are dropped on the way, and nobody is told."""

from __future__ import annotations

import logging
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

import azpg

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from fix_api import Api
    from fix_tunnel import Tunnel

    from azpg.emulator import Emulator

LATE = 40
"""Seconds; left to itself, Linux gives up unacknowledged data after 15 minutes, silence never."""


@pytest.fixture
def tunnel(azure: Emulator, dig: Callable[..., Tunnel]) -> Tunnel:
    """Lead to the emulator."""
    return dig((azure.hostaddr, azure.port))


@contextmanager
def asked(api: Api, tunnel: Tunnel, conn: Any, query: str) -> Iterator[Future[Any]]:
    """Ask a query beside the test, which ends with the tunnel at the latest."""
    with ThreadPoolExecutor(1) as pool:
        try:
            yield pool.submit(api.row, conn, query)
        finally:
            tunnel.cut()


def option(conn: Any, level: int, name: int) -> int:
    """Return an option of a connection's socket."""
    with socket.socket(fileno=socket.dup(conn.fileno())) as sock:
        return sock.getsockopt(level, name)


def test_keepalives_are_on_the_socket(api: Api, azure: Emulator) -> None:
    """Silence is noticed after a minute: probes from 30 s on, and no answer for 60 s."""
    tcp = socket.IPPROTO_TCP
    with api.connect() as conn:
        assert option(conn, socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert option(conn, tcp, socket.TCP_KEEPIDLE) == 30
        assert option(conn, tcp, socket.TCP_KEEPINTVL) == 10
        assert option(conn, tcp, socket.TCP_KEEPCNT) == 3
        # Where it is set it takes the place of the probes' count, so it is as long as they are
        assert option(conn, tcp, socket.TCP_USER_TIMEOUT) == (30 + 3 * 10) * 1000


@pytest.mark.packets
def test_a_silent_drop_while_waiting_for_an_answer_is_noticed(
    api: Api, azure: Emulator, tunnel: Tunnel
) -> None:
    """Keepalives end a wait for an answer that can never come: nothing was left to send."""
    options = {"keepalives_idle": 1, "keepalives_interval": 1, "tcp_user_timeout": 2000}
    with (
        api.connect() as other,
        api.connect(hostaddr="127.0.0.1", port=tunnel.port, **options) as conn,
        asked(api, tunnel, conn, "select pg_sleep(60)") as answer,
    ):
        backend = conn.info.backend_pid
        running = "select state = 'active' from pg_stat_activity where pid = %s"
        while not api.row(other, running, backend)[0]:
            api.run(other.rollback())  # its statistics are a transaction's
        tunnel.swallow()
        assert isinstance(answer.exception(LATE), psycopg.OperationalError)
        assert conn.broken
        api.row(other, "select pg_terminate_backend(%s)", backend)


@pytest.mark.packets
def test_a_silent_drop_before_a_query_is_noticed(api: Api, azure: Emulator, tunnel: Tunnel) -> None:
    """tcp_user_timeout ends a query whose bytes nobody acknowledges, long before a keepalive."""
    options = {"keepalives_idle": 600, "tcp_user_timeout": 1000}
    with api.connect(hostaddr="127.0.0.1", port=tunnel.port, **options) as conn:
        assert api.row(conn, "select 1") == (1,)
        tunnel.swallow()
        with asked(api, tunnel, conn, "select 2") as answer:
            assert isinstance(answer.exception(LATE), psycopg.OperationalError)
            assert conn.broken


@pytest.mark.packets
def test_a_short_silence_costs_nothing(api: Api, azure: Emulator, tunnel: Tunnel) -> None:
    """What was sent into it arrives once packets come through again: a pause is no end."""
    with api.connect(hostaddr="127.0.0.1", port=tunnel.port) as conn:
        assert api.row(conn, "select 1") == (1,)
        tunnel.swallow()
        with asked(api, tunnel, conn, "select 2") as answer:
            with pytest.raises(TimeoutError):
                answer.result(0.5)
            tunnel.mend()
            assert answer.result(LATE) == (2,)


@pytest.mark.packets
def test_a_connect_into_silence_ends_in_time(api: Api, azure: Emulator, tunnel: Tunnel) -> None:
    """An address that swallows everything costs connect_timeout, and the hint names firewalls."""
    tunnel.swallow()
    started = time.monotonic()
    with pytest.raises(azpg.ConnectTimeoutError, match=r"HINT: .*firewall"):
        api.open(hostaddr="127.0.0.1", port=tunnel.port, connect_timeout=2, retry_timeout=0)
    assert time.monotonic() - started < 10


@pytest.mark.packets
def test_a_connect_into_silence_is_tried_again(
    api: Api, azure: Emulator, tunnel: Tunnel, caplog: pytest.LogCaptureFixture
) -> None:
    """It gets through by itself once packets come through again."""

    def mend(record: logging.LogRecord) -> bool:
        tunnel.mend()
        return True

    tunnel.swallow()
    logger = logging.getLogger("azpg")
    logger.addFilter(mend)
    try:
        options = {"hostaddr": "127.0.0.1", "port": tunnel.port}
        with api.connect(**options, connect_timeout=2, retry_timeout=LATE) as conn:
            assert api.row(conn, "select 1") == (1,)
    finally:
        logger.removeFilter(mend)
    assert "connecting again" in caplog.text


@pytest.mark.packets
def test_a_pool_leaves_silence_behind(api: Api, azure: Emulator, tunnel: Tunnel) -> None:
    """The connection that fell silent fails in time, once; the next one is new and works."""
    options = {"hostaddr": "127.0.0.1", "port": tunnel.port, "tcp_user_timeout": 1000}
    with api.pool(min_size=1, max_size=1, timeout=LATE, **options) as pool:
        before = api.row_of_pool(pool, "select pg_backend_pid()")
        tunnel.swallow()
        started = time.monotonic()
        with pytest.raises(psycopg.OperationalError):
            api.row_of_pool(pool, "select 1")
        assert time.monotonic() - started < LATE
        tunnel.mend()
        assert api.row_of_pool(pool, "select pg_backend_pid()") != before
