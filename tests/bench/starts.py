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
    from collections.abc import Iterator, Mapping

    from .servers import Servers

_IMPORT = """
import sys, time
before = time.perf_counter()
{code}
print(time.perf_counter() - before)
"""
_IMPORTS = {
    "azpg": _IMPORT.format(code="import azpg"),
    "psycopg": _IMPORT.format(code="import psycopg"),
}

# The server's root is no root of Azure's, so it is put beside azpg's own copies of those
_CONNECT = """
import json, sys, time
told, own = json.loads(sys.argv[1]), sys.argv[2]
before = time.perf_counter()
import azpg
azpg._roots.OWN = azpg._roots.Path(own)
told["cloud"] = azpg.Cloud(**told["cloud"])
with azpg.connect(**told):
    print(time.perf_counter() - before)
assert not [name for name in sys.modules if name.startswith("azure")]
"""
_BARE = """
import json, sys, time
told = json.loads(sys.argv[1])
before = time.perf_counter()
import psycopg
with psycopg.connect(**told):
    print(time.perf_counter() - before)
"""


def rows(servers: Servers, turns: int) -> Iterator[Row]:
    """Measure, and yield what there is to show."""
    took = _by_turns({name: (code,) for name, code in _IMPORTS.items()}, turns)
    yield Row("import azpg", "ms", took["azpg"], "import psycopg", took["psycopg"], "more", 5.0)
    final = servers.final()
    cloud = servers.cloud
    told: dict[str, Any] = servers.keywords(password=final["password"]) | {
        "cloud": {
            "name": cloud.name,
            "suffixes": cloud.suffixes,
            "scope": cloud.scope,
            "authority": cloud.authority,
            "roots": sorted(cloud.roots),
        }
    }
    del told["credential"]
    took = _by_turns(
        {
            "azpg": (_CONNECT, json.dumps(told), str(servers.own_roots)),
            "psycopg": (_BARE, json.dumps(final)),
        },
        turns,
    )
    yield Row(
        "first connect of a process with a password, imports included, azure.identity not loaded",
        "ms",
        took["azpg"],
        "psycopg with the same parameters",
        took["psycopg"],
        "more",
        8.0,
    )


def _by_turns(programs: Mapping[str, tuple[str, ...]], turns: int) -> dict[str, float]:
    """Return the median milliseconds that each program prints."""
    took: dict[str, list[float]] = {name: [] for name in programs}
    order = list(programs)
    for turn in range(turns + 1):
        for name in order:
            seconds = float(run(*programs[name]))
            if turn:  # the first finds nothing in the page cache
                took[name].append(seconds * 1e3)
        order.reverse()
    return {name: statistics.median(values) for name, values in took.items()}


def run(code: str, *arguments: str) -> str:
    """Return what a fresh Python prints."""
    command = [sys.executable, "-c", code, *arguments]
    # As everywhere, a module is compiled once, not at each start
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=environ
    ).stdout
