"""The results of the doctor's checks, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

Status = Literal["ok", "warning", "failed", "skipped"]


class SourcedValue(NamedTuple):
    """One value of the configuration, and the source it comes from."""

    value: str
    source: str


Detail: TypeAlias = str | int | float | bool | list[str] | SourcedValue


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check."""

    details: dict[str, Detail] = field(default_factory=dict)
    status: Status = "ok"
    problem: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """A check that has run, and how long it took."""

    name: str
    seconds: float
    result: CheckResult

    def to_json(self) -> dict[str, object]:
        """Return the step in types that JSON has."""
        details = {
            name: detail._asdict() if isinstance(detail, SourcedValue) else detail
            for name, detail in self.result.details.items()
        }
        return {
            "name": self.name,
            "status": self.result.status,
            "seconds": round(self.seconds, 4),
            "problem": self.result.problem,
            "hint": self.result.hint,
            "facts": details,
        }
