"""Run the code of one section of the how-to pages, inside an emulator: `nox -s frameworks`.

    azpg emulator -- python tests/tools/frameworks.py HEADING [PACKAGE …]

Each package's version is printed.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import sys
from importlib.metadata import version
from pathlib import Path

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"
PAGES = ("ai-frameworks", "mlflow")


def section(heading: str) -> str:
    """Return the text under a heading, up to the next one."""
    text = "\n".join((HOW_TO / f"{page}.md").read_text("utf-8") for page in PAGES)
    pattern = rf"^##? {re.escape(heading)}$(.*?)(?=^## |\Z)"
    (found,) = re.findall(pattern, text, re.DOTALL | re.MULTILINE)
    return str(found)


async def run(code: str) -> None:
    """Run one block, which may await."""
    compiled = compile(code, "page", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if inspect.isawaitable(waiting := eval(compiled, {"__name__": "page"})):
        await waiting


def main(heading: str, *packages: str) -> None:
    """Run each block of the section; the first that raises ends the program."""
    blocks = re.findall(r"```py\n(.*?)```", section(heading), re.DOTALL)
    if not blocks:
        sys.exit(f"no code under {heading!r}")
    for code in blocks:
        asyncio.run(run(code))
    versions = (f"{package} {version(package)}" for package in packages)
    print(*versions, sep=", ")  # noqa: T201  # for the page


if __name__ == "__main__":
    main(*sys.argv[1:])
