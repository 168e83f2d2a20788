"""Check the types of the documentation's code that cannot be run: what needs Azure, say.

    PYTHONPATH=tests python tests/tools/docs_types.py

What can be run is in blocks called `python`, and tests/test_docs.py runs it.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

from fix_docs import blocks

OTHERS = """\
import os
from typing import Any

import psycopg
import psycopg_pool
from azure.identity import AzurePipelinesCredential, DefaultAzureCredential
from azure_postgresql_auth.sqlalchemy import enable_entra_authentication
from psycopg_pool import ConnectionPool
from sqlalchemy import create_engine, event

import azpg

conninfo = ""
vault: Any = None
dbutils: Any = None
notebookutils: Any = None
SCOPE = azpg.AZURE_PUBLIC.scope
"""
"""what the pages leave to the reader's own program"""


def _in_function(code: str) -> str:
    """Return a block that awaits as the body of an async function, other code as it is."""
    if not re.search(r"^(async with|await) ", code, re.MULTILINE):
        return code
    return "async def main() -> None:\n" + textwrap.indent(code, "    ")


def _defines(name: str, code: str) -> bool:
    return re.search(rf"^(def )?{name}( =|\()", code, re.MULTILINE) is not None


def main() -> int:
    """Write each block into a file of its own, and have mypy read them all."""
    with tempfile.TemporaryDirectory() as folder:
        for name, code in blocks("py"):
            own = "" if _defines("credential", code) else "credential: Any = None\n"
            own += "" if _defines("token", code) else 'token = ""\n'
            file = Path(folder, name.replace("-", "_") + ".py")
            file.write_text(OTHERS + own + _in_function(code).replace("=…", '=""'))
        mypy = (sys.executable, "-m", "mypy", "--config-file=", "--check-untyped-defs")
        return subprocess.run(
            [*mypy, "--ignore-missing-imports", folder], check=False, cwd=folder
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
