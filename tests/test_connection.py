"""Connections end to end: real TLS, real tokens, real servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

import azpg

if TYPE_CHECKING:
    from fix_api import Api
    from fix_servers import Postgres

    from azpg.emulator import Emulator


def test_signs_in_over_verified_tls_with_a_token(api: Api, azure: Emulator) -> None:
    """A server's short name is enough: TLS is verified, the user and the token are Entra's."""
    with api.connect(server="myserver") as conn:
        assert api.row(conn, "select current_user, current_database()") == ("myapp", "postgres")
        assert conn.pgconn.ssl_in_use
        assert conn.info.get_parameters()["sslmode"] == "verify-full"
        assert conn.info.port == 5432


def test_goes_through_pgbouncer_without_prepared_statements(api: Api, azure: Emulator) -> None:
    """pgbouncer=True means port 6432 and no prepared statements."""
    with api.connect(server="myserver", pgbouncer=True) as conn:
        assert api.row(conn, "select current_user") == ("myapp",)
        assert conn.info.port == 6432
        assert conn.prepare_threshold is None


def test_signs_in_with_a_password_over_the_servers_own_tls(api: Api, postgres: Postgres) -> None:
    """A role's password signs in by SCRAM, and the server itself says that TLS is used."""
    with api.connect(**postgres.conninfo()) as conn:
        query = "select ssl, version from pg_stat_ssl where pid = pg_backend_pid()"
        assert api.row(conn, query) == (True, "TLSv1.3")


def test_is_a_psycopg_connection(api: Api, azure: Emulator) -> None:
    """What connect() returns is used wherever psycopg's connection is."""
    with api.connect() as conn:
        assert isinstance(conn, psycopg.Connection | psycopg.AsyncConnection)


def test_refused_sign_in_raises_login_error(api: Api, azure: Emulator) -> None:
    """A role that does not exist is refused in the server's own words."""
    with pytest.raises(azpg.LoginError, match="password authentication failed") as caught:
        api.open(user="nobody")
    assert caught.value.kind == "login"
