"""Run the checks of `azpg doctor`."""

from __future__ import annotations

from typing import Any, TypeAlias

from azpg._doctor.checks import run_checks
from azpg._doctor.result import Step

STEPS = ["configuration", "name", "TCP", "TLS", "identity", "sign-in", "PgBouncer", "speed"]

Steps: TypeAlias = dict[str, Step]


def run_steps(**options: Any) -> Steps:
    """Run all checks for the options of a connect, and return the steps by name."""
    steps = [each for each in run_checks(options) if isinstance(each, Step)]
    assert [step.name for step in steps] == STEPS
    return {step.name: step for step in steps}


def details(steps: Steps, name: str) -> dict[str, Any]:
    """Return the details of a step that did not fail."""
    result = steps[name].result
    assert result.status in ("ok", "warning"), result
    return result.details


def statuses(steps: Steps) -> dict[str, str]:
    """Return the statuses of the steps that are not "ok"."""
    found = {name: step.result.status for name, step in steps.items()}
    return {name: status for name, status in found.items() if status != "ok"}
