"""What a fresh process pays: the import, and its first connect."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from .results import Row

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .servers import Servers

# Each prints what psycopg's import took, and what came after it. The first is most of the time, the
# same for all, and differs between two processes by more than the rest.
_IMPORT = """
import time
before = time.perf_counter()
import psycopg
between = time.perf_counter()
import azpg
print(between - before, time.perf_counter() - between)
"""

# The server's root is not one of Azure's roots, so it is added to the pinned ones, and counts
_CONNECT = """
import json, sys, time
told, own = json.loads(sys.argv[1]), sys.argv[2]
before = time.perf_counter()
import psycopg
between = time.perf_counter()
import azpg
from azpg._tls import roots
roots.PEM_FILE = roots.Path(own)
told["cloud"] = azpg.Cloud(**told["cloud"])
roots.AZURE_ROOTS = told["cloud"].roots
with azpg.connect(**told):
    print(between - before, time.perf_counter() - between)
assert not [name for name in sys.modules if name.startswith("azure")]
"""
_BARE = """
import json, sys, time
told = json.loads(sys.argv[1])
before = time.perf_counter()
import psycopg
between = time.perf_counter()
with psycopg.connect(**told):
    print(between - before, time.perf_counter() - between)
"""


def rows(servers: Servers, turns: int) -> Iterator[Row]:
    """Measure, and yield the rows of the table."""
    imports = [_milliseconds(_IMPORT) for _ in range(turns + 1)]
    yield _ratio(
        "time of `import azpg`",
        "`import psycopg`",
        [((psycopg, 0.0), (psycopg, own)) for psycopg, own in imports],
        1.08,
    )
    final = servers.final()
    cloud = servers.cloud
    told: dict[str, Any] = servers.keywords(password=final["password"]) | {
        "cloud": {
            "name": cloud.name,
            "suffixes": cloud.suffixes,
            "scope": cloud.scope,
            "authority": cloud.authority,
            "roots": sorted(cloud.roots or ()),
        }
    }
    del told["credential"]
    own = (_CONNECT, json.dumps(told), str(servers.own_roots))
    bare = (_BARE, json.dumps(final))
    # In changing order, so that neither profits from a drift
    ways = [(bare, own) if turn % 2 else (own, bare) for turn in range(2 * turns + 1)]
    connects = []
    for way in ways:
        took = {program: _milliseconds(*program) for program in way}
        connects.append((took[bare], took[own]))
    yield _ratio(
        "time of the first connect of a process, with a password, including imports",
        "psycopg",
        connects,
        1.08,
    )


def _ratio(
    measure: str,
    against: str,
    pairs: Sequence[tuple[Sequence[float], Sequence[float]]],
    goal: float,
) -> Row:
    """Return the row for what theirs and ours took, in milliseconds: psycopg's import, the rest.

    The time of psycopg's import differs between two processes more than what is measured, so that
    both count the median of all.
    """
    warm = pairs[1:]  # the first finds nothing in the page cache
    imports = statistics.median(each[0] for pair in warm for each in pair)
    theirs, ours = (
        imports + statistics.median(each[1] for each in column)
        for column in zip(*warm, strict=True)
    )
    more = statistics.median(own[1] - other[1] for other, own in warm)
    return Row(measure, "ms", ours, against, theirs, goal=goal, paired=(theirs + more) / theirs)


def _milliseconds(code: str, *arguments: str) -> list[float]:
    """Return what a program prints, in milliseconds."""
    return [float(seconds) * 1e3 for seconds in run(code, *arguments).split()]


def run(code: str, *arguments: str) -> str:
    """Return what a fresh Python prints."""
    command = [sys.executable, "-c", code, *arguments]
    # As everywhere, a module is compiled once, not at each start
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=environ
    ).stdout
