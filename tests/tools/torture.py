"""The torture test: clients write and read while everything breaks, and nothing may be lost.

tests/test_torture.py runs its short form; `python tests/tools/torture.py --minutes 10` runs the
long one, with faults drawn by chance, and prints its figures. With `--compare` it prints what each
kind of fault is for the clients of an azpg pool, and of a psycopg_pool pool that has
`check=check_connection`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import math
import os
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple, Self, TypeAlias

import torture_compare
from torture_clients import (
    TABLE,
    AsyncCrew,
    AsyncNullCrew,
    Crew,
    Ledger,
    Place,
    SyncCrew,
    SyncNullCrew,
    Verdict,
    judge,
)

import azpg
from azpg.emulator import Emulator

TOKEN_LIFETIME = 23.0
"""seconds; azpg hands out no token with under 20 s left, so that one serves for three"""

BACK = 15.0
"""seconds from a fault's end until every pool must be full and serve, on a loaded machine"""

PGBOUNCER_RETRY = 15.0
"""seconds that PgBouncer (its server_login_retry) leaves a server alone that it found down"""


# What breaks

Begin: TypeAlias = Callable[[Emulator], AbstractContextManager[object]]


@dataclass(frozen=True)
class Fault:
    """Something that breaks, and mends when the context ends."""

    begin: Begin
    lasts: bool
    """until each crew has felt it"""
    at: Place | None = None
    """the one place where it is felt"""
    stops_pgbouncer: bool = False
    """PgBouncer finds its server down"""
    back: float = BACK
    """seconds from its end until every pool must be full and serve"""


def lasting(**what: Any) -> Fault:
    """Return a fault of new connections, for which the open ones are cut."""

    @contextmanager
    def begin(emulator: Emulator) -> Iterator[None]:
        with emulator.fault(**what):
            emulator.cut()
            yield

    return Fault(begin, lasts=True)


def sudden(strike: Callable[[Emulator], object], *, stops_pgbouncer: bool = False) -> Fault:
    """Return a fault that is over when the call returns."""

    @contextmanager
    def begin(emulator: Emulator) -> Iterator[None]:
        strike(emulator)
        yield

    return Fault(begin, lasts=False, stops_pgbouncer=stops_pgbouncer)


def restart(mode: Any) -> Fault:
    """Return a restart of PostgreSQL."""
    return sudden(lambda emulator: emulator.restart_postgres(mode), stops_pgbouncer=True)


def without_identity(answer: Any, back: float = BACK) -> Fault:
    """Return a fault of the identity endpoint, at a time when a new token is needed."""

    @contextmanager
    def begin(emulator: Emulator) -> Iterator[None]:
        with emulator.fault(identity=answer):
            emulator.expire_tokens()
            emulator.cut()
            yield

    return Fault(begin, lasts=True, back=back)


@contextmanager
def _no_slots(emulator: Emulator) -> Iterator[None]:
    with ExitStack() as slots:
        with emulator.fault(connect="refuse", at="postgres"):
            emulator.cut(at="postgres")
            slots.enter_context(emulator.slots_used_up())
        yield


def _revoke(emulator: Emulator) -> None:
    emulator.revoke_tokens()
    emulator.cut()


SHORT = {
    "identity garbage": without_identity("garbage"),
    "refuse": lasting(connect="refuse"),
    "stall": lasting(connect="stall"),
    "cut at SSLRequest": lasting(connect="cut-at-ssl-request"),
    "cut in TLS": lasting(connect="cut-in-tls"),
    "cut at password": lasting(connect="cut-at-password"),
    "cut before ok": lasting(connect="cut-before-ok"),
    "cut after ok": lasting(connect="cut-after-ok"),
    "starting up": lasting(say=("57P03", "the database system is starting up")),
    "certificate expired": lasting(certificate="expired"),
    "TLS stripped": lasting(tls="stripped"),
    "cut by FIN": sudden(lambda emulator: emulator.cut()),
    "cut by RST": sudden(lambda emulator: emulator.cut(reset=True)),
    "tokens revoked": sudden(_revoke),
    "no slots": Fault(_no_slots, lasts=True, at="postgres", stops_pgbouncer=True),
    "restart fast": restart("fast"),
    "restart immediate": restart("immediate"),
    "restart after kill": restart("kill"),
    "backend killed": restart("kill-backend"),
    "PgBouncer restarted": sudden(lambda emulator: emulator.restart_pgbouncer()),
    "failover, with a new standby": sudden(lambda emulator: emulator.fail_over()),
    "fenced": Fault(torture_compare.fenced, lasts=True, at="postgres"),
}
"""Every kind of fault, in an order in which a restarted PgBouncer forgets what it found down."""

LONG = SHORT | {
    "certificate self-signed": lasting(certificate="self-signed"),
    "certificate of other name": lasting(certificate="other-name"),
    "certificate of other root": lasting(certificate="other-root"),
    "identity down": without_identity("down"),
    "identity hangs": without_identity("hang", back=BACK + azpg.EntraPassword().timeout),
    "identity 429": without_identity(429),
    "identity 500": without_identity(500),
    "tokens malformed": lasting(token="malformed"),
    "tokens of wrong audience": lasting(token="wrong-audience"),
}
"""The same, and those that take long to be felt."""


# The test


CREWS: Sequence[tuple[type[Crew], Place]] = (
    (SyncCrew, "postgres"),
    (SyncCrew, "pgbouncer"),
    (AsyncCrew, "postgres"),
    (AsyncCrew, "pgbouncer"),
    (SyncNullCrew, "pgbouncer"),
    (AsyncNullCrew, "postgres"),
)
"""All pool classes, as far as two cores have time for them."""

MORE_CREWS: Sequence[tuple[type[Crew], Place]] = (
    *CREWS,
    (SyncNullCrew, "postgres"),
    (AsyncNullCrew, "pgbouncer"),
)
"""All pool classes, at both places."""


class Torture:
    """Clients of an emulator at work for as long as the context lasts."""

    def __init__(
        self, emulator: Emulator, seed: int, crews: Sequence[tuple[type[Crew], Place]] = CREWS
    ) -> None:
        self.ledger = Ledger()
        self.times: defaultdict[str, list[float]] = defaultdict(list)
        """seconds from each end of a fault until all pools were back"""
        self._emulator = emulator
        self.crews = [kind(self.ledger, place, seed) for kind, place in crews]

    def __enter__(self) -> Self:
        with azpg.connect() as conn:
            conn.execute(TABLE)
        with ExitStack() as started:
            for crew in self.crews:
                crew.start()
                started.callback(crew.stop)
            self._wait("the start", self.crews, lambda crew: crew.back, BACK)
            self._started = started.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._started.close()

    def suffer(self, name: str, *, patient: bool = False, hold: float = 0.0) -> None:
        """Let one fault happen and wait until all is back.

        A fault that lasts is held for some seconds more after each crew has felt it. Who is not
        patient does not wait for a PgBouncer that leaves its server alone.
        """
        fault = LONG[name]
        with fault.begin(self._emulator):
            if fault.lasts:
                before = {crew: crew.errors for crew in self.crews}
                feel = [crew for crew in self.crews if fault.at in {None, crew.place}]
                self._wait(f"{name}: to be felt", feel, lambda crew: crew.errors > before[crew], 60)
                time.sleep(hold)
        self.ledger.era += 1
        waited_for, bound = self.crews, fault.back
        if fault.stops_pgbouncer and patient:
            bound += PGBOUNCER_RETRY
        elif fault.stops_pgbouncer:
            waited_for = [crew for crew in self.crews if crew.place == "postgres"]
        started = time.monotonic()
        self._wait(f"{name}: to be back", waited_for, lambda crew: crew.back, bound)
        self.times[name].append(time.monotonic() - started)

    def judge(self) -> Verdict:
        """Compare what the clients know with what the server has, once they have stopped."""
        return judge(self.ledger)

    def _wait(
        self, what: str, crews: Sequence[Crew], done: Callable[[Crew], bool], bound: float
    ) -> None:
        if not self.ledger.wait_for(lambda: all(map(done, crews)), bound):
            late = [f"{crew} has {crew.size}" for crew in crews if not done(crew)]
            raise AssertionError(f"{what}: not within {bound:.0f} s: {', '.join(late)}")


# What is left behind


class Vitals(NamedTuple):
    """What a process holds."""

    threads: int
    descriptors: int
    memory: float
    """resident, in MB"""

    def __str__(self) -> str:
        return f"{self.threads} threads, {self.descriptors} descriptors, {self.memory:.1f} MB"

    def outgrown(self, before: Vitals, memory: float) -> bool:
        """Tell whether something was left behind, of memory more than so many MB."""
        return (
            self.threads > before.threads
            or self.descriptors > before.descriptors
            or self.memory > before.memory + memory
        )


def vitals() -> Vitals:
    """Return what this process holds now."""
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as statm:
        pages = int(statm.read().split()[1])
    return Vitals(
        len(os.listdir("/proc/self/task")),
        len(os.listdir("/proc/self/fd")),
        pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
    )


GROWTH = 8.0
"""MB that a process may grow by: under 1 KB for each of 10,000 connections, and far less than
what one of TLS's contexts takes for each of a few hundred"""

AT_ONCE = 4
"""threads, or tasks, that connect at the same time"""


def churn(connections: int) -> tuple[Vitals, Vitals]:
    """Open and close connections, half in threads and half in tasks.

    Return what the process holds after the first hundred and at the end.
    """
    with ThreadPoolExecutor(AT_ONCE) as threads, asyncio.Runner() as runner:

        def connect(_: int) -> None:
            with azpg.connect() as conn:
                conn.execute("select 1")

        async def connect_all(count: int) -> None:
            async def work() -> None:
                for _ in waiting:
                    async with await azpg.connect_async() as conn:
                        await conn.execute("select 1")

            waiting = iter(range(count))
            await asyncio.gather(*(work() for _ in range(AT_ONCE)))

        def both(count: int) -> Vitals:
            list(threads.map(connect, range(count // 2)))
            runner.run(connect_all(count - count // 2))
            return vitals()

        return both(100), both(connections - 100)


# The long form

COMPARED: dict[str, Begin] = {
    "refuse": SHORT["refuse"].begin,
    "stall": SHORT["stall"].begin,
    "terminate": torture_compare.terminated,
    "restart fast": SHORT["restart fast"].begin,
    "PgBouncer, server down": torture_compare.server_down,
    "fenced": torture_compare.fenced,
    "identity hangs": LONG["identity hangs"].begin,
}
"""What `--compare` lets happen to the clients of one pool after the other."""


def main() -> None:
    """Run the long form, print its figures, and fail if there is anything to find."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    parser.add_argument(
        "--compare", action="store_true", help="compare azpg's pool with psycopg_pool's instead"
    )
    asked = parser.parse_args()
    logging.getLogger().addHandler(logging.NullHandler())  # each fault is told a hundred times
    with Emulator(standby=True, token_lifetime=TOKEN_LIFETIME) as emulator:
        for name in emulator.env_to_unset:
            os.environ.pop(name, None)
        os.environ.update(emulator.env)
        azpg.connect().close()
        if asked.compare:
            for line in torture_compare.compare(emulator, COMPARED, lambda: vitals()[:2]):
                print(line, flush=True)  # noqa: T201  # it is a program
            return
        before = vitals()
        with Torture(emulator, asked.seed, MORE_CREWS) as torture:
            draw(torture, random.Random(asked.seed), 60 * asked.minutes)
        after = vitals()
        verdict = torture.judge()
        for what, seconds in sorted(torture.times.items()):
            longest = f"{max(seconds):.1f} s at most"
            _show(f"{what} ({len(seconds)})", f"{median(seconds):.1f} s, {longest}")
        ledger, counts = torture.ledger, emulator.counts
        _show("seed", asked.seed)
        _show("faults", sum(map(len, torture.times.values())))
        _show("sign-ins, tokens", f"{counts.sign_ins}, {counts.tokens_issued}")
        _show("transactions acknowledged", len(ledger.acknowledged))
        _show("in doubt, of them kept", f"{len(ledger.doubtful)}, {verdict.kept}")
        _show("lost, doubled, unknown", f"{verdict.lost}, {verdict.doubled}, {verdict.unknown}")
        _show("reads", ledger.reads)
        _show("turned away", ledger.turned_away)
        for wrong in ledger.wrong:
            _show("WRONG", wrong)
        _show("before and after", f"{before}; {after}")
        first, last = churn(asked.connections)
        _show(f"100 and {asked.connections} connections", f"{first}; {last}")
    left = after.outgrown(before, math.inf) or last.outgrown(first, GROWTH)
    sys.exit(bool(left or ledger.wrong or any(verdict[:3])))


def draw(torture: Torture, chance: random.Random, seconds: float) -> None:
    """Let faults happen for some seconds, each as often as the others, for up to ten each."""
    end = time.monotonic() + seconds
    while True:
        for name in chance.sample(sorted(LONG), len(LONG)):
            if time.monotonic() > end:
                return
            torture.suffer(name, patient=True, hold=chance.uniform(0.0, 10.0))


def _show(what: str, figures: object) -> None:
    print(f"{what:32} {figures}", flush=True)  # noqa: T201  # it is a program


if __name__ == "__main__":
    main()
