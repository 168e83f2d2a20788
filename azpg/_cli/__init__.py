"""The command `azpg`."""
