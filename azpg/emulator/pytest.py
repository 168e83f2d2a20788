"""pytest fixtures that run tests against an emulator.

Enable them in the top-level conftest.py::

    pytest_plugins = ["azpg.emulator.pytest"]
"""

from collections.abc import Iterator

import pytest

from ._emulator import Emulator


@pytest.fixture(scope="session")
def azpg_emulator() -> Iterator[Emulator]:
    """Run one emulator for the whole test session."""
    with Emulator() as emulator:
        yield emulator


@pytest.fixture
def azpg_emulator_env(azpg_emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Set the emulator's environment variables for one test, and return them."""
    for name in azpg_emulator.env_to_unset:
        monkeypatch.delenv(name, raising=False)
    for name, value in azpg_emulator.env.items():
        monkeypatch.setenv(name, value)
    return azpg_emulator.env
