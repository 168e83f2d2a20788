"""The phrases that the code, the docs and the README do not use, because they are unclear."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = [
    ROOT / "README.md",
    *(
        path
        for folder in ("azpg", "docs")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in {".json", ".md", ".py", ".svg"} and "_build" not in path.parts
    ),
]
UNCLEAR = {
    "again, or recreate": r"\banew\b",
    "invalid or conflicting arguments": "cannot be meant",
    "the host or address to connect to": "the way there",
    "cached": r"\bin hand\b",
    "the liveness check": r"the look\b",
    "with full jitter": "drawn by lot",
    "fix": r"\bmend(s|ed|ing)?\b",
    "people who, code that": r"\bwhoever\b",
    "the azpg, Azure or libpq …": "of (azpg|azure|libpq)'s",
    "no, none": "nothing to be had",
    "must": r"\bis to be\b",
    "forever": r"\bfor ever\b",
    "everything else": r"\ball else\b",
    "is in": r"\bstands? in\b",
    "with, next to": r"\bbeside\b",
    "not a word of": r"\bno word of\b",
    "a literal description": "as it is said",
    "the error message": "its own words",
}
"""What to write, and the pattern of the phrase that it replaces"""


@pytest.mark.parametrize(("better", "phrase"), UNCLEAR.items())
def test_no_unclear_phrase(better: str, phrase: str) -> None:
    """No file has the phrase, in any case and across a line break; the id says what to write."""
    pattern = re.compile(phrase.replace(" ", r"\s+"), re.IGNORECASE)
    found = [
        f"{path.relative_to(ROOT)}: {match[0]!r}"
        for path in FILES
        for match in pattern.finditer(path.read_text("utf-8"))
    ]
    assert found == [], f"write: {better}"
