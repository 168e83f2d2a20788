"""The page of benchmarks: it shows what the last run printed, and nothing else."""

from __future__ import annotations

from pathlib import Path

from benchmarks import results

DOCS = Path(__file__).parent.parent / "docs"


def test_the_page_shows_what_was_measured() -> None:
    """Both tables are made of benchmarks.json, and no measure is there twice."""
    about, rows = results.load(DOCS / "benchmarks.json")
    assert len(rows) > 20
    page = (DOCS / "benchmarks.md").read_text()
    assert results.headlines(rows) in page
    assert results.table(rows) in page
    assert about["measured on"] in page
    assert len({row.title for row in rows}) == len(rows)


def test_a_figure_is_judged_by_its_goal() -> None:
    """Less is better, but for how many times faster azpg is."""
    ratio = results.Row("a", "ms", 1.0, "b", 1.0, goal=1.02)
    assert ratio.reached
    assert not results.Row("a", "ms", 1.1, "b", 1.0, goal=1.02).reached
    assert not results.Row("a", "µs", 9.0, "b", 5.0, "more", goal=3.0).reached
    assert results.Row("a", "µs", 1.0, "b", 10.0, "times", goal=10.0).reached
    assert not results.Row("a", "µs", 1.0, "b", 9.0, "times", goal=10.0).reached
    assert not results.Row("a", "", 2, judged="itself", goal=1).reached
