"""What means the same at every entry point: connect, pools, integrations and the command."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fix_entry_points import everywhere

if TYPE_CHECKING:
    from fix_entry_points import EntryPoint, Integrations
    from fix_servers import Postgres

HOST = "myserver.postgres.database.azure.com"
AZURE = {"host": HOST, "port": "5432", "user": "app", "dbname": "db", "password": "s3cret-word"}


# ssl=


@pytest.mark.parametrize("ssl", ["disable", "FALSE"])
@everywhere
def test_ssl_turned_off_is_refused_for_an_azure_host(
    using: Integrations, entry: EntryPoint, ssl: str
) -> None:
    """It is the sslmode of the same name, which Azure does not have."""
    with pytest.raises(Exception, match=r"disable.* turns off TLS"):
        entry(using, AZURE | {"ssl": ssl})


@everywhere
def test_ssl_is_taken_as_an_sslmode(
    using: Integrations, entry: EntryPoint, postgres: Postgres
) -> None:
    """In any letter case: it is no unknown option, and the server is asked to authenticate."""
    options = postgres.conninfo(password="s3cret-word", ssl="Require")
    with pytest.raises(Exception, match="password authentication failed"):
        entry(using, options)


@everywhere
def test_ssl_and_another_sslmode_contradict_each_other(
    using: Integrations, entry: EntryPoint
) -> None:
    """Neither of them is taken."""
    with pytest.raises(Exception, match="contradict each other"):
        entry(using, AZURE | {"ssl": "require", "sslmode": "verify-full"})
