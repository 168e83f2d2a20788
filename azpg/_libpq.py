"""What the libpq in use supports: its keywords, their variables and defaults, which are secret."""

from __future__ import annotations

from functools import cache

from psycopg import pq


class LibpqInfo:
    """The connection parameters of the libpq in use."""

    def __init__(self) -> None:
        options = pq.Conninfo.get_defaults()
        self.variables = {o.keyword.decode(): (o.envvar or b"").decode() for o in options}
        """keyword -> environment variable, empty if it has none"""
        self.secrets = frozenset(
            o.keyword.decode()
            for o in options
            # libpq marks passwords with a star; its SCRAM keys it only hides as debug options.
            if o.dispchar == b"*" or o.keyword.startswith(b"scram_")
        )
        """keywords whose values are never shown"""


@cache
def libpq_info() -> LibpqInfo:
    """Return what the libpq in use supports, read once."""
    return LibpqInfo()
