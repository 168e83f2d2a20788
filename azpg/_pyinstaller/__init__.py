"""PyInstaller's hook for programs that import azpg."""
