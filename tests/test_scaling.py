"""The page of scaling: its tables are what its program works out."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
WORKED_OUT = runpy.run_path(str(DOCS / "scaling.py"))


@pytest.mark.parametrize("table", ["capacity", "bursts"])
def test_the_page_shows_what_is_worked_out(table: str) -> None:
    """Limits, or azpg's jitter, that change are noticed here: `nox -s scaling` prints the new."""
    assert f"\n\n{WORKED_OUT[table]()}\n\n" in (DOCS / "scaling.md").read_text()
