"""Cancel requests: they end the query, and nobody on the network can read their key."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

import azpg
from azpg import _cancel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fix_api import Api, AsyncApi, SyncApi
    from fix_credentials import Credentials
    from fix_hostile import Certificates, Hostile, Peer, Script
    from fix_servers import Postgres

    from azpg.emulator import Emulator

pytestmark = pytest.mark.compat

CANCEL_REQUEST = (80877102).to_bytes(4)
SLEEP = "select pg_sleep(60)"


def cancel(api: Api, conn: Any) -> None:
    """Cancel the query; of an async connection, on its event loop."""

    async def on_loop() -> None:
        conn.cancel()

    if api.kind == "sync":
        conn.cancel()
    else:
        api.run(on_loop())


def cancel_safe(api: Api, conn: Any) -> None:
    """Cancel the query without blocking the event loop."""
    api.run(conn.cancel_safe(timeout=20))


def wait_until_it_runs(conn: Any) -> None:
    """Wait until the server runs the connection's query."""
    with azpg.connect(server="myserver", autocommit=True) as observer:
        running = "select 1 from pg_stat_activity where query = %s and application_name = %s"
        asked = [SLEEP, conn.info.get_parameters()["application_name"]]
        deadline = time.monotonic() + 30
        while observer.execute(running, asked).fetchone() is None:
            assert time.monotonic() < deadline


RECORDER = """
import contextlib, socket, sys, threading

listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)

def carry(source, target, record=None):
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            if record:
                record.write(data)
                record.flush()
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)

while True:
    near, _ = listener.accept()
    far = socket.create_connection((sys.argv[1], int(sys.argv[2])))
    threading.Thread(target=carry, args=(near, far, sys.stdout.buffer), daemon=True).start()
    threading.Thread(target=carry, args=(far, near), daemon=True).start()
"""


class Recorder:
    """A proxy that records what clients send, as anyone on the network reads it.

    It is a process of its own, because psycopg's own cancel() lets no other thread run.
    """

    def __init__(self, address: str, port: int) -> None:
        command = [sys.executable, "-c", RECORDER, address, str(port)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self._output = self._process.stdout
        self.port = int(self._output.readline())

    def stop(self) -> bytes:
        """End the proxy, and return what it recorded."""
        self._process.kill()
        self._process.wait()
        return self._output.read()

    def close(self) -> None:
        """End the proxy."""
        self._process.kill()
        self._process.wait()
        self._output.close()


@pytest.fixture(params=["postgres", "pgbouncer"])
def recorder(request: pytest.FixtureRequest, azure: Emulator) -> Iterator[Recorder]:
    """Record the traffic to PostgreSQL's port, or to PgBouncer's."""
    port = azure.port if request.param == "postgres" else azure.pgbouncer_port
    assert port is not None
    recorder = Recorder(azure.hostaddr, port)
    yield recorder
    recorder.close()


@pytest.fixture
def options(request: pytest.FixtureRequest, recorder: Recorder) -> dict[str, Any]:
    """Return arguments to connect through the recorder, with an application name of this test."""
    return {
        "server": "myserver",
        "hostaddr": "127.0.0.1",
        "port": recorder.port,
        "application_name": f"{os.getpid()} {request.node.name}"[-60:],
    }


@pytest.mark.parametrize("how", [cancel, cancel_safe])
@pytest.mark.parametrize("from_pool", [False, True], ids=["connect", "pool"])
def test_a_cancel_request_is_encrypted(
    api: Api,
    azure: Emulator,
    recorder: Recorder,
    options: dict[str, Any],
    how: Callable[[Api, Any], None],
    from_pool: bool,
) -> None:
    """cancel() ends the query, and the request is not readable on the network."""
    before = azure.counts
    with ExitStack() as stack:
        if from_pool:
            pool = stack.enter_context(api.pool(min_size=1, **options))
            conn = api.run(pool.getconn())
            stack.callback(lambda: api.run(pool.putconn(conn)))
        else:
            conn = stack.enter_context(api.connect(**options))
        query = api.begin(conn.execute, SLEEP)
        wait_until_it_runs(conn)
        how(api, conn)
        with pytest.raises(psycopg.errors.QueryCanceled):
            query.result(30)
        api.run(conn.rollback())
        assert api.row(conn, "select 1") == (1,)
    assert (azure.counts - before).cancel_requests == 1
    assert CANCEL_REQUEST not in recorder.stop()


def test_the_cancel_request_of_an_interrupt_is_encrypted(
    api: SyncApi | AsyncApi, azure: Emulator, recorder: Recorder, options: dict[str, Any]
) -> None:
    """Ctrl-C, or a task's cancellation, ends the query on the server, too, with no readable key."""
    before = azure.counts
    with api.connect(**options) as conn:
        main = threading.main_thread().ident
        assert main is not None
        tasks: list[asyncio.Task[Any]] = []

        def interrupt() -> None:
            wait_until_it_runs(conn)
            if api.kind == "async":
                api.loop.call_soon_threadsafe(tasks[0].cancel)
            else:
                signal.pthread_kill(main, signal.SIGINT)

        async def run() -> None:
            tasks.append(asyncio.create_task(conn.execute(SLEEP)))
            with pytest.raises(asyncio.CancelledError):
                await tasks[0]

        thread = threading.Thread(target=interrupt)
        thread.start()
        if api.kind == "async":
            api.run(run())
        else:
            with pytest.raises(KeyboardInterrupt):
                conn.execute(SLEEP)
        thread.join()
        api.run(conn.rollback())
        assert api.row(conn, "select 1") == (1,)
    assert (azure.counts - before).cancel_requests == 1
    assert CANCEL_REQUEST not in recorder.stop()


def silent(peer: Peer, _certificates: Certificates) -> None:
    """Send no answer."""
    peer.read_all()


def without_tls(peer: Peer, _certificates: Certificates) -> None:
    """Reject TLS."""
    peer.read(8)
    peer.send(b"N")
    peer.read_all()


def other_certificate(peer: Peer, certificates: Certificates) -> None:
    """Present another server's certificate."""
    peer.start_tls(certificates.wrong["other-name"])
    peer.read_all()


@pytest.mark.parametrize("answer", [silent, without_tls, other_certificate])
def test_a_cancel_request_goes_only_to_the_verified_server(
    api: Api,
    hostile: Callable[[Script], Hostile],
    certificates: Certificates,
    credentials: Credentials,
    monkeypatch: pytest.MonkeyPatch,
    answer: Callable[[Peer, Certificates], None],
) -> None:
    """If another server answers, cancel() soon raises an error and sends it no key."""

    def talk(peer: Peer) -> None:
        if server.connections > 1:
            answer(peer, certificates)
            return
        peer.start_tls(certificates.right)
        peer.packet()
        peer.ask(3)
        peer.message()
        peer.ask(0)
        peer.say(b"S", b"server_version\x0016.1\0")
        peer.say(b"K", b"\0\0\0\1 key")
        peer.say(b"Z", b"I")
        peer.read_all()

    monkeypatch.setattr("azpg._cancel.CANCEL_TIMEOUT_SECONDS", 0.3)
    server = hostile(talk)
    options: dict[str, Any] = {
        "user": "me",
        "credential": credentials.with_get_token(),
        "connect_timeout": 60,
    }
    options["sslrootcert"] = certificates.root
    with (
        api.connect(**server.address(), **options) as conn,
        pytest.raises(psycopg.OperationalError) as caught,
    ):
        cancel(api, conn)
    timed_out = isinstance(caught.value, psycopg.errors.CancellationTimeout)
    assert timed_out is (answer is silent)
    assert server.connections == 2
    assert CANCEL_REQUEST not in server.clear
    assert CANCEL_REQUEST not in server.decrypted


def test_cancel_is_rejected_as_by_psycopg(api: Api, postgres: Postgres) -> None:
    """For a closed connection it does nothing, and a prepared transaction is an error."""
    with api.connect(**postgres.conninfo()) as conn:
        api.run(conn.tpc_begin("cancel"))
        api.run(conn.tpc_prepare())
        with pytest.raises(psycopg.ProgrammingError):
            cancel(api, conn)
        api.run(conn.tpc_rollback())
    cancel(api, conn)


@pytest.mark.parametrize("how", [cancel, cancel_safe])
def test_an_old_libpq_sends_the_request_unencrypted(
    api: Api,
    azure: Emulator,
    how: Callable[[Api, Any], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Before libpq 17 the request is not encrypted, and a warning is logged once."""
    monkeypatch.setattr(psycopg.capabilities, "has_cancel_safe", lambda: False)
    _cancel._warn_once.cache_clear()
    before = azure.counts
    with api.connect(server="myserver", application_name=f"{os.getpid()} old libpq") as conn:
        for _ in range(2):
            query = api.begin(conn.execute, SLEEP)
            wait_until_it_runs(conn)
            how(api, conn)
            with pytest.raises(psycopg.errors.QueryCanceled):
                query.result(30)
            api.run(conn.rollback())
    seen = azure.counts - before
    assert seen.cancel_requests == 2
    assert seen.tls_handshakes == seen.connections - 2
    (warning,) = [r.message for r in caplog.records if "unencrypted" in r.message]
    assert "psycopg[binary]" in warning


SYSTEMS_LIBPQ = """
import logging, sys, threading, azpg, psycopg

logging.basicConfig(format="%(message)s")
options = dict(word.split("=") for word in sys.argv[1:]) | {"prepare_threshold": None}
with (
    azpg.connect(**options, application_name="systems-libpq") as conn,
    azpg.connect(**options, autocommit=True) as observer,
):
    def cancel():
        running = "select 1 from pg_stat_activity where application_name = 'systems-libpq' and "
        running += "query = 'select pg_sleep(60)'"
        while observer.execute(running).fetchone() is None:
            pass
        conn.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    try:
        conn.execute("select pg_sleep(60)")
    except psycopg.errors.QueryCanceled:
        print("canceled", psycopg.pq.version() >= 170000)
    thread.join()
"""


def test_cancel_works_on_the_systems_libpq(recorder: Recorder) -> None:
    """Without psycopg-binary the request is encrypted since libpq 17, and logged before that."""
    words = ("server=myserver", "hostaddr=127.0.0.1", f"port={recorder.port}")
    ran = subprocess.run(
        [sys.executable, "-c", SYSTEMS_LIBPQ, *words],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PSYCOPG_IMPL": "python"},
        timeout=60,
    )
    assert ran.stdout in ("canceled True\n", "canceled False\n")
    encrypted = "True" in ran.stdout
    assert ("unencrypted" in ran.stderr) is not encrypted
    assert (CANCEL_REQUEST in recorder.stop()) is not encrypted
