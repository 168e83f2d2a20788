"""The settings that Azure's PgBouncer does not take from a connection. Pure.

PgBouncer refuses each setting that it does not track, unless `ignore_startup_parameters` names it.
Source: pgbouncer/pgbouncer, src/client.c and `track_extra_parameters` (1.25.2). Azure's defaults:
MicrosoftDocs/azure-databases-docs, pgbouncer-parameters-table.md (checked 2026-11-28).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from azpg._redact import quote

if TYPE_CHECKING:
    from collections.abc import Iterable

TRACKED = frozenset(
    {
        *("application_name", "client_encoding", "datestyle", "intervalstyle"),
        *("standard_conforming_strings", "timezone"),
    }
)

_SETTING = re.compile(r"(?:-c\s*|--)(?P<name>[A-Za-z_][\w.-]*)=")


def settings_in(options: str) -> list[str]:
    """Return the names of the settings in a value of the keyword `options`."""
    return [found["name"].replace("-", "_") for found in _SETTING.finditer(options)]


def refused_setting_warnings(settings: Iterable[str], option: str) -> list[str]:
    """Return a warning for each setting that Azure's PgBouncer refuses with its defaults.

    Args:
        settings: The names of the settings.
        option: What has them, as a message names it.
    """
    refused = [name for name in dict.fromkeys(settings) if name.lower() not in TRACKED]
    return [
        f"Azure's PgBouncer refuses connections with the setting {_shown(name)} (in {option}), "
        f"unless the server parameter pgbouncer.ignore_startup_parameters names it: set it once "
        f"for the role, ALTER ROLE <role> SET {_shown(name)} = …, or connect to the server itself "
        f"with ⟦pgbouncer=False⟧"
        for name in refused
    ]


PREPARES_AT_ONCE = (
    "⟦prepare_threshold=0⟧ prepares each query at its first execution, which fails behind "
    "PgBouncer unless the server parameter pgbouncer.max_prepared_statements is above 0: for no "
    "prepared statements write ⟦prepare_threshold=None⟧, or leave it out"
)


DROPS_PREPARED_STATEMENTS = (
    "PgBouncer announced that it does not keep prepared statements (max_prepared_statements is 0): "
    "pass ⟦pgbouncer=True⟧ or ⟦prepare_threshold=None⟧"
)


def _shown(name: str) -> str:
    return quote(name, r"[\w.]{1,60}").strip("'")
