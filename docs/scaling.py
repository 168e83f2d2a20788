"""Compute the tables and the plot of scaling.md: `nox -s scaling` prints and draws them."""

from __future__ import annotations

import random
import sys
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from azpg._tokens.refresh_policy import after_response
from azpg._tokens.token import ClockReading, Token

if TYPE_CHECKING:
    from collections.abc import Iterator

    from azpg._tokens.refresh_policy import Jitter

RESERVED = 15
"""connections that Azure keeps for replication and monitoring"""

MAX_CLIENT_CONN = 5000
"""clients that Azure's PgBouncer accepts by default"""

POOL = 10
"""connections of each process"""


class Compute(NamedTuple):
    """A size of Azure Database for PostgreSQL and its default `max_connections`."""

    name: str
    vcores: int
    max_connections: int
    pgbouncer: bool = True


# Source: azure/postgresql/configure-maintain/concepts-limits of learn.microsoft.com (11/2025)
SIZES = (
    Compute("B1ms", 1, 50, pgbouncer=False),
    Compute("B2s", 2, 429, pgbouncer=False),
    Compute("B2ms", 2, 859, pgbouncer=False),
    Compute("B4ms", 4, 1718, pgbouncer=False),
    Compute("D2", 2, 859),
    Compute("D4", 4, 1718),
    Compute("D8", 8, 3437),
    Compute("D16", 16, 5000),
    Compute("D96", 96, 5000),
    Compute("E2", 2, 1718),
    Compute("E4", 4, 3437),
    Compute("E8", 8, 5000),
    Compute("E96", 96, 5000),
)


def capacity() -> str:
    """Return how many processes each compute size supports, as a table."""
    rows = [
        "| compute | user connections | processes (5432) | processes (6432) | server connections |",
        "|---|---|---|---|---|",
    ]
    for size in SIZES:
        users = size.max_connections - RESERVED
        bounced = f"{MAX_CLIENT_CONN // POOL:,}" if size.pgbouncer else "none"
        shared = f"{2 * size.vcores} to {5 * size.vcores}" if size.pgbouncer else "none"
        rows.append(f"| {size.name} | {users:,} | {users // POOL:,} | {bounced} | {shared} |")
    return "\n".join(rows)


PROCESSES, DAY, HOUR = 10_000, 86_400.0, 3_600.0


class Fleet(NamedTuple):
    """Processes that open connections all day, each with its own token."""

    token: str
    life: float
    """seconds that a new token is valid"""
    refresh: float | None
    """seconds after which azure-identity says that it may be refreshed"""
    spread: float
    """seconds over which the processes are started"""


FLEETS = (
    Fleet("an hour", HOUR, None, spread=0.0),
    Fleet("a day", DAY, DAY / 2, spread=0.0),
    Fleet("an hour", HOUR, None, spread=600.0),
)


def request_times(fleet: Fleet, start: float, jitter: Jitter) -> Iterator[float]:
    """Yield the seconds at which one process requests a token, by azpg's own rules."""
    cached, now = None, start
    while now < DAY:
        yield now
        clocks = ClockReading(now, now)
        refresh = None if fleet.refresh is None else now + fleet.refresh
        token = Token.from_response("token", now + fleet.life, refresh, clocks)
        cached = after_response(cached, token, clocks, jitter)
        if cached is None:
            raise ValueError(f"a token of {fleet.life} s is too short-lived to cache")
        now += cached.refresh_after


def requests(fleet: Fleet, *, jitter: bool) -> tuple[Counter[int], Counter[int]]:
    """Return how many requests a fleet makes in each second: all of them, and the first refresh."""
    draw = random.Random(1)  # noqa: S311  # the same day each time
    every, refreshes = Counter[int](), Counter[int]()
    seconds: list[int] = []
    for _ in range(PROCESSES):
        start = draw.uniform(0.0, fleet.spread)
        if jitter or fleet.spread or not seconds:  # else all processes have the same day
            uniform = draw.uniform if jitter else earliest
            seconds = [int(ask) for ask in request_times(fleet, start, uniform)]
        every.update(seconds)
        refreshes[seconds[1]] += 1
    return every, refreshes


def earliest(low: float, _high: float) -> float:
    """Draw no jitter."""
    return low


def bursts() -> str:
    """Return how many requests are made in the busiest second, as a table."""
    rows = [
        "| token lifetime | start | first refresh | last hour | whole day |",
        "|---|---|---|---|---|",
    ]
    for fleet in FLEETS:
        started = f", started over {fleet.spread / 60:.0f} minutes" if fleet.spread else ""
        for jitter in (True,) if fleet.spread else (False, True):
            every, refreshes = requests(fleet, jitter=jitter)
            figures = (
                max(every[second] for second in range(600)),
                max(refreshes.values()),
                max(every[second] for second in range(23 * 3600, 24 * 3600)),
                every.total(),
            )
            cells = " | ".join(f"{figure:,}" for figure in figures)
            drawn = "" if jitter else ", no jitter"
            rows.append(f"| {fleet.token}{started}{drawn} | {cells} |")
    return "\n".join(rows)


def plot(path: str) -> None:
    """Plot the busiest second of each five minutes."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "azpg", "font.size": 10}
    mpl.rcParams |= dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
    )
    drawn = [fleet for fleet in FLEETS if not fleet.spread]
    figure, panels = plt.subplots(len(drawn), figsize=(4.0, 5.2), sharex=True, sharey=True)
    for fleet, panel in zip(drawn, panels, strict=True):
        for jitter, colour, width in ((False, PLAIN, 1.2), (True, AZPG, 2.4)):
            every, _ = requests(fleet, jitter=jitter)
            blocks = range(0, int(DAY), 300)
            tops = [max(every[block + second] for second in range(300)) for block in blocks]
            hours = [block / 3600 for block, top in zip(blocks, tops, strict=True) if top]
            panel.vlines(hours, 0.7, [top for top in tops if top], colour, linewidth=width)
        panel.set_title(f"token lifetime: {fleet.token}", loc="left", fontsize=11)
        panel.set(yscale="log", ylim=(0.7, 30_000), ylabel="token requests per second")
        panel.yaxis.set_major_formatter(lambda value, _position: f"{value:,.0f}")
        panel.spines[["top", "right"]].set_visible(False)
        panel.minorticks_off()
    panels[0].set_xticks(range(0, 25, 6))
    panels[-1].set_xlabel("hours after 10,000 processes start at once")
    panels[-1].text(12.6, 4_000, "without jitter", color=PLAIN)
    panels[-1].text(14, 5, "azpg", color=AZPG, weight="bold")
    figure.tight_layout()
    figure.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})


# Readable on white and on black
INK, PLAIN, AZPG = "#7d8590", "#d9902a", "#3f83f8"


if __name__ == "__main__":
    print(capacity(), bursts(), sep="\n\n")
    if len(sys.argv) > 1:
        plot(sys.argv[1])
