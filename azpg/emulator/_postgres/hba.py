"""The rules of pg_hba.conf, which PgBouncer reads too."""

from collections.abc import Iterable

from .admin_session import quote_identifier


def hba_rules(trusted: Iterable[str]) -> str:
    """Return pg_hba.conf, which PgBouncer reads too: one rule a role, in order."""
    rules = [f"local all {quote_identifier(name)} trust" for name in trusted]
    return "\n".join([*rules, "local all all scram-sha-256", ""])
