"""Measure everything, print the table, and write the figures into the docs."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import psycopg_pool

import azpg

from . import connects, load, pools, results, round_trips, starts, tokens
from .plot import draw
from .servers import POSTGRES, servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .results import Row
    from .servers import Servers

PARTS: tuple[tuple[Callable[[Servers, int], Iterator[Row]], int], ...] = (
    (connects.rows, 160),
    (starts.rows, 25),
    (tokens.rows, 7),
    (pools.rows, 50),
    (load.rows, 11),
    (round_trips.rows, 7),
)
"""what is measured, and the number of turns"""


def main() -> int:
    """Run all parts; fail if a goal is not reached."""
    parser = argparse.ArgumentParser(prog="nox -s bench --", description=__doc__)
    parser.add_argument("--turns", type=float, default=1.0, help="so many times the usual turns")
    parser.add_argument("--write", type=Path, help="the folder of benchmarks.json, .md and .svg")
    parser.add_argument("--stored", action="store_true", help="write the stored figures again")
    asked = parser.parse_args()
    if asked.write is not None and asked.stored:
        _write(asked.write, *results.load(asked.write / "benchmarks.json"))
        return 0
    rows: list[Row] = []
    began = time.monotonic()
    with servers() as started:
        for part, turns in PARTS:
            for row in part(started, max(2, round(turns * asked.turns))):
                print(" · ".join(filter(None, row.cells())), flush=True)
                rows.append(row)
    print(f"in {time.monotonic() - began:.0f} s")
    about = {
        "measured on": f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {_processor()}",
        "Python": platform.python_version(),
        "psycopg": f"{psycopg.__version__}, libpq {_libpq_version()}",
        "psycopg_pool": psycopg_pool.__version__,
        "azpg": azpg.__version__,
        "PostgreSQL": POSTGRES.parent.name,
    }
    if asked.write is not None:
        _write(asked.write, about, rows)
    missed = [row for row in rows if not row.reached]
    print(f"{len(rows) - len(missed)} rows as they should be, {len(missed)} not")
    return bool(missed)


def _write(folder: Path, about: dict[str, str], rows: list[Row]) -> None:
    results.save(folder / "benchmarks.json", about, rows)
    results.put_into(folder / "benchmarks.md", about, rows)
    draw(rows, folder / "benchmarks.svg")


def _libpq_version() -> str:
    """Return the version as people write it: 180006 is 18.6."""
    major, minor = divmod(psycopg.pq.version(), 10_000)
    return f"{major}.{minor}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    sys.exit(main())
