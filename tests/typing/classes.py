"""The classes as a caller sees them: for mypy alone, as pyright cannot bind their defaults."""

from __future__ import annotations

from typing import Any, assert_type

import psycopg
from psycopg.rows import dict_row

import azpg

Tuple = tuple[Any, ...]


def configure(conn: azpg.Connection[Any]) -> None:
    """Stand for a callback that is annotated with azpg's class."""


def classes() -> None:
    """The classes have psycopg's own type parameters, with psycopg's own defaults."""
    assert_type(azpg.Connection.connect(), azpg.Connection[Tuple])
    assert_type(azpg.Connection.connect(row_factory=dict_row), azpg.Connection[dict[str, Any]])
    assert_type(azpg.ConnectionPool("", open=False), azpg.ConnectionPool[psycopg.Connection[Tuple]])
    assert_type(
        azpg.AsyncConnectionPool("", open=False),
        azpg.AsyncConnectionPool[psycopg.AsyncConnection[Tuple]],
    )
    azpg.ConnectionPool("", configure=configure, open=False)
