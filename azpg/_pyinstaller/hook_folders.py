"""Where PyInstaller finds azpg's hook: the entry point `pyinstaller40` names this function."""

from __future__ import annotations

import os


def hook_folders() -> list[str]:
    """Return the folders that contain hooks for PyInstaller."""
    return [os.path.dirname(__file__)]
