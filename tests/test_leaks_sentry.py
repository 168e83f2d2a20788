"""What Sentry sends of failed connects, with its default settings: no password."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from fix_servers import Postgres
    from fix_subprocess import Program

pytestmark = pytest.mark.compat


def test_sentry_is_sent_no_password(program: Program, postgres: Postgres) -> None:
    """With its defaults it sends the variables of every frame, and these show no password."""
    address = {
        "host": postgres.host,
        "hostaddr": postgres.hostaddr,
        "port": str(postgres.port),
        "sslrootcert": postgres.root,
    }
    events = [json.loads(line) for line in program(report, password, address=address)]
    errors = [each for each in events if "exception" in each]
    frames = [
        frame["vars"]
        for error in errors
        for exception in error["exception"]["values"]
        for frame in exception.get("stacktrace", {}).get("frames", ())
    ]
    assert len(errors) == 7
    assert {"cparams", "conn_params"} <= set().union(*frames)  # of SQLAlchemy and of Django
    assert "hunter2hunter2" not in json.dumps(events)


def report(address: dict[str, Any]) -> None:
    """Fail in the ways that pass a password through frames of others; print what Sentry sends."""
    import asyncio
    import logging
    import sys

    import django.db
    import psycopg
    import sentry_sdk
    import sqlalchemy
    from sentry_sdk.transport import Transport

    import azpg
    import azpg.asyncpg

    class Printing(Transport):
        def capture_envelope(self, envelope: Any) -> None:
            for item in envelope.items:
                sys.stdout.write(f"{item.get_bytes().decode()}\n")

    logging.getLogger().addHandler(logging.NullHandler())  # to Sentry, not to stderr
    sentry_sdk.init("https://key@localhost/1", transport=Printing)
    backend = {"ENGINE": "azpg.django"}
    options: dict[str, Any] = {**address, "retry_timeout": 0}
    # No variable here holds the password, as Sentry would send it
    django.conf.settings.configure(
        DATABASES={
            "default": {**backend, "USER": "app", "PASSWORD": password(), "OPTIONS": options},
            "conninfo": {
                **backend,
                "OPTIONS": {**options, "conninfo": f"user=app password={password()}"},
            },
        }
    )
    url = sqlalchemy.URL.create("postgresql+azpg", "app", query=address)
    attempts = (
        sqlalchemy.create_engine(url.set(password=password())).connect,
        sqlalchemy.create_engine(url.update_query_dict({"password": password()})).connect,
        django.db.connections["default"].ensure_connection,
        django.db.connections["conninfo"].ensure_connection,
        lambda: azpg.connect(password=password(), user="app", **options),
        lambda: azpg.create_pool(password=password(), user="app", min_size=1, **address),
        lambda: asyncio.run(
            azpg.asyncpg.connect(password=password(), user="app", passwrd=password(), **options)
        ),
    )
    for attempt in attempts:
        try:
            attempt()
        except (psycopg.Error, sqlalchemy.exc.DBAPIError, django.db.Error, TypeError):
            sentry_sdk.capture_exception()


def password() -> str:
    """Return the password, which is no literal, since Sentry sends lines of source code too."""
    return "hunter2" * 2
