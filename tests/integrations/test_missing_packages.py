"""The integrations without the package that each of them needs."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("name", ["asyncpg", "django", "sqlalchemy"])
def test_a_missing_package_is_named_with_the_pip_command(name: str) -> None:
    """The import fails with the command that installs the package."""
    program = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
import azpg.{name}
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ModuleNotFoundError: ")
    assert f"pip install '{name}" in done.stderr.splitlines()[-1]
