"""What PgBouncer announces of itself when a client logs in, from version 1.26 on.

Source: pgbouncer.org/changelog (1.26.0): the parameters `pgbouncer.version`, `pgbouncer.pool_mode`
and `pgbouncer.max_prepared_statements`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn


class Announcement(NamedTuple):
    """What PgBouncer announced."""

    version: str
    pool_mode: str
    """empty if it was not announced"""
    max_prepared_statements: int | None
    """None if it was not announced"""


def announcement(pgconn: PGconn) -> Announcement | None:
    """Return what PgBouncer announced on a connection, or None if it announced nothing."""
    version = pgconn.parameter_status(b"pgbouncer.version")
    if version is None:
        return None
    count = (pgconn.parameter_status(b"pgbouncer.max_prepared_statements") or b"").decode()
    return Announcement(
        version.decode(errors="replace"),
        (pgconn.parameter_status(b"pgbouncer.pool_mode") or b"").decode(errors="replace"),
        int(count) if count.isascii() and count.isdecimal() else None,
    )


def drops_prepared_statements(pgconn: PGconn) -> bool:
    """Return whether PgBouncer announced that prepared statements do not work on a connection."""
    found = announcement(pgconn)
    return (
        found is not None
        and found.pool_mode not in ("", "session")
        and found.max_prepared_statements == 0
    )
