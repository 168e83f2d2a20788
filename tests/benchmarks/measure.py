"""Compare two functions in alternating turns of one run, by the median of all turns."""

from __future__ import annotations

import random
import statistics
import time
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence


Kind: TypeAlias = Literal["cpu", "wall"]


class Cost(NamedTuple):
    """What one call took in this process, in seconds."""

    cpu: float
    wall: float


Costs = dict[str, list[Cost]]


def by_turns(
    contenders: Mapping[str, Callable[[], object]], *, turns: int, calls: int = 1
) -> Costs:
    """Run each function in its turn, and return what a call took in each turn."""
    costs: Costs = {name: [] for name in contenders}
    for run in contenders.values():
        run()  # whatever is done once is done here
    for name in _in_turn(list(contenders), turns):
        run, before = contenders[name], _now()
        for _ in range(calls):
            run()
        costs[name].append(_since(before, calls))
    return costs


async def by_turns_async(
    contenders: Mapping[str, Callable[[], Awaitable[object]]], *, turns: int, calls: int = 1
) -> Costs:
    """Do the same for async functions."""
    costs: Costs = {name: [] for name in contenders}
    for run in contenders.values():
        await run()
    for name in _in_turn(list(contenders), turns):
        run, before = contenders[name], _now()
        for _ in range(calls):
            await run()
        costs[name].append(_since(before, calls))
    return costs


def _in_turn(order: list[str], turns: int) -> Iterator[str]:
    # Who comes second finds caches that are warm, so the order is another in each turn
    chance = random.Random(0)
    for _ in range(turns):
        chance.shuffle(order)
        yield from order


def _now() -> Cost:
    return Cost(time.process_time(), time.perf_counter())


def _since(before: Cost, calls: int) -> Cost:
    cpu, wall = time.process_time(), time.perf_counter()
    return Cost((cpu - before.cpu) / calls, (wall - before.wall) / calls)


def ratio(costs: Costs, ours: str, theirs: str, kind: Kind = "cpu") -> float:
    """Return the median of the ratios of the turns: our cost divided by theirs."""
    pairs = zip(_all(costs, ours, kind), _all(costs, theirs, kind), strict=True)
    return statistics.median(own / other for own, other in pairs)


def more(costs: Costs, ours: str, theirs: str, kind: Kind = "cpu") -> float:
    """Return the median of the differences of the turns: our cost less theirs, in seconds."""
    pairs = zip(_all(costs, ours, kind), _all(costs, theirs, kind), strict=True)
    return statistics.median(own - other for own, other in pairs)


def median(costs: Costs, name: str, kind: Kind = "cpu") -> float:
    """Return the median seconds of a call."""
    return statistics.median(_all(costs, name, kind))


def _all(costs: Costs, name: str, kind: Kind) -> list[float]:
    return [cost.cpu if kind == "cpu" else cost.wall for cost in costs[name]]


def share(values: Sequence[float], of: float) -> float:
    """Return the value that this share of all values does not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * of))]
