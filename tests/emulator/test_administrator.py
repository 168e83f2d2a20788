"""What an administrator role can do in PostgreSQL, and what it cannot do outside it."""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from azpg.emulator import Emulator, EmulatorError

Connect = Callable[..., psycopg.Connection[Any]]
Rows = list[tuple[Any, ...]]


@pytest.fixture(scope="module")
def emulator(emulator_of_each_installation: Emulator) -> Emulator:
    """Run these tests with each PostgreSQL of this machine in turn."""
    return emulator_of_each_installation


MAKE_ROLE = """
CREATE OR REPLACE FUNCTION make_role(name text) RETURNS text LANGUAGE plpgsql AS
$$ BEGIN EXECUTE format('CREATE ROLE %I LOGIN', name); RETURN name; END $$
"""


@pytest.fixture
def session(connect: Connect) -> Iterator[psycopg.Connection[Any]]:
    """Connect as myapp, an administrator role as at Azure."""
    with connect(autocommit=True) as session:
        yield session


def rows(session: psycopg.Connection[Any], statement: str, *values: Any) -> Rows:
    """Run a statement and return its rows."""
    return session.execute(statement.encode(), values or None).fetchall()


def test_an_administrator_manages_roles(connect: Connect, session: psycopg.Connection[Any]) -> None:
    """An administrator creates, grants, alters and drops roles with SQL, in a function as well."""
    team, app = (f"{name}-{secrets.token_hex(4)}" for name in ("team", "app"))
    for statement in (
        f'CREATE ROLE "{team}"',
        f'CREATE ROLE "{app}" LOGIN PASSWORD \'secret\' IN ROLE "{team}"',
        f'ALTER ROLE "{app}" SET search_path = public',
        f'GRANT CREATE ON SCHEMA public TO "{team}"',
        MAKE_ROLE,
        f"SELECT make_role('{app}-2')",
    ):
        session.execute(statement.encode())
    with connect(app, "secret") as connection:
        assert rows(connection, "SELECT pg_has_role(%s, 'member')", team) == [(True,)]
    session.execute(f'DROP ROLE "{app}-2"; DROP ROLE "{app}"'.encode())


def test_an_administrator_cannot_reach_the_machine(
    emulator: Emulator, session: psycopg.Connection[Any], tmp_path: Path
) -> None:
    """No statement gives access to the superuser, to a program or to a file.

    Before PostgreSQL 16 a role with CREATEROLE can grant itself the roles that give it.
    """
    helper = f"helper-{secrets.token_hex(4)}"
    session.execute(f'CREATE ROLE "{helper}" CREATEROLE CREATEDB'.encode())
    session.execute(f'GRANT "{helper}" TO myapp'.encode())
    tmp_path.chmod(0o777)
    file = tmp_path / "file"
    server_roles = (
        "pg_execute_server_program",
        "pg_read_server_files",
        "pg_write_server_files",
        "azuresu",
    )
    statements = (
        *(f'GRANT {role} TO "{to}"' for role in server_roles for to in ("myapp", helper)),
        *(f"CREATE ROLE x IN ROLE {role}" for role in server_roles),
        *(f"SET ROLE {role}" for role in server_roles),
        *(f"CREATE ROLE {role}" for role in server_roles),
        *(f'ALTER ROLE "{helper}" RENAME TO {role}' for role in server_roles),
        "CREATE ROLE x SUPERUSER",
        "CREATE ROLE x REPLICATION",
        "CREATE ROLE x BYPASSRLS",
        "ALTER ROLE myapp SUPERUSER",
        "ALTER ROLE azuresu PASSWORD 'x'",
        "ALTER ROLE azuresu RENAME TO x",
        "ALTER ROLE azuresu SET search_path = public",
        "ALTER ROLE ALL SET search_path = public",
        "ALTER DATABASE azure_maintenance SET search_path = public",
        "ALTER DATABASE postgres SET session_preload_libraries = 'x'",
        "DROP ROLE azuresu",
        "REASSIGN OWNED BY azuresu TO myapp",
        "SET SESSION AUTHORIZATION azuresu",
        "SET allow_system_table_mods = on",
        "UPDATE pg_catalog.pg_authid SET rolsuper = true",
        "ALTER SYSTEM SET archive_command = 'id'",
        "COPY (SELECT 1) TO PROGRAM 'id'",
        f"COPY (SELECT 1) TO '{file}'",
        "CREATE TABLE IF NOT EXISTS read_in (line text); COPY read_in FROM '/etc/passwd'",
        "CREATE TABLE IF NOT EXISTS read_in (line text); COPY read_in FROM PROGRAM 'id'",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT pg_ls_dir('/')",
        "SELECT lo_import('/etc/passwd')",
        f"SELECT lo_export(lo_from_bytea(0, 'x'), '{file}')",
        f"CREATE TABLESPACE x LOCATION '{tmp_path}'",
        "CREATE LANGUAGE c",
        "CREATE LANGUAGE plpython3u",
        "CREATE FUNCTION x() RETURNS int LANGUAGE c AS 'x', 'x'",
        "CREATE FUNCTION x() RETURNS int LANGUAGE internal AS 'pg_reload_conf'",
        "LOAD '/tmp/x.so'",
        *(f"CREATE EXTENSION {name}" for name in ("plpython3u", "file_fdw", "adminpack", "dblink")),
        "CREATE SUBSCRIPTION x CONNECTION 'host=/tmp' PUBLICATION x",
        "CREATE EVENT TRIGGER x ON ddl_command_start EXECUTE FUNCTION x()",
        "SELECT pg_reload_conf()",
    )
    for role, statement in itertools.product(("myapp", helper), statements):
        session.execute(f'SET ROLE "{role}"'.encode())
        with pytest.raises(psycopg.Error):
            session.execute(statement.encode())
    session.execute("RESET ROLE")
    assert not file.exists()
    superuser_roles = (
        "SELECT rolname FROM pg_roles WHERE rolsuper AND pg_has_role('myapp', oid, 'member')"
    )
    assert rows(session, superuser_roles) == []
    server_file_roles = (
        "SELECT rolname FROM pg_roles WHERE rolname LIKE 'pg\\_%\\_server\\_%' "
        "AND pg_has_role('myapp', oid, 'member')"
    )
    assert rows(session, server_file_roles) == []


CLIENT_FUNCTIONS = """
CREATE SCHEMA IF NOT EXISTS planted;
CREATE TABLE IF NOT EXISTS planted.ran (as_whom text, superuser bool);
GRANT ALL ON SCHEMA planted TO PUBLIC;
GRANT ALL ON ALL TABLES IN SCHEMA planted TO PUBLIC;
CREATE OR REPLACE FUNCTION planted.note() RETURNS bool LANGUAGE plpgsql
    SET search_path = pg_catalog AS $$ BEGIN
    INSERT INTO planted.ran
    SELECT current_user, rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user;
    RETURN true; END $$;
CREATE OR REPLACE FUNCTION planted.pg_reload_conf() RETURNS bool
    LANGUAGE sql AS 'SELECT planted.note()';
CREATE OR REPLACE FUNCTION planted.pg_promote() RETURNS bool
    LANGUAGE sql AS 'SELECT planted.note()';
CREATE OR REPLACE VIEW planted.pg_shadow AS
    SELECT usename, passwd FROM (SELECT NULL::name AS usename, NULL::text AS passwd) AS nobody
    WHERE planted.note();
CREATE OR REPLACE FUNCTION planted.equal(name, name) RETURNS bool
    LANGUAGE sql AS 'SELECT planted.note()';
CREATE OR REPLACE FUNCTION planted.equal(name, text) RETURNS bool
    LANGUAGE sql AS 'SELECT planted.note()';
"""
CLIENT_OPERATORS = (
    "CREATE OPERATOR planted.= (LEFTARG = name, RIGHTARG = name, FUNCTION = planted.equal)",
    "CREATE OPERATOR planted.= (LEFTARG = name, RIGHTARG = text, FUNCTION = planted.equal)",
)


def test_client_functions_do_not_run_as_the_superuser(
    emulator: Emulator, connect: Connect, session: psycopg.Connection[Any]
) -> None:
    """The emulator's and PgBouncer's statements call no function that a client has created.

    The owner of a database can set the search_path of all sessions in it.
    """
    session.execute(CLIENT_FUNCTIONS)
    for operator in CLIENT_OPERATORS:
        session.execute(operator)
    session.execute("ALTER DATABASE postgres SET search_path = planted, pg_catalog")
    try:
        # Adding a role reloads both servers; a restart and a standby run statements as well.
        role = emulator.add_role(f"late-{secrets.token_hex(4)}", kind="user-assigned")
        native = f"native-{secrets.token_hex(4)}"
        emulator.add_role(native, password="secret")
        emulator.restart_pgbouncer()
        for port in (emulator.port, emulator.pgbouncer_port):
            with connect(role.name, emulator.token(role), port=port):
                pass
            with connect(native, "secret", port=port):
                pass
        emulator.restart_postgres("kill-backend")
        emulator.fail_over(refused=0, starting=0)
        with connect(autocommit=True) as after:
            assert rows(after, "SELECT * FROM planted.ran WHERE superuser") == []
    finally:
        with connect(autocommit=True) as after:
            after.execute("ALTER DATABASE postgres RESET search_path")


def test_the_superusers_database_is_closed(connect: Connect, port: int) -> None:
    """No client can connect to the database in which the emulator's own statements run."""
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        connect(dbname="azure_maintenance", port=port)


def test_the_superusers_password_is_not_readable(emulator: Emulator, connect: Connect) -> None:
    """The superuser's password is in no view, setting or process argument, also at the standby."""
    standby = {
        "host": emulator.reader_host,
        "hostaddr": emulator.reader_hostaddr,
        "port": emulator.reader_port,
    }
    private = Path(emulator._start_info["folders"][0]) / "private"
    passwords = {
        path.read_text().strip().rpartition(":")[2] for path in private.glob("server-*/pgpass")
    }
    assert len(passwords) == 1, "both servers have one"
    password = passwords.pop()
    assert len(password) >= 32
    for server in ({}, standby):
        with connect(**server) as session:
            for view in ("pg_settings", "pg_stat_activity", "pg_stat_replication", "pg_roles"):
                assert password not in str(rows(session, f"SELECT * FROM {view}"))
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert password not in command.read_bytes().decode(errors="replace")
        except OSError:
            continue  # the process has ended


def test_password_files_are_private(emulator: Emulator) -> None:
    """No other user can read a file that contains a password."""
    private = Path(emulator._start_info["folders"][0]) / "private"
    for name in ("users.txt", "hba.conf", "pgbouncer.ini"):
        state = (private / name).stat()
        assert state.st_mode & 0o777 == 0o600
        assert (state.st_uid == 0) == (os.geteuid() == 0 and private.stat().st_uid == 0)


def test_a_role_name_that_is_a_pattern_is_rejected(emulator: Emulator) -> None:
    """A role name that pg_hba.conf reads as a regular expression raises an error."""
    with pytest.raises(EmulatorError, match="pattern"):
        emulator.add_role("/.*")


@pytest.mark.parametrize("name", ["all", "+myapp", "@file", 'a"b', "sameuser", "a b,c #d"])
def test_a_role_name_matches_no_other_role(emulator: Emulator, connect: Connect, name: str) -> None:
    """An Entra role lets no other role in, whatever its name means in pg_hba.conf."""
    native = f"native-{secrets.token_hex(4)}"
    emulator.add_role(native, password="secret")
    emulator.add_role(name)
    for port in (emulator.port, emulator.pgbouncer_port):
        with pytest.raises(psycopg.OperationalError):
            connect(native, "wrong", port=port)


def test_an_old_postgresql_is_rejected(tmp_path: Path) -> None:
    """A PostgreSQL version that the emulator cannot restrict does not start."""
    folder = tmp_path / "bin"
    for name in ("bin", "lib", "share"):
        (tmp_path / name).mkdir()
    for program in ("postgres", "initdb"):
        script = folder / program
        script.write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 12.22'\n")
        script.chmod(0o755)
    with pytest.raises(EmulatorError, match="needs 13 or newer"):
        Emulator(postgres=tmp_path).start()
