"""The Django backend: settings, authentication, errors, pools, PgBouncer, test databases."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from azure.identity import ManagedIdentityCredential
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, connections

import azpg

if TYPE_CHECKING:
    from fix_django import Databases
    from fix_leaks import Tokens
    from fix_servers import Postgres

    from azpg.emulator import Emulator

pytestmark = pytest.mark.compat


DOCS = Path(__file__).parent.parent.parent / "docs"


def row(connection: Any, query: str) -> Any:
    """Return the first row of a query."""
    with connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()


# Settings


@pytest.mark.parametrize(
    "given",
    [
        pytest.param({}, id="environment"),
        pytest.param({"HOST": "MyServer.postgres.database.azure.com"}, id="host"),
        pytest.param({"OPTIONS": {"server": "myserver"}}, id="server"),
        pytest.param({"OPTIONS": {"conninfo": "dbname=postgres sslmode=require"}}, id="conninfo"),
        pytest.param({"NAME": "postgres", "USER": "myapp", "PORT": 5432}, id="name-user-port"),
        pytest.param({"OPTIONS": {"credential": ManagedIdentityCredential}}, id="credential"),
        pytest.param({"OPTIONS": {"sslmode": "require"}}, id="raised"),
        pytest.param({"OPTIONS": {"cloud": "public", "retry_timeout": 5}}, id="azpg"),
    ],
)
def test_it_authenticates_with_a_token(
    azure: Emulator, databases: Databases, given: dict[str, Any]
) -> None:
    """What the settings omit is resolved as by azpg.connect: the user is the token's role."""
    connection = databases(**given)
    assert row(connection, "select current_user, current_database()") == ("myapp", "postgres")
    assert connection.connection.info.get_parameters()["sslmode"] == "verify-full"
    assert isinstance(connection.connection, azpg.Connection)


def test_client_id_names_the_identity(azure: Emulator, databases: Databases) -> None:
    """client_id in OPTIONS chooses a user-assigned identity."""
    reports = azure.add_role("reports", kind="user-assigned")
    connection = databases(OPTIONS={"client_id": reports.client_id})
    assert row(connection, "select current_user") == ("reports",)


def test_a_password_authenticates_a_role(postgres: Postgres, databases: Databases) -> None:
    """NAME, USER, PASSWORD, HOST and PORT have Django's meaning."""
    connection = databases(
        NAME="postgres",
        USER=postgres.user,
        PASSWORD=postgres.password,
        HOST=postgres.host,
        PORT=str(postgres.port),
        OPTIONS={"hostaddr": postgres.hostaddr, "sslrootcert": postgres.root},
    )
    assert row(connection, "select current_user") == (postgres.user,)
    assert connection.connection.pgconn.ssl_in_use


def test_a_service_is_kept_for_every_database(
    azure: Emulator, databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service file names the server, also for the connection that creates test databases."""
    file = tmp_path / "services"
    file.write_text(f"[mine]\nhost={azure.host}\ndbname=mydb\n")
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    monkeypatch.delenv("PGHOST")
    connection = databases(OPTIONS={"service": "mine"})
    with connection._nodb_cursor() as cursor:
        cursor.execute("select current_database()")
        assert cursor.fetchone() == ("postgres",)
    with pytest.raises(OperationalError, match='database "mydb" does not exist'):
        connection.ensure_connection()


# Errors


@pytest.mark.parametrize("pool", [False, True])
def test_invalid_settings_are_improperly_configured(databases: Databases, pool: bool) -> None:
    """Invalid settings are Django's ImproperlyConfigured, with all the problems."""
    connection = databases(HOST="localhost", OPTIONS={"sslmod": "require", "pool": pool})
    with pytest.raises(ImproperlyConfigured) as caught:
        connection.ensure_connection()
    assert "DATABASES['default']" in str(caught.value)
    assert "write 'sslmode'" in str(caught.value)
    assert "'localhost' is not" in str(caught.value)
    assert "HINT: HOST, PORT" in str(caught.value)
    assert 'OPTIONS["server"] = "myserver", HOST = \'localhost\'' in str(caught.value)


@pytest.mark.parametrize("pool", [False, {"min_size": 1}])
def test_django_passes_the_error_on_with_its_hint(
    azure: Emulator, databases: Databases, pool: object
) -> None:
    """Django's OperationalError has azpg's message, and azpg's error as its cause."""
    connection = databases(USER="nobody", OPTIONS={"pool": pool})
    with pytest.raises(OperationalError, match="password authentication failed") as caught:
        connection.ensure_connection()
    assert "\nHINT: " in str(caught.value)
    assert isinstance(caught.value.__cause__, azpg.LoginError)


# Connections


@pytest.mark.parametrize("pool", [False, {"min_size": 1}])
def test_a_process_outlives_its_token(
    azure: Emulator, tokens: Tokens, databases: Databases, pool: object
) -> None:
    """Each new connection authenticates with a valid token."""
    connection = databases(OPTIONS={"credential": tokens.credential, "pool": pool})
    (first,) = row(connection, "select pg_backend_pid()")
    azure.expire_tokens()
    connection.connection.close()
    connection.close()
    assert row(connection, "select pg_backend_pid()") != (first,)
    assert len(set(tokens.given)) == 2


def test_persistent_connections(azure: Emulator, databases: Databases) -> None:
    """CONN_MAX_AGE keeps a connection, and CONN_HEALTH_CHECKS replaces a closed one."""
    connection = databases(CONN_MAX_AGE=None, CONN_HEALTH_CHECKS=True)
    (first,) = row(connection, "select pg_backend_pid()")
    connection.close_if_unusable_or_obsolete()
    assert row(connection, "select pg_backend_pid()") == (first,)
    with azpg.connect(autocommit=True) as other:
        other.execute("select pg_terminate_backend(%s, 5000)", (first,))
    connection.close_if_unusable_or_obsolete()
    (second,) = row(connection, "select pg_backend_pid()")
    assert second != first


@pytest.mark.parametrize("options", [True, {"min_size": 1, "max_size": 1, "name": "mine"}])
def test_the_pool_is_azpgs(azure: Emulator, databases: Databases, options: Any) -> None:
    """OPTIONS["pool"] makes an azpg pool with Django's configuration, shared by all threads."""
    connection = databases(
        OPTIONS={"pool": options}, CONN_HEALTH_CHECKS=True, TIME_ZONE="Asia/Tokyo"
    )
    assert row(connection, "show timezone") == ("Asia/Tokyo",)
    pool = connection.pool
    assert isinstance(pool, azpg.ConnectionPool)
    assert pool._check is azpg.ConnectionPool.check_connection
    (first,) = row(connection, "select pg_backend_pid()")
    connection.close()

    def of_another_thread() -> Any:
        own: Any = connections["default"]
        try:
            return own.pool, row(own, "select 1")
        finally:
            own.close()

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(of_another_thread).result() == (pool, (1,))
    if options is not True:
        assert (pool.name, pool.min_size, pool.max_size) == ("mine", 1, 1)
        assert row(connection, "select pg_backend_pid()") == (first,)


def test_a_pool_excludes_persistent_connections(databases: Databases) -> None:
    """CONN_MAX_AGE with a pool is rejected, as by Django."""
    connection = databases(CONN_MAX_AGE=60, OPTIONS={"pool": True, "server": "myserver"})
    with pytest.raises(ImproperlyConfigured, match="leave out CONN_MAX_AGE"):
        connection.ensure_connection()


# PgBouncer

NUMBERS = 3000
"""more than Django fetches at once"""


def numbers(connection: Any) -> Any:
    """Return an open cursor on many rows, as QuerySet.iterator() has it."""
    cursor = connection.chunked_cursor()
    cursor.execute("select generate_series(1, %s)", [NUMBERS])
    return cursor


@pytest.mark.parametrize("given", [{"PORT": 6432}, {"OPTIONS": {"pgbouncer": True}}])
def test_concurrent_iterators_with_pgbouncer(
    azure: Emulator, databases: Databases, given: dict[str, Any]
) -> None:
    """An iterator's rows are not left on a server connection that another client gets."""
    readers = [databases(f"reader{each}", **given) for each in range(8)]
    cursors = [numbers(connection) for connection in readers]
    seen = [0] * 8
    for _ in range(NUMBERS // 100):
        for reader, cursor in enumerate(cursors):
            seen[reader] += sum(number for (number,) in cursor.fetchmany(100))
    assert seen == [sum(range(NUMBERS + 1))] * 8
    for cursor in cursors:
        cursor.close()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, True),
        ({"PORT": "6432"}, False),
        ({"PORT": "6432", "DISABLE_SERVER_SIDE_CURSORS": False}, True),
    ],
)
def test_server_side_cursors(
    azure: Emulator, databases: Databases, given: dict[str, Any], named: bool
) -> None:
    """They are used without PgBouncer, and if the settings say that it pools sessions."""
    connection = databases(**given)
    with connection.chunked_cursor() as cursor:
        assert isinstance(cursor.cursor, psycopg.ServerCursor) is named


def test_assume_role_is_rejected_with_pgbouncer(azure: Emulator, databases: Databases) -> None:
    """With PgBouncer assume_role would affect other clients: it is rejected. Without it works."""
    with azpg.connect(autocommit=True) as conn:
        conn.execute("create role owner; grant owner to myapp")
    options = {"assume_role": "owner"}
    assert row(databases(OPTIONS=options), "select current_user") == ("owner",)
    pooled = databases("pooled", OPTIONS=options | {"pgbouncer": True})
    with pytest.raises(ImproperlyConfigured, match="assume_role sets the role of a session"):
        pooled.ensure_connection()


# Test databases


@pytest.mark.parametrize("pool", [False, {"min_size": 1}])
def test_test_databases_bypass_pgbouncer(
    azure: Emulator, databases: Databases, pool: object
) -> None:
    """A test database is created, used and dropped on PostgreSQL's own port, also in threads."""
    connection = databases(NAME="postgres", PORT=6432, OPTIONS={"pool": pool})
    assert row(connection, "select current_database()") == ("postgres",)
    connection.creation.create_test_db(verbosity=0)

    def where() -> Any:
        own: Any = connections["default"]
        try:
            return *row(own, "select current_database()"), own.connection.info.port
        finally:
            own.close()

    with ThreadPoolExecutor(1) as thread:
        seen = {where(), thread.submit(where).result()}
    connection.creation.destroy_test_db("postgres", verbosity=0)
    assert seen == {("test_postgres", 5432)}
    with azpg.connect() as conn:
        found = conn.execute("select from pg_database where datname = 'test_postgres'").fetchall()
    assert not found


def test_a_mirror_bypasses_pgbouncer(azure: Emulator, databases: Databases) -> None:
    """A replica that mirrors the test database bypasses PgBouncer, too."""
    databases(NAME="postgres")
    mirror = databases("replica", PORT=6432, TEST={"MIRROR": "default"})
    mirror.creation.set_as_test_mirror({"NAME": "postgres"})
    assert row(mirror, "select current_database()") == ("postgres",)
    assert mirror.connection.info.port == 5432


# Documentation

SETTINGS = re.findall(
    r"```python title=\"settings.py\"\n(.*?)```",
    (DOCS / "how-to" / "django.md").read_text(),
    re.DOTALL,
)


@pytest.mark.parametrize("settings", SETTINGS, ids=range(len(SETTINGS)))
def test_documented_settings_connect(
    azure: Emulator,
    mydb: None,
    databases: Databases,
    monkeypatch: pytest.MonkeyPatch,
    settings: str,
) -> None:
    """Each of the documented settings connects."""
    user = "shop" if '"shop"' in settings else "myapp"
    if user == "shop":
        azure.add_role("shop", password="secret")
    monkeypatch.setenv("CLIENT_ID", azure.principal.client_id or "")
    secret = SimpleNamespace(value="secret")
    names: dict[str, Any] = {"vault": SimpleNamespace(get_secret=lambda _name: secret)}
    exec(settings, names)
    given = names["DATABASES"]["default"]
    assert given.pop("ENGINE") == "azpg.django"
    assert row(databases(**given), "select current_user, current_database()") == (user, "mydb")


def test_azpg_does_not_load_django() -> None:
    """Importing azpg does not import Django."""
    code = "import sys, azpg; azpg.create_pool; print('django' in sys.modules)"
    command = [sys.executable, "-W", "error", "-c", code]
    assert subprocess.check_output(command, text=True) == "False\n"
