"""Run the code of docs/how-to/ai-frameworks.md in an emulator: `nox -s frameworks`."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
from pathlib import Path

from azpg.emulator import Emulator

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "ai-frameworks.md"


async def run(code: str) -> None:
    """Run one block, which may await."""
    compiled = compile(code, PAGE.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if inspect.isawaitable(waiting := eval(compiled, {"__name__": PAGE.stem})):
        await waiting


def main() -> None:
    """Run each block; the first that raises ends the program."""
    with Emulator() as emulator:
        os.environ.update(emulator.env)
        for code in re.findall(r"```py\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL):
            asyncio.run(run(code))


if __name__ == "__main__":
    main()
