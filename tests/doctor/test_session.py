"""What the doctor reads from an open connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import azpg
from azpg._doctor.session import pool_mode, session_details, tracks_prepared_statements

if TYPE_CHECKING:
    from azpg.emulator import Emulator


def test_the_check_of_prepared_statements_leaves_none(azure: Emulator) -> None:
    """It deallocates the statement that it has prepared."""
    with azpg.connect(server="myserver", autocommit=True) as conn:
        assert not tracks_prepared_statements(conn)
        assert not conn.execute("select * from pg_prepared_statements").fetchall()


def test_connections_to_the_server_itself_have_no_pool_mode_transaction(azure: Emulator) -> None:
    """Each one keeps its own server process, as in pool mode session."""
    with (
        azpg.connect(server="myserver", autocommit=True) as first,
        azpg.connect(server="myserver", autocommit=True) as second,
    ):
        assert pool_mode(first, second).startswith("session")


def test_a_read_only_session_and_a_set_role_are_reported(azure: Emulator) -> None:
    """The user's name has the role, and the user who authenticated."""
    with azpg.connect(
        server="myserver", options="-c default_transaction_read_only=on -c role=azure_pg_admin"
    ) as conn:
        found = session_details(conn)
    assert found["read_only"] is True
    assert found["user"] == "azure_pg_admin, authenticated as myapp"
