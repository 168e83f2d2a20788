"""What PgBouncer announces of itself when a client logs in, from version 1.26 on.

Source: pgbouncer.org/changelog (1.26.0): the parameters `pgbouncer.version`, `pgbouncer.pool_mode`
and `pgbouncer.max_prepared_statements`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg.pq.abc import PGconn


class Announcement(NamedTuple):
    """What PgBouncer announced."""

    version: str
    pool_mode: str
    """empty if it was not announced"""
    max_prepared_statements: int | None
    """None if it was not announced"""

    @property
    def drops_prepared_statements(self) -> bool:
        """Whether prepared statements do not work on the connection."""
        return self.pool_mode not in ("", "session") and self.max_prepared_statements == 0


def read_announcement(parameter: Callable[[str], str | None]) -> Announcement | None:
    """Return what PgBouncer announced, or None if it announced nothing.

    Args:
        parameter: Returns the value of a parameter that the server reported, or None.
    """
    version = parameter("pgbouncer.version")
    if version is None:
        return None
    count = parameter("pgbouncer.max_prepared_statements") or ""
    return Announcement(
        version,
        parameter("pgbouncer.pool_mode") or "",
        int(count) if count.isascii() and count.isdecimal() else None,
    )


def announcement(pgconn: PGconn) -> Announcement | None:
    """Return what PgBouncer announced on a connection of libpq, or None."""

    def parameter(name: str) -> str | None:
        value = pgconn.parameter_status(name.encode())
        return None if value is None else value.decode(errors="replace")

    return read_announcement(parameter)
