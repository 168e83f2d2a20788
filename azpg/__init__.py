"""The correct connection from Python to Azure Database for PostgreSQL."""

__version__ = "0.1.0"
