"""What the doctor finds, as data: a step, its facts, its problem and its hint. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

Status = Literal["ok", "warning", "failed", "skipped"]


class Setting(NamedTuple):
    """One value of the configuration, and who said it."""

    value: str
    source: str


Fact: TypeAlias = str | int | float | bool | list[str] | Setting


@dataclass(frozen=True, slots=True)
class Finding:
    """What one step has found."""

    facts: dict[str, Fact] = field(default_factory=dict)
    status: Status = "ok"
    problem: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One step that was walked, in how many seconds."""

    name: str
    seconds: float
    found: Finding

    def as_data(self) -> dict[str, object]:
        """Return it in what JSON has."""
        facts = {
            name: fact._asdict() if isinstance(fact, Setting) else fact
            for name, fact in self.found.facts.items()
        }
        return {
            "name": self.name,
            "status": self.found.status,
            "seconds": round(self.seconds, 4),
            "problem": self.found.problem,
            "hint": self.found.hint,
            "facts": facts,
        }
