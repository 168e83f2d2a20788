"""What was measured: a row for each comparison, kept as JSON and shown as a table."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias

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
    """the median of the turns' own ratios, or differences, where they were measured side by side"""

    @property
    def at_least(self) -> bool:
        """Tell whether more is better."""
        return self.judged == "times"

    @property
    def value(self) -> float:
        """Return the figure that is judged."""
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
        """Return its line of the table."""
        theirs = "" if self.theirs is None else f": {_amount(self.theirs, self.unit)}"
        goal, mark = "", ""
        if self.goal is not None:
            goal = f"{'≥' if self.at_least else '≤'} {self._shown(self.goal)}"
            mark = "yes" if self.reached else "**no**"
        ours, value = _amount(self.ours, self.unit), self._shown(self.value)
        return self.measure, ours, f"{self.against}{theirs}", value, goal, mark

    def _shown(self, value: float) -> str:
        match self.judged:
            case "ratio":
                return f"{value:.3f}".removesuffix("0")
            case "times":
                return f"{value:.2f} times"
            case "more":
                return f"{value:+.1f} {self.unit}".strip()
            case "itself":
                return _amount(value, self.unit)


HEAD = ("measure", "azpg", "against", "figure", "to reach", "reached")


def _amount(value: float, unit: str) -> str:
    digits = 0 if not unit or value >= 1000 else 2 if value < 10 else 1
    return f"{value:,.{digits}f} {unit}".strip()


def table(rows: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [HEAD, tuple("---" for _ in HEAD), *(row.cells() for row in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def put_into(page: Path, about: dict[str, str], rows: list[Row]) -> None:
    """Put the table where the page has the last one."""
    begin, end = "<!-- what nox -s bench printed -->\n", "<!-- its end -->\n"
    before, rest = page.read_text().split(begin)
    _, after = rest.split(end)
    where = ", ".join(f"{name} {value}" for name, value in about.items())
    page.write_text(
        f"{before}{begin}\n{where[0].upper()}{where[1:]}.\n\n{table(rows)}\n{end}{after}"
    )


def save(path: Path, about: dict[str, str], rows: list[Row]) -> None:
    """Write all that was measured, and on what."""
    held = {"about": about, "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(held, indent=2, ensure_ascii=False) + "\n")


def load(path: Path) -> tuple[dict[str, str], list[Row]]:
    """Read it again."""
    held = json.loads(path.read_text())
    return held["about"], [Row(**row) for row in held["rows"]]
