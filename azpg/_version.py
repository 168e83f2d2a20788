"""The version of azpg. Pure."""

__version__ = "0.1.0"
