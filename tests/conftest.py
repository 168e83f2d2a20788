"""What every test stands on: a clean environment, the servers, both APIs through one fixture."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import psycopg
import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytest_plugins = ("fix_api", "fix_servers")


def pytest_report_header() -> list[str]:
    """Name the drivers in use."""
    return [f"psycopg {psycopg.__version__}, libpq {psycopg.pq.version()}"]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let no variable and no home folder of the machine reach a test."""
    for name in os.environ:
        if name.startswith(("PG", "AZURE_", "IDENTITY_", "MSI_")):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
