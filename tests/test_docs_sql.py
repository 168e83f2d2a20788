"""The SQL in the documentation, run by `azpg psql` for an administrator of a real server."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from fix_docs import blocks
from fix_servers import POSTGRES

from azpg.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fix_command import Command

BLOCKS = [pytest.param(sql, id=name) for name, sql in blocks("sql")]

CREATE_DATABASE = re.compile(r"^create database (\w+)", re.MULTILINE)
DATABASES = [name for _, sql in blocks("sql") for name in CREATE_DATABASE.findall(sql)]


@pytest.fixture(scope="module", params=[POSTGRES.parent, None], ids=["debian", "newest"])
def servers(request: pytest.FixtureRequest) -> Iterator[Emulator]:
    """Run a server in which the tests may drop the role of `myapp`.

    PostgreSQL 16 restricted what an administrator may do with other roles.
    """
    with Emulator(postgres=request.param, pgbouncer=False) as emulator:
        administrator = emulator.add_role("administrator", kind="user-assigned")
        emulator.sign_in_as(administrator)
        emulator.add_identity("team", kind="group")
        yield emulator


@pytest.fixture
def azure_administrator(servers: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Export what leads to the server, where an Entra administrator signs in."""
    for name, value in servers.env.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("sql", BLOCKS)
@pytest.mark.usefixtures("azure_administrator")
def test_documented_sql_runs(command: Command, tmp_path: Path, sql: str) -> None:
    """Each block is what the server takes, from an administrator who is no superuser."""
    # The server has `myapp`, which from PostgreSQL 16 on only its creator may drop
    sql = sql.replace("myapp", "newapp")
    script = tmp_path / "page.sql"
    # Another block on the same server may have created it
    created = re.findall(r"pgaadauth_create_principal\w*\(\s*'([^']+)'", sql)
    before = [
        *(f"drop database if exists {name} with (force);" for name in DATABASES),
        *(f'drop role if exists "{name}";' for name in created),
    ]
    if not created and '"newapp"' in sql:
        before.append(
            'do $$ begin create role "newapp" login; '
            "exception when duplicate_object then null; end $$;"
        )
    script.write_text("\n".join([*before, sql]))
    options = ("-X", "-v", "ON_ERROR_STOP=1", "-f", str(script))
    ran = command("psql", "--server", "myserver", "--dbname", "postgres", *options)
    assert ran.status == 0, ran.err
