"""What every test stands on: a clean environment, the servers, both APIs through one fixture."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytest_plugins = (
    "fix_api",
    "fix_conninfo",
    "fix_credentials",
    "fix_hostile",
    "fix_leaks",
    "fix_servers",
    "fix_sources",
    "fix_tunnel",
)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that skipped a test: whatever a test needs has to be there."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


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
