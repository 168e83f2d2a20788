"""Extensions: which ones an administrator can create, and Azure's refusal of all others."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from azpg.emulator import Emulator, EmulatorError
from azpg.emulator._command import main

Connect = Callable[..., psycopg.Connection[Any]]

NOT_ALLOWED = 'extension "{}" is not allow-listed for "azure_pg_admin" users'


@pytest.fixture(scope="module")
def emulator(emulator_of_each_installation: Emulator) -> Emulator:
    """Run these tests with each PostgreSQL of this machine in turn."""
    return emulator_of_each_installation


@pytest.fixture
def database(connect: Connect) -> Iterator[str]:
    """Return the name of a new database, which belongs to the administrator myapp."""
    name = f"db_{secrets.token_hex(4)}"
    with connect(autocommit=True) as session:
        session.execute(f"CREATE DATABASE {name}".encode())
        yield name
        session.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def test_an_administrator_creates_allowed_extensions(
    emulator: Emulator, connect: Connect, database: str, port: int
) -> None:
    """An administrator creates and drops what azure.extensions allows.

    The installations have different extensions. PostgreSQL itself lets only a superuser create
    these.
    """
    with connect(dbname=database, port=port, autocommit=True) as session:
        assert session.execute("SHOW azure.extensions").fetchone() == ("vector,pageinspect",)
        names = session.execute(
            "SELECT name FROM pg_available_extensions WHERE name IN ('vector', 'pageinspect')"
        ).fetchall()
        assert names
        for (name,) in names:
            session.execute(f"CREATE EXTENSION {name}".encode())
            session.execute(f"ALTER EXTENSION {name} UPDATE".encode())
        superuser = session.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
        assert superuser.fetchone() == (False,)
        for (name,) in names:
            session.execute(f"DROP EXTENSION {name}".encode())


@pytest.mark.parametrize(
    ("name", "clause"),
    [
        ("hstore", ""),
        ("pg_trgm", "WITH SCHEMA public"),
        ("earthdistance", "CASCADE"),
        ("uuid-ossp", ""),
        ("postgis", "CASCADE"),
        ("postgres_fdw", ""),
    ],
)
def test_other_extensions_are_refused(
    connect: Connect, database: str, name: str, clause: str
) -> None:
    """An extension that azure.extensions does not contain is refused with Azure's message.

    That holds for extensions that PostgreSQL trusts, and for those that are not installed here.
    """
    with (
        connect(dbname=database, autocommit=True) as session,
        pytest.raises(psycopg.errors.FeatureNotSupported, match=NOT_ALLOWED.format(name)) as error,
    ):
        session.execute(f'CREATE EXTENSION "{name}" {clause}'.encode())
    assert "go.microsoft.com" in str(error.value.diag.message_hint)


def test_every_version_is_refused(connect: Connect, database: str) -> None:
    """Naming a version of an extension does not avoid the refusal."""
    with connect(dbname=database, autocommit=True) as session:
        versions = session.execute(
            "SELECT name, version FROM pg_available_extension_versions "
            "WHERE name NOT IN ('plpgsql', 'vector', 'pageinspect')"
        ).fetchall()
        assert versions
        for name, version in versions:
            with pytest.raises(psycopg.errors.FeatureNotSupported, match="not allow-listed"):
                session.execute(f"CREATE EXTENSION \"{name}\" VERSION '{version}'".encode())


def test_only_administrators_create_extensions(
    emulator: Emulator, connect: Connect, database: str
) -> None:
    """A role that may create objects in a database may not create extensions in it."""
    role = f"role-{secrets.token_hex(4)}"
    with connect(dbname=database, autocommit=True) as session:
        session.execute(f"CREATE ROLE \"{role}\" LOGIN PASSWORD 'secret'".encode())
        session.execute(f'GRANT CREATE ON DATABASE {database} TO "{role}"'.encode())
        session.execute(f'GRANT CREATE ON SCHEMA public TO "{role}"'.encode())
        available = session.execute(
            "SELECT name FROM pg_available_extensions WHERE name IN ('vector', 'pageinspect')"
        ).fetchall()
    for name in ("hstore", *(name for (name,) in available)):
        with (
            connect(role, "secret", dbname=database, autocommit=True) as session,
            pytest.raises(psycopg.errors.InsufficientPrivilege, match="members of"),
        ):
            session.execute(f"CREATE EXTENSION {name}".encode())


def test_the_standby_has_the_extensions(emulator: Emulator, connect: Connect) -> None:
    """After a failover the promoted server has the same extensions and the same rules."""
    emulator.fail_over(refused=0, starting=0)
    with connect(autocommit=True) as session:
        assert session.execute("SHOW azure.extensions").fetchone() == ("vector,pageinspect",)
        with pytest.raises(psycopg.errors.FeatureNotSupported, match=NOT_ALLOWED.format("hstore")):
            session.execute("CREATE EXTENSION hstore")
        name = session.execute(
            "SELECT name FROM pg_available_extensions WHERE name IN ('vector', 'pageinspect')"
        ).fetchall()[0][0]
        session.execute(f"CREATE EXTENSION {name}; DROP EXTENSION {name}".encode())


def test_unsupported_extensions_cannot_be_allowed(capfd: pytest.CaptureFixture[str]) -> None:
    """An extension that Azure does not support is an error, in the command as well."""
    with pytest.raises(EmulatorError, match="'plpython3u', 'file_fdw'"):
        Emulator(extensions=["VECTOR", "plpython3u", "file_fdw"]).start()
    assert main(["--extensions", "vector,adminpack", "--", "true"]) == 1
    assert "'adminpack'" in capfd.readouterr().err


def test_an_installation_that_cannot_be_copied_still_runs(tmp_path: Path) -> None:
    """If a copy of PostgreSQL does not find the emulator's files, a note says what differs."""
    [*_, real] = sorted(Path("/usr/lib/postgresql").glob("*"))
    (tmp_path / "bin").mkdir()
    for name in ("postgres", "initdb"):
        program = tmp_path / "bin" / name
        program.write_text(f'#!/bin/sh\nexec {real}/bin/{name} "$@"\n')
        program.chmod(0o755)
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(0o755)
    with Emulator(postgres=tmp_path, pgbouncer=False) as emulator:
        assert any("CREATE EXTENSION" in note for note in emulator.notes)
