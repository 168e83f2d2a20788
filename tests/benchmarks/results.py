"""The measured figures: one row for each comparison, stored as JSON and shown as tables."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Judged: TypeAlias = Literal["ratio", "more", "times", "itself"]
"""what the goal is about: ours by theirs, ours less theirs, theirs by ours, or ours alone"""


@dataclass(frozen=True)
class Row:
    """One comparison."""

    measure: str
    unit: str
    ours: float
    against: str = ""
    theirs: float | None = None
    judged: Judged = "ratio"
    goal: float | None = None
    """none: for information"""
    paired: float | None = None
    """the median of the ratios, or differences, of the single turns, if both ran side by side"""

    @property
    def title(self) -> str:
        """Return what is measured and compared; no other row has the same title."""
        return f"{self.measure} vs {self.against}" if self.against else self.measure

    @property
    def at_least(self) -> bool:
        """Tell whether more is better."""
        return self.judged == "times"

    @property
    def value(self) -> float:
        """Return the figure that is compared with the goal."""
        theirs = self.theirs or 0.0
        match self.judged:
            case "ratio":
                return self.ours / theirs if self.paired is None else self.paired
            case "times":
                return theirs / self.ours if self.paired is None else 1 / self.paired
            case "more":
                return self.ours - theirs if self.paired is None else self.paired
            case "itself":
                return self.ours

    @property
    def reached(self) -> bool:
        """Tell whether the goal is reached."""
        if self.goal is None:
            return True
        return self.value >= self.goal if self.at_least else self.value <= self.goal

    def cells(self) -> tuple[str, ...]:
        """Return the cells of its line in the table."""
        theirs = "" if self.theirs is None else amount(self.theirs, self.unit)
        goal, mark = "", ""
        if self.goal is not None:
            goal = f"{'≥' if self.at_least else '≤'} {self._shown(self.goal)}"
            mark = "yes" if self.reached else "**no**"
        return self.title, amount(self.ours, self.unit), theirs, self._shown(self.value), goal, mark

    def _shown(self, value: float) -> str:
        match self.judged:
            case "ratio":
                return f"{value:.3f}".removesuffix("0")
            case "times":
                return f"{value:.2f} times as fast" if value < 10 else f"{value:.0f} times as fast"
            case "more":
                return f"{value:+.{1 if self.unit else 0}f} {self.unit}".strip()
            case "itself":
                return amount(value, self.unit)


HEAD = ("measure", "azpg", "other", "result", "goal", "reached")
HEADLINES = (
    ("wall time of a connect", "psycopg", "Connect, with verified TLS and a cached token"),
    ("CPU time of a connect", "azure-postgresql-auth", "CPU time of the same connect"),
    ("token requests", "azure-postgresql-auth", "Token requests of 200 connects at once"),
    ("wall time of a checkout", "", "Checkout from a connection pool, with a liveness check"),
)
"""The start of a measure, what it is compared with, and how a reader calls it"""


def amount(value: float, unit: str) -> str:
    """Return a figure as it is printed; no line breaks before its unit."""
    digits = 0 if not unit or value >= 1000 else 2 if value < 10 else 1
    return f"{value:,.{digits}f}\N{NO-BREAK SPACE}{unit}".strip()


def table(rows: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    return _markdown(HEAD, [row.cells() for row in rows])


def headlines(rows: list[Row]) -> str:
    """Return the four figures that a reader wants first, as a Markdown table."""
    lines = []
    for start, against, name in HEADLINES:
        row = next(
            row
            for row in rows
            if row.measure.startswith(start) and row.against.startswith(against) and row.theirs
        )
        theirs = amount(row.theirs or 0.0, row.unit)
        lines.append((name, f"**{amount(row.ours, row.unit)}**", f"{theirs}: {row.against}"))
    return _markdown(("", "azpg", "compared with"), lines)


def _markdown(head: tuple[str, ...], lines: Sequence[tuple[str, ...]]) -> str:
    ruled = [head, tuple("---" for _ in head), *lines]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in ruled)


def put_into(page: Path, about: dict[str, str], rows: list[Row]) -> None:
    """Replace the figures of the last run on the page."""
    conditions = ", ".join(f"{name} {value}" for name, value in about.items())
    text = _replaced(page.read_text(), "headlines", headlines(rows))
    measured = f"{conditions[0].upper()}{conditions[1:]}.\n\n{table(rows)}"
    page.write_text(_replaced(text, "all figures", measured))


def _replaced(text: str, name: str, content: str) -> str:
    begin, end = f"<!-- {name}: written by nox -s bench -->\n", f"<!-- end of {name} -->\n"
    before, rest = text.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n{content}\n{end}{after}"


def save(path: Path, about: dict[str, str], rows: list[Row]) -> None:
    """Store all figures, and the conditions under which they were measured."""
    held = {"about": about, "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(held, indent=2, ensure_ascii=False) + "\n")


def load(path: Path) -> tuple[dict[str, str], list[Row]]:
    """Return what `save` has stored."""
    held = json.loads(path.read_text())
    return held["about"], [Row(**row) for row in held["rows"]]
