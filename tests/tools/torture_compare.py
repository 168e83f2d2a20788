"""What clients of azpg's pool and of psycopg_pool's notice of each kind of fault, in one run."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeAlias

import psycopg
import psycopg_pool

import azpg
from azpg.emulator import Emulator

SIZE = 4
CLIENTS = 8
FAULT_SECONDS = 4.0
BACK_SECONDS = 60.0
"""the longest wait for a pool that serves again"""
TIMEOUT_SECONDS = 2.0
"""a client's, for a connection"""
_PAUSE_SECONDS = 0.02

Begin: TypeAlias = Callable[[Emulator], AbstractContextManager[object]]


class Figures(NamedTuple):
    """What one fault was for the clients of one pool."""

    errors: int
    attempts: int
    """connections that the pool tried to make"""
    sign_ins: int
    """of them, those that the server or PgBouncer authenticated"""
    back: float
    """seconds from the end of the fault until each client was served"""
    threads: int
    """more than before, once the pool is closed"""
    descriptors: int


# Faults


@contextmanager
def terminated(_: Emulator) -> Iterator[None]:
    """Terminate all sessions, as an administrator does."""
    _terminate_all()
    yield


@contextmanager
def server_down(emulator: Emulator) -> Iterator[None]:
    """Stop PostgreSQL while PgBouncer accepts clients, whom it knows from before."""
    os.kill(_postmaster(_primary_data(emulator)), signal.SIGINT)
    try:
        yield
    finally:
        emulator.restart_postgres()


@contextmanager
def fenced(emulator: Emulator) -> Iterator[None]:
    """Make all sessions of the primary read-only, as ALTER SYSTEM does."""
    data = _primary_data(emulator)
    settings = data / "postgresql.auto.conf"
    before = settings.read_bytes()

    def reload(content: bytes) -> None:
        with settings.open("wb") as file:  # it stays the server's own
            file.write(content)
        os.kill(_postmaster(data), signal.SIGHUP)

    reload(before + b"\ndefault_transaction_read_only = on\n")
    try:
        yield
    finally:
        reload(before)


def _primary_data(emulator: Emulator) -> Path:
    for folder in emulator._get_start_info("folders"):  # no public way to it
        for pid in sorted(Path(folder).rglob("postmaster.pid")):
            if not (pid.parent / "standby.signal").exists():
                return pid.parent
    raise AssertionError("no primary")


def _postmaster(data: Path) -> int:
    return int((data / "postmaster.pid").read_text(encoding="utf-8").split()[0])


def _terminate_all() -> None:
    with azpg.connect(autocommit=True) as conn:
        conn.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where usename = current_user and pid <> pg_backend_pid()"
        )


# Pools


def open_azpg(*, pgbouncer: bool) -> Any:
    """Open azpg's pool with its defaults."""
    return azpg.create_pool(pgbouncer=pgbouncer, **_options(pgbouncer=pgbouncer))


def open_psycopg(*, pgbouncer: bool) -> Any:
    """Open psycopg_pool's with `check_connection`, and tokens from azpg."""
    options = _options(pgbouncer=pgbouncer)
    names = ("target_session_attrs", "connect_timeout")
    params = {name: options.pop(name) for name in names if name in options}
    password = azpg.EntraPassword()
    conninfo = azpg.conninfo(pgbouncer=pgbouncer, user=password.user(), **params)
    threshold = {"prepare_threshold": None} if pgbouncer else {}
    return psycopg_pool.ConnectionPool(
        conninfo,
        kwargs=lambda: {"password": password(), **threshold},
        check=psycopg_pool.ConnectionPool.check_connection,
        open=True,
        **options,
    )


POOLS: dict[str, Callable[..., Any]] = {"azpg": open_azpg, "psycopg_pool": open_psycopg}


def _options(*, pgbouncer: bool) -> dict[str, Any]:
    options = {"min_size": SIZE, "max_size": SIZE, "timeout": TIMEOUT_SECONDS, "connect_timeout": 3}
    return options if pgbouncer else options | {"target_session_attrs": "read-write"}


# The comparison


class Clients:
    """Threads that write by a pool, until they are stopped."""

    def __init__(self, pool: Any) -> None:
        self.errors = 0
        self.served = [0.0] * CLIENTS
        """when each client was served last"""
        self._pool = pool
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(i,)) for i in range(CLIENTS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def wait(self, since: float) -> float:
        """Wait until each client was served after a moment; return the seconds from it."""
        while min(self.served) < since and time.monotonic() < since + BACK_SECONDS:
            time.sleep(0.01)
        return time.monotonic() - since

    def _work(self, index: int) -> None:
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                with self._pool.connection() as conn:
                    conn.execute("insert into compared values (1)")
            except psycopg.Error:
                with self._lock:
                    self.errors += 1
                self._stopping.wait(_PAUSE_SECONDS)
            else:
                self.served[index] = started
                self._stopping.wait(_PAUSE_SECONDS / 4)


def measure(
    emulator: Emulator,
    begin: Begin,
    open_pool: Callable[..., Any],
    holds: Callable[[], tuple[int, int]],
    *,
    pgbouncer: bool,
) -> Figures:
    """Let one fault happen to the clients of one pool."""
    threads, descriptors = holds()
    pool = open_pool(pgbouncer=pgbouncer)
    try:
        pool.wait(30)
        with Clients(pool) as clients:
            clients.wait(time.monotonic())
            before, sign_ins = pool.get_stats()["connections_num"], emulator.counts.sign_ins
            clients.errors = 0
            with begin(emulator):
                time.sleep(FAULT_SECONDS)
            back = clients.wait(time.monotonic())
            attempts = pool.get_stats()["connections_num"] - before
            sign_ins = emulator.counts.sign_ins - sign_ins
    finally:
        pool.close()
    after_threads, after_descriptors = holds()
    return Figures(
        errors=clients.errors,
        attempts=attempts,
        sign_ins=sign_ins,
        back=back,
        threads=after_threads - threads,
        descriptors=after_descriptors - descriptors,
    )


def compare(
    emulator: Emulator, faults: dict[str, Begin], holds: Callable[[], tuple[int, int]]
) -> Iterator[str]:
    """Yield the lines of a table, one for each fault and pool.

    Args:
        emulator: what breaks.
        faults: the kinds of faults, by their names; `server_down` is for clients of PgBouncer.
        holds: returns the threads and the descriptors of this process.
    """
    with azpg.connect(autocommit=True) as conn:
        conn.execute("create table compared (id bigint)")
    head = ("fault", "pool", "errors", "attempts", "sign-ins", "back, s", "threads", "descriptors")
    yield _line(head)
    for name, begin in faults.items():
        for pool, open_pool in POOLS.items():
            found = measure(emulator, begin, open_pool, holds, pgbouncer=begin is server_down)
            cells = found._replace(back=round(found.back, 2))
            yield _line((name, pool, *cells))


def _line(cells: tuple[object, ...]) -> str:
    first, second, *others = cells
    return f"{first!s:24} {second!s:13} " + " ".join(f"{each!s:>11}" for each in others)
