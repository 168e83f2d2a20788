"""SQLAlchemy's own dialect suite, on psycopg and on azpg, through the emulator's proxy.

Run as `python tests/tools/dialect_suite.py SDIST POSTGRES`, where SDIST is the unpacked source
of the SQLAlchemy that is installed, and POSTGRES a PostgreSQL with citext and hstore. It fails
unless every test of each driver ends as psycopg's does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree as ET

import azpg
from azpg.emulator import Emulator

# What SQLAlchemy's README.dialects.rst asks of a dialect, and its own requirements of PostgreSQL.
_FILES = {
    "conftest.py": """
import pytest
pytest.register_assert_rewrite("sqlalchemy.testing.assertions")
from sqlalchemy.dialects.postgresql import provision
from sqlalchemy.testing.plugin.pytestplugin import *
""",
    "test_suite.py": "from sqlalchemy.testing.suite import *\n",
    "setup.cfg": """
[tool:pytest]
[sqla_testing]
requirement_cls = test.requirements:DefaultRequirements
profile_file = profiles.txt
""",
}

DRIVERS = ("psycopg", "azpg", "psycopg_async", "azpg_async")


def run(driver: str, sdist: Path, folder: Path) -> Counter[tuple[str, str]]:
    """Return how each test of the suite ended."""
    report = folder / f"{driver}.xml"
    subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "test_suite.py", "-p", "no:cacheprovider", "-q"),
            *("--no-header", "--tb=short", f"--junit-xml={report}"),
            *("--dburi", f"postgresql+{driver}:///suite"),
        ],
        check=False,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(sdist), "PYTHONSAFEPATH": "1"},
    )
    ends: Counter[tuple[str, str]] = Counter()
    for case in ET.parse(report).iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        ends[name, next((child.tag for child in case), "passed")] += 1
    return ends


def prepare() -> None:
    """Make the database that SQLAlchemy's README.unittests.rst describes."""
    with azpg.connect(autocommit=True) as conn:
        conn.execute("create database suite")
    with azpg.connect(dbname="suite", autocommit=True) as conn:
        for statement in (
            "create extension citext",
            "create extension hstore",
            "create schema test_schema",
            "create schema test_schema_2",
            "alter database suite set timezone to 'Etc/UTC'",
        ):
            conn.execute(statement)


def main(sdist: Path, postgres: str) -> int:
    """Print every driver's counts; return 0 if they agree."""
    all_ends = []
    with Emulator(postgres=postgres) as emulator, tempfile.TemporaryDirectory() as folder:
        os.environ |= emulator.env
        for name, text in _FILES.items():
            (Path(folder) / name).write_text(text)
        prepare()
        # psycopg's drivers know nothing of a token
        plain = {"PGUSER": "myapp", "PGPASSWORD": emulator.token(), "PGSSLMODE": "verify-full"}
        for driver in DRIVERS:
            for name in plain:
                os.environ.pop(name, None)
            if driver.startswith("psycopg"):
                os.environ |= plain
            all_ends.append(run(driver, sdist, Path(folder)))
    for driver, ends in zip(DRIVERS, all_ends, strict=True):
        counts = Counter(end for (_, end), count in ends.items() for _ in range(count))
        print(driver, dict(counts))  # noqa: T201  # it is a program
    sync, azpg_sync, aio, azpg_aio = all_ends
    return 0 if sync and aio and (sync, aio) == (azpg_sync, azpg_aio) else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute(), sys.argv[2]))
