"""One attempt to connect: the time that each address has, and how far the connection got."""

from __future__ import annotations

import gc
import math
import threading
import time
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, Self, TypeVar

from psycopg import errors, pq
from psycopg.conninfo import conninfo_to_dict

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from types import TracebackType

    from psycopg.abc import PQGenConn
    from psycopg.pq.abc import PGconn

C = TypeVar("C")

SILENT_SECONDS = 60.0
"""How long an address comes last in a list of hosts after it did not answer in its time."""

_TIMER_SECONDS = 0.05
"""The most by which two timers for the same moment differ."""

_ADDRESS_KEYWORDS = ("host", "hostaddr", "port")


class Attempt:
    """One attempt, which psycopg makes to one address after the other, and its limits.

    As a context manager it applies to the connections that psycopg makes inside it.

    Args:
        check_stopped: raises an exception if nobody waits for the connection any more.
    """

    def __init__(self, check_stopped: Callable[[], None] | None = None) -> None:
        self.reached: int | None = None
        """the `ConnStatus` of the last connection whose time was over"""
        self._check_stopped = check_stopped
        self._end = self._address_seconds = math.inf
        self._addresses = 1
        self._address_end = math.inf
        self._token: Token[Attempt | None] | None = None
        self._steps: Generator[Any, Any, Any] | None = None

    def set_limits(self, *, end: float, address_seconds: float, addresses: int) -> None:
        """Set what `begin_address` gives to each address.

        Args:
            end: when the attempt must end, on the monotonic clock; infinity for no limit.
            address_seconds: the most that one address may take.
            addresses: how many addresses there are, as far as is known.
        """
        self._end = end
        self._address_seconds = address_seconds
        self._addresses = addresses

    def __enter__(self) -> Self:
        self._token = _CURRENT.set(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._token is not None:
            _CURRENT.reset(self._token)
        # psycopg leaves the steps of a wait that was interrupted or canceled to the garbage
        # collector, and with them the socket
        if self._steps is not None:
            self._steps.close()

    def begin_address(self, steps: Generator[Any, Any, Any]) -> None:
        """Give the next address its share of the time that is left.

        Args:
            steps: what connects to it; they are closed when the attempt ends.
        """
        self._steps = steps
        now = time.monotonic()
        share = max(0.0, self._end - now) / max(1, self._addresses)
        self._address_end = now + min(self._address_seconds, share)
        self._addresses -= 1

    def check_time(self) -> None:
        """Raise an exception if the address has had its time, or nobody waits any more.

        Raises:
            psycopg.errors.ConnectionTimeout: the time of the address is over.
            Stopped: nobody waits for the connection any more.
        """
        if self._check_stopped is not None:
            self._check_stopped()
        if time.monotonic() >= self._address_end:
            raise errors.ConnectionTimeout("connection timeout expired")

    def record_silence(self, pgconn: PGconn | None, conninfo: str) -> None:
        """Remember an address that did not answer in time, and how far the connection came."""
        # psycopg's own timeout may be a moment earlier; any other end of the steps is not late
        if time.monotonic() < self._address_end - _TIMER_SECONDS:
            return
        self.reached = None if pgconn is None else pgconn.status
        _SILENT_ADDRESSES.add(conninfo_to_dict(conninfo))


_CURRENT: ContextVar[Attempt | None] = ContextVar("azpg_attempt", default=None)


def connect(steps: PQGenConn[C], conninfo: str) -> PQGenConn[C]:
    """Run psycopg's generator that connects to one address within the limits of the attempt.

    Args:
        steps: what psycopg's `_connect_gen` returned.
        conninfo: the connection string that it got.

    Raises:
        psycopg.OperationalError: the connection failed, or its time was over.
    """
    attempt = _CURRENT.get()
    if attempt is None:
        return steps
    limited = _limit(steps, conninfo, attempt)
    attempt.begin_address(limited)
    return limited


def _limit(steps: PQGenConn[C], conninfo: str, attempt: Attempt) -> PQGenConn[C]:
    """Run the steps; if they fail or are closed, the socket is closed at once.

    psycopg makes the connection nonblocking only after the last step. Until then libpq blocks in a
    step if the server does not read: a server that requests the password endlessly would block the
    thread or the event loop. With a nonblocking connection libpq fails instead.
    """
    pgconn: PGconn | None = None
    address = ""
    try:
        waiting = next(steps)
        if (pgconn := find_pgconn(steps)) is not None:
            address = _make_nonblocking(pgconn)
        while True:
            ready = yield waiting
            attempt.check_time()
            waiting = steps.send(ready)
    except StopIteration as stop:
        pgconn = None
        connection: C = stop.value
        return connection
    except (errors.ConnectionTimeout, GeneratorExit):
        attempt.record_silence(pgconn, conninfo)
        raise
    except errors.OperationalError as error:
        raise _with_address(error, address) from None
    finally:
        steps.close()
        # The traceback of the error holds this frame
        if pgconn is not None:
            pgconn.finish()


def find_pgconn(steps: Generator[Any, Any, Any]) -> PGconn | None:
    """Return the connection that psycopg's generator makes, if it can be found in its variables."""
    inner = getattr(steps, "gi_yieldfrom", None)  # psycopg's generators.connect
    # A generator in C keeps its variables in an object of its own, one in Python does not
    variables = gc.get_referents(inner)
    for each in (*variables, *gc.get_referents(*variables)):
        if isinstance(each, pq.PGconn):
            return each
    return None


def _make_nonblocking(pgconn: PGconn) -> str:
    """Make a connection nonblocking; return the address, with which libpq begins each message."""
    # Setting `nonblocking` clears the address
    address = pgconn.error_message.decode(errors="replace")
    pgconn.nonblocking = 1
    return address


def _with_address(error: errors.OperationalError, address: str) -> errors.OperationalError:
    """Return psycopg's error with the address in its message, and with a finished `pgconn`."""
    message, pgconn = str(error), error.pgconn
    if pgconn is None:
        return error
    if address:
        summary, colon, _ = message.partition(": ")
        reason = pgconn.error_message.decode(errors="replace").rstrip()
        message = f"{summary}{colon}{address}{reason}"
    if not isinstance(pgconn, errors.FinishedPGconn):
        pgconn = errors.finish_pgconn(pgconn)
    return type(error)(message, pgconn=pgconn)


class SilentAddresses:
    """The addresses that lately did not answer within their time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until: dict[tuple[str, ...], float] = {}

    def add(self, params: Mapping[str, Any]) -> None:
        """Remember the address of these parameters."""
        now = time.monotonic()
        with self._lock:
            self._until = {each: until for each, until in self._until.items() if until > now}
            # psycopg has resolved the host of a list of names to an address
            for known in (params, {**params, "hostaddr": ""}):
                self._until[_address(known)] = now + SILENT_SECONDS

    def last(self, params: dict[str, str]) -> dict[str, str]:
        """Return parameters in which the addresses that were silent come last."""
        if not self._until or params.get("load_balance_hosts") == "random":
            return params
        lists = {name: params[name].split(",") for name in _ADDRESS_KEYWORDS if params.get(name)}
        count = max(map(len, lists.values()), default=1)
        if count == 1:
            return params
        rows = [
            {name: each[index] if len(each) > 1 else each[0] for name, each in lists.items()}
            for index in range(count)
        ]
        now = time.monotonic()
        with self._lock:
            silent = [row for row in rows if self._until.get(_address(row), 0.0) > now]
        if not silent:
            return params
        rows.sort(key=lambda row: row in silent)
        return params | {name: ",".join(row[name] for row in rows) for name in lists}


_SILENT_ADDRESSES = SilentAddresses()
silent_addresses_last = _SILENT_ADDRESSES.last


def _address(params: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(params.get(name) or "") for name in _ADDRESS_KEYWORDS)
