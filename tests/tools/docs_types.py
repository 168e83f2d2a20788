"""Check the types of the documentation's code that cannot be run: what needs Azure, say.

    PYTHONPATH=tests python tests/tools/docs_types.py

What can be run is in blocks called `python`, and tests/test_docs.py runs it.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
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

conninfo = token = ""
vault: Any = None
SCOPE = azpg.AZURE_PUBLIC.scope
"""
"""what the pages leave to the reader's own program"""


def main() -> int:
    """Write each block into a file of its own, and have mypy read them all."""
    with tempfile.TemporaryDirectory() as folder:
        for name, code in blocks("py"):
            known = re.search(r"^(def )?credential( =|\()", code, re.MULTILINE)
            own = "" if known else "credential: Any = None\n"
            file = Path(folder, name.replace("-", "_") + ".py")
            file.write_text(OTHERS + own + code.replace("=…", '=""'))
        mypy = (sys.executable, "-m", "mypy", "--config-file=", "--check-untyped-defs")
        return subprocess.run(
            [*mypy, "--ignore-missing-imports", folder], check=False, cwd=folder
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
