"""The rules of pg_hba.conf, which PgBouncer reads as well."""

from collections.abc import Iterable

from .admin_session import quote_identifier


def hba_rules(trusted_roles: Iterable[str]) -> str:
    """Return rules that let roles in without a password; all other roles need one.

    The trusted roles are the Entra roles, whose tokens the proxy has checked.
    """
    rules = [f"local all {quote_identifier(name)} trust" for name in trusted_roles]
    return "\n".join([*rules, "local all all scram-sha-256", ""])
