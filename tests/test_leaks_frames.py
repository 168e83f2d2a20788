"""No password is in a frame behind an error, whosever frame it is: each entry point and failure."""

from __future__ import annotations

import asyncio
import signal
import threading
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from fix_entry_points import ASYNC, BOTH, SYNC, EntryPoint, conninfo, environment
from psycopg.conninfo import make_conninfo
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import create_async_engine

import azpg
import azpg.asyncpg

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from fix_api import Api
    from fix_asyncpg import Run
    from fix_entry_points import Integrations, Options
    from fix_hostile import Certificates, Hostile, Peer, Script
    from fix_leaks import Leaks
    from fix_servers import Postgres

pytestmark = pytest.mark.compat

SECRET = "hunter2hunter2"

FAILURES: dict[str, Options] = {
    "login": {},
    "refused": {"port": 1},
    "certificate": {"host": "other.postgres.database.azure.com"},
    "value": {"sslmode": "ful"},
    "name": {"passwrd": SECRET, "connect_timeout": "soon"},
}


def fail(using: Integrations, entry: EntryPoint, options: Options, leaks: Leaks) -> None:
    """Call an entry point, and search its error and the frames behind it."""
    with pytest.raises(Exception) as caught:  # noqa: PT011  # which one is for other tests
        entry(using, options)
    leaks.none_shown(caught.value, SECRET)


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("entry", BOTH)
def test_a_password_is_in_no_frame(
    using: Integrations, postgres: Postgres, leaks: Leaks, entry: str, failure: str
) -> None:
    """A connect that fails leaves the password in no frame of azpg, of a driver or a framework."""
    options = postgres.conninfo(password=SECRET, **FAILURES[failure])
    fail(using, BOTH[entry], options, leaks)


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize(
    ("api", "entry"),
    [*(("sync", name) for name in SYNC), *(("async", name) for name in ASYNC)],
    indirect=["api"],
)
def test_a_password_is_in_no_frame_of_an_integration(
    using: Integrations, postgres: Postgres, leaks: Leaks, entry: str, failure: str
) -> None:
    """The same holds for the integrations that are sync or async alone, and for the doctor."""
    options = postgres.conninfo(password=SECRET, **FAILURES[failure])
    fail(using, (SYNC | ASYNC)[entry], options, leaks)


@pytest.mark.parametrize("wrong", [{"server": "db15", "host": "no.invalid"}, FAILURES["value"]])
@pytest.mark.parametrize("entry", [conninfo, environment])
def test_a_password_is_in_no_frame_of_what_connects_to_nothing(
    leaks: Leaks, entry: Callable[..., Any], wrong: Options
) -> None:
    """A connection string or environment that cannot be made leaves no password either."""
    with pytest.raises(psycopg.Error) as caught:
        entry(None, {"password": SECRET, "user": "app", **wrong})
    leaks.none_held(caught.value, SECRET)


class Unreadable:
    """A value whose text raises: a bug of the caller's, met before anything is connected."""

    def __str__(self) -> str:
        raise ZeroDivisionError


@pytest.mark.parametrize("entry", [BOTH["connect"], BOTH["create_pool"], conninfo, environment])
def test_a_value_that_cannot_be_read_shows_no_password(
    using: Integrations, leaks: Leaks, entry: EntryPoint
) -> None:
    """An error while the options are read leaves the password in no frame."""
    wrong = {"server": "db15", "application_name": Unreadable()}
    with pytest.raises(ZeroDivisionError) as caught:
        entry(using, {"password": SECRET, "user": "app", **wrong})
    leaks.none_held(caught.value, SECRET)


@pytest.mark.parametrize("where", ["kwargs", "conninfo", "create_pool", "create_pool-conninfo"])
def test_options_that_a_pool_refuses_show_no_password(
    api: Api, using: Integrations, leaks: Leaks, where: str
) -> None:
    """A pool that cannot be made leaves the password in no frame."""
    sizes = {"min_size": 2, "max_size": 1}
    calls: dict[str, Callable[[], Any]] = {
        "kwargs": lambda: using.pool(kwargs={"password": SECRET}, **sizes),
        "conninfo": lambda: using.pool(f"password={SECRET}", **sizes),
        "create_pool": lambda: api.open_pool(server="myserver", password=SECRET, **sizes),
        "create_pool-conninfo": lambda: api.open_pool(f"host=x password={SECRET}", **sizes),
    }
    with pytest.raises(ValueError, match="max_size") as caught:
        calls[where]()
    leaks.none_shown(caught.value, SECRET)


@pytest.mark.parametrize("where", ["conninfo", "kwargs"])
def test_a_pools_callback_that_is_interrupted_shows_no_password(
    postgres: Postgres, leaks: Leaks, where: str
) -> None:
    """`configure=` is called from a psycopg_pool frame that has the connection's options."""
    options = postgres.conninfo()
    conninfo = ""
    if where == "conninfo":
        conninfo = make_conninfo("", password=str(options.pop("password")))

    def configure(_conn: object) -> None:
        raise KeyboardInterrupt

    pool = azpg.NullConnectionPool(conninfo, kwargs=options, configure=configure, open=False)
    with pool, pytest.raises(KeyboardInterrupt) as caught:
        pool.getconn()
    assert sum(entry.name == "_connect" for entry in caught.traceback) == 2
    leaks.none_shown(caught.value, "ass wörd")  # in a connection string its quote is escaped


# In the middle of a sign-in


IN_THE_CALLERS_THREAD = ("connect", "connect-dsn", "null-pool", "sqlalchemy", "sqlalchemy-query")


@pytest.mark.parametrize(
    ("api", "entry"),
    [("sync", name) for name in (*IN_THE_CALLERS_THREAD, "django", "django-dsn")],
    indirect=["api"],
)
def test_an_interrupt_shows_no_password(
    using: Integrations,
    hostile: Callable[[Script], Hostile],
    certificates: Certificates,
    leaks: Leaks,
    entry: str,
) -> None:
    """Ctrl-C in the middle of a sign-in leaves the password in no frame."""

    def interrupt(peer: Peer) -> None:
        peer.start_tls(certificates.right)
        peer.packet()
        signal.raise_signal(signal.SIGINT)
        peer.read_all()

    options = stalled(hostile(interrupt), certificates)
    with pytest.raises(KeyboardInterrupt) as caught:
        (BOTH | SYNC)[entry](using, options)
    leaks.none_shown(caught.value, SECRET)


def stalled(server: Hostile, certificates: Certificates) -> Options:
    """Return the options that lead to a server."""
    options = server.address()
    del options["retry_timeout"]
    rest = {"user": "app", "dbname": "postgres", "sslrootcert": certificates.root}
    return options | rest | {"password": SECRET}


async def _null_pool(options: Options) -> None:
    async with azpg.AsyncNullConnectionPool(kwargs=options, open=False) as pool:
        await pool.getconn()


async def _sqlalchemy(options: Options) -> None:
    query = {name: str(value) for name, value in options.items()}
    engine = create_async_engine(URL.create("postgresql+azpg", query=query))
    async with engine.connect():
        pass


@pytest.mark.parametrize(
    "connect",
    [
        lambda options: azpg.connect_async(**options),
        lambda options: azpg.asyncpg.connect(**options),
        _null_pool,
        _sqlalchemy,
    ],
    ids=["connect_async", "asyncpg", "null-pool", "sqlalchemy"],
)
def test_a_canceled_connect_shows_no_password(
    hostile: Callable[[Script], Hostile],
    certificates: Certificates,
    leaks: Leaks,
    run: Run,
    connect: Callable[[Options], Coroutine[Any, Any, Any]],
) -> None:
    """A task that is canceled in the middle of a sign-in leaves the password in no frame."""
    reached = threading.Event()

    def stall(peer: Peer) -> None:
        peer.start_tls(certificates.right)
        peer.packet()
        reached.set()
        peer.read_all()

    options = stalled(hostile(stall), certificates)

    async def main() -> BaseException:
        task = asyncio.create_task(connect(options))
        await asyncio.to_thread(reached.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        return caught.value

    leaks.none_shown(run(main()), SECRET)
