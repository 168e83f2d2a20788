"""The phrases that the code and the documentation do not use, because they are unclear."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = [
    *ROOT.glob("*.md"),
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
    "the psycopg, asyncpg … error": (
        r"of (asyncpg|django|psycopg|psycopg_pool|sqlalchemy)'s"
        r"(?=[.,;:)]| (and|or|in|is|are|was|has|that|which|with|for|to)\b)"
    ),
    "refreshed in the background": r"\b(renew|ask)(s|ed)? ahead\b",
    "bundled": r"\bbrought along\b",
    "non-Azure hosts": r"\bforeign hosts?\b",
    "a TLS-inspecting proxy": r"\b(breaks?|opens?) (the )?TLS\b",
    "interactive": r"\bask(s|ed|ing)? a person\b",
    "invalidate": r"\bsever(s|ed)?\b",
    "permanent": r"\bhopeless\b",
    "similar, the same": r"\bkindred\b",
    "next to, with": r"\bnext door\b",
    "with exponential backoff": "pauses that",
    "reports, runs the steps": r"\bwalks? (the|through)\b",
    "was idle": "did nothing for",
    "unencrypted": r"\bin clear\b",
    "invalid, unsupported": r"\bmisfits?\b",
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
"""What to write, and the pattern of the phrase that it replaces."""


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
