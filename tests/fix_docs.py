"""The blocks of code in the documentation, by their language."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def blocks(language: str) -> list[tuple[str, str]]:
    """Return each block with the name of its page and its number there."""
    fenced = re.compile(rf"```{language}\n(.*?)```", re.DOTALL)
    return [
        (f"{page.stem}-{number}", code)
        for page in sorted(DOCS.rglob("*.md"))
        for number, code in enumerate(fenced.findall(page.read_text("utf-8")))
    ]
