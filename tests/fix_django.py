"""Django: databases with azpg.django in the tests' process, and the example project."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

import azpg

if TYPE_CHECKING:
    from azpg.django.base import DatabaseWrapper
    from azpg.emulator import Emulator

PROJECT = Path(__file__).parent.parent / "examples" / "django"

Databases: TypeAlias = "Callable[..., DatabaseWrapper]"
Manage: TypeAlias = "Callable[..., str]"


@pytest.fixture
def databases() -> Iterator[Databases]:
    """Return a function that adds one to Django's DATABASES and returns its connection."""
    import django
    from django.conf import settings
    from django.db import connections

    if not settings.configured:
        settings.configure(USE_TZ=True, SECRET_KEY="of the tests alone", ALLOWED_HOSTS=["*"])
        django.setup()
    connections.settings.clear()
    made: list[Any] = []

    def database(alias: str = "default", **given: Any) -> Any:
        settings.DATABASES = {"default": {}, alias: {"ENGINE": "azpg.django", **given}}
        connections.settings[alias] = connections.configure_settings(settings.DATABASES)[alias]
        made.append(connections[alias])
        return connections[alias]

    yield database
    for connection in made:
        connection.inc_thread_sharing()  # a test may have connected in a thread
        connection.close()
        if pool := connection._connection_pools.pop(connection.alias, None):
            pool.close()
        del connections[connection.alias]
    connections.settings.clear()
    settings.DATABASES = {}


@pytest.fixture
def mydb(azure: Emulator) -> Iterator[None]:
    """Have a database `mydb` on the server."""
    with azpg.connect(dbname="postgres", autocommit=True) as admin:
        admin.execute("create database mydb")
        yield
        admin.execute("drop database mydb with (force)")


@pytest.fixture
def manage(mydb: None, monkeypatch: pytest.MonkeyPatch) -> Manage:
    """Return a function that runs the example's manage.py, on a server that has its database."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.delenv("PYTHONSAFEPATH")  # it imports the project from its own folder

    def run(*arguments: str, status: int = 0, **environ: str) -> str:
        """Return what a command prints that ends with this status."""
        ran = subprocess.run(
            [sys.executable, "-W", "error", "manage.py", *arguments],
            cwd=PROJECT,
            env=os.environ | environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert ran.returncode == status, ran.stdout
        return ran.stdout

    return run
