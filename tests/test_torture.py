"""The short form of the torture test: each kind of fault once, under clients at work."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

import psycopg
import pytest
from torture import GROWTH, SHORT, TOKEN_LIFETIME, Torture, churn, vitals
from torture_clients import TABLE, Ledger, SyncCrew, judge

import azpg
from azpg.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def doomed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """Run an emulator with a standby, whose tokens serve for three seconds."""
    with Emulator(standby=True, token_lifetime=TOKEN_LIFETIME) as emulator:
        for name, value in emulator.env.items():
            monkeypatch.setenv(name, value)
        yield emulator


def test_whatever_breaks_nothing_is_lost(doomed: Emulator) -> None:
    """What was acknowledged is kept, once; pools are back soon; nothing stays behind."""
    azpg.connect().close()  # so that what is imported at need is in memory
    before = vitals()
    seed = random.randrange(10**6)
    print(f"seed {seed}")  # noqa: T201  # pytest shows it for a test that fails
    with Torture(doomed, seed) as torture:
        for name in SHORT:
            torture.suffer(name)
    assert not torture.ledger.wrong
    assert torture.ledger.acknowledged
    assert torture.ledger.doubtful
    assert torture.judge()[:3] == (0, 0, 0)
    assert doomed.counts.tokens_issued > 3
    assert not vitals().outgrown(before, math.inf)


def test_connections_leave_nothing_behind(azure: Emulator) -> None:
    """Hundreds of connections, of threads and of tasks, cost no thread, descriptor or memory."""
    first, last = churn(300)
    assert not last.outgrown(first, GROWTH)


def test_a_loss_would_be_found(azure: Emulator) -> None:
    """The judge counts what is missing, there twice, of nobody, and kept though in doubt."""
    ledger = Ledger()
    ledger.acknowledged.extend([1, 2, 3, 4])
    ledger.doubtful.extend([5, 6])
    with azpg.connect(autocommit=True) as conn:
        conn.execute(TABLE)
        try:
            conn.execute("insert into kept values (2), (3), (3), (4), (5), (7)")
            assert judge(ledger) == (1, 1, 1, 1)
        finally:
            conn.execute("drop table kept")


def test_what_clients_may_not_see_would_be_told(azure: Emulator) -> None:
    """An error that is no OperationalError is wrong, and so is a read of what is not there."""
    ledger = Ledger()
    crew = SyncCrew(ledger, "postgres", seed=0)
    for error in (psycopg.OperationalError("meant"), psycopg.ProgrammingError("wrong")):
        with ledger.attempt(crew, writes=True) as attempt:
            attempt.begun = True
            fail(error)
    ledger.read(1, 0)
    ledger.read(2, 2)
    ledger.read(3, 1)
    assert ledger.wrong == [
        "threads to postgres: ProgrammingError('wrong')",
        "transaction 1: read 0 times",
        "transaction 2: read 2 times",
    ]
    assert list(ledger.doubtful) == [1, 2]


def fail(error: Exception) -> None:
    """Fail as a client's work does."""
    raise error
