"""The classes as a caller sees them: for mypy alone, as pyright cannot bind their defaults."""

from __future__ import annotations

from typing import Any, assert_type

from psycopg.rows import dict_row

import azpg

Tuple = tuple[Any, ...]


def classes() -> None:
    """The classes have psycopg's own type parameters, with azpg's connections by default."""
    assert_type(azpg.Connection.connect(), azpg.Connection[Tuple])
    assert_type(azpg.Connection.connect(row_factory=dict_row), azpg.Connection[dict[str, Any]])
    assert_type(azpg.ConnectionPool("", open=False), azpg.ConnectionPool[azpg.Connection[Tuple]])
    assert_type(
        azpg.AsyncConnectionPool("", open=False),
        azpg.AsyncConnectionPool[azpg.AsyncConnection[Tuple]],
    )
