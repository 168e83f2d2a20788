"""The SQL in the documentation, run by `azpg psql` for an administrator of a real server."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from fix_docs import blocks

if TYPE_CHECKING:
    from pathlib import Path

    from fix_command import Command

BLOCKS = [pytest.param(sql, id=name) for name, sql in blocks("sql")]

# What only Azure's servers have. Source: MicrosoftDocs/azure-databases-docs,
# articles/postgresql/security/security-manage-entra-users.md
AZURES = """
create or replace function pgaadauth_create_principal(name text, admin boolean, mfa boolean)
returns text language plpgsql as $$ begin
    if not exists (select from pg_roles where rolname = name) then
        execute format('create role %I login', name);
    end if;
    return format('Created role for %s', quote_ident(name));
end $$;
create or replace function pgaadauth_create_principal_with_oid(
    name text, object_id text, kind text, admin boolean, mfa boolean)
returns text language plpgsql as $$ begin
    perform object_id::uuid;
    if kind not in ('user', 'group', 'service') then raise '% is no kind', kind; end if;
    return pgaadauth_create_principal(name, admin, mfa);
end $$;
"""


@pytest.mark.parametrize("sql", BLOCKS)
@pytest.mark.parametrize("server", ["azure15", "azure"])
def test_documented_sql_runs(
    command: Command, request: pytest.FixtureRequest, tmp_path: Path, server: str, sql: str
) -> None:
    """Each block runs as an administrator, no superuser, on Debian's and on the newest server.

    PostgreSQL 16 restricted what such a role may do with other roles.
    """
    request.getfixturevalue(server)
    script = tmp_path / "page.sql"
    # Another test on the same server may have created it
    names = re.findall(r"^create database (\w+)", sql, re.IGNORECASE | re.MULTILINE)
    dropped = "".join(f"drop database if exists {name} with (force);\n" for name in names)
    script.write_text(AZURES + dropped + sql)
    options = ("-X", "-v", "ON_ERROR_STOP=1", "-f", str(script))
    ran = command("psql", "--server", "myserver", "--dbname", "postgres", *options)
    assert ran.status == 0, ran.err
