"""Settings that Azure's PgBouncer refuses are a warning at the call, and prepare_threshold=0 is."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
from fix_conninfo import connect_request

from azpg import _connect
from azpg._conninfo.pgbouncer_settings import settings_in
from azpg._pgbouncer import announcement

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_api import Api
    from fix_conninfo import Handed
    from fix_hostile import Hostile, Peer, Script

    from azpg.emulator import Emulator

pytestmark = pytest.mark.compat

HOST = "myserver.postgres.database.azure.com"


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return a function that returns the warnings about PgBouncer so far."""
    _connect._warn_once.cache_clear()
    caplog.set_level(logging.WARNING, "azpg")
    return lambda: [each.getMessage() for each in caplog.records if each.name == "azpg.pgbouncer"]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ("-c search_path=shop", ["search_path"]),
        ("-csearch_path=shop --work-mem=4MB", ["search_path", "work_mem"]),
        (r"-c application_name=a\ b -c myapp.tenant=7", ["application_name", "myapp.tenant"]),
        ("", []),
        ("-x", []),
    ],
)
def test_the_settings_in_options_are_found(options: str, names: list[str]) -> None:
    """In each of the forms that PostgreSQL takes."""
    assert settings_in(options) == names


@pytest.mark.parametrize("where", ["keyword", "conninfo", "environment"])
def test_a_refused_setting_is_a_warning_at_the_call(
    handed: Handed,
    warned: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    """Once for each setting, with its source and what to write; a tracked one is none."""
    text = "-c search_path=shop -c jit=off -c TimeZone=UTC"
    options: dict[str, Any] = {"keyword": {"options": text}}.get(where, {})
    conninfo = f"options='{text}'" if where == "conninfo" else ""
    if where == "environment":
        monkeypatch.setenv("PGOPTIONS", text)
    for _ in range(2):
        handed(conninfo, host=HOST, pgbouncer=True, **options)
    first, second = warned()
    assert "search_path" in first
    assert "ALTER ROLE <role> SET search_path" in first
    assert "pgbouncer=False" in first
    assert "SET jit" in second
    assert ("PGOPTIONS" in first) is (where == "environment")


@pytest.mark.parametrize(
    "options",
    [
        {"host": HOST},
        {"host": HOST, "port": 6432, "options": "-c datestyle=ISO"},
        {"host": "db.example.net", "port": 6432, "password": "x", "options": "-c jit=off"},
        {"host": HOST, "port": 6432, "pgbouncer": False, "options": "-c jit=off"},
    ],
)
def test_nothing_else_is_warned_of(
    handed: Handed, warned: Callable[[], list[str]], options: dict[str, Any]
) -> None:
    """The server itself takes every setting, and another's PgBouncer has other defaults."""
    handed(**{"options": "-c search_path=shop", **options} if len(options) == 1 else options)
    assert not warned()


def test_asyncpgs_server_settings_are_warned_of_too(warned: Callable[[], list[str]]) -> None:
    """They are sent as settings of the startup packet."""
    request = connect_request("", host=HOST, pgbouncer=True)
    request.add_settings({"jit": "off", "application_name": "a"}, "server_settings")
    (warning,) = warned()
    assert "the setting jit (in server_settings)" in warning


def test_a_caller_silences_them_as_any_logging(
    handed: Handed, warned: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One who changed ignore_startup_parameters sets the level of the logger."""
    monkeypatch.setattr(logging.getLogger("azpg.pgbouncer"), "level", logging.ERROR)
    logging.getLogger("azpg.pgbouncer").setLevel(logging.ERROR)
    handed(host=HOST, pgbouncer=True, options="-c search_path=shop")
    assert not warned()


def pgbouncer(**announced: str) -> Script:
    """Return the script of a PgBouncer that announces parameters and lets everybody in."""

    def talk(peer: Peer) -> None:
        while peer.packet() == (80877103).to_bytes(4):
            peer.send(b"N")
        peer.ask(0)
        for name, value in {"server_version": "16.1", **announced}.items():
            peer.say(b"S", name.encode() + b"\0" + value.encode() + b"\0")
        peer.say(b"K", bytes(8))
        peer.say(b"Z", b"I")
        peer.message()  # the client's last one; asyncpg waits for the server to close then

    return talk


ANNOUNCED = {
    "pgbouncer.version": "1.26.1",
    "pgbouncer.pool_mode": "transaction",
    "pgbouncer.max_prepared_statements": "0",
}
OTHER = {"host": "db.example.net", "user": "app", "password": "secret", "sslmode": "disable"}


@pytest.mark.parametrize(
    ("changes", "options", "threshold"),
    [
        ({}, {}, None),
        ({}, {"prepare_threshold": 3}, 3),
        ({"pgbouncer.max_prepared_statements": "200"}, {}, 5),
        ({"pgbouncer.pool_mode": "session"}, {}, 5),
        ({"pgbouncer.max_prepared_statements": "?"}, {}, 5),
        (dict.fromkeys(ANNOUNCED, ""), {}, 5),
    ],
)
def test_prepared_statements_are_off_where_pgbouncer_announces_that_it_keeps_none(
    api: Api,
    hostile: Callable[[Script], Hostile],
    changes: dict[str, str],
    options: dict[str, Any],
    threshold: int | None,
) -> None:
    """PgBouncer 1.26 does at login; azpg reads it on a port that it does not know too."""
    server = hostile(pgbouncer(**ANNOUNCED | changes))
    address = server.address("db.example.net") | OTHER
    with api.connect(**address, **options) as conn:
        assert conn.prepare_threshold == threshold


def test_a_server_that_announces_nothing_keeps_the_default(
    api: Api, hostile: Callable[[Script], Hostile]
) -> None:
    """PostgreSQL itself, or an older PgBouncer."""
    with api.connect(**hostile(pgbouncer()).address("db.example.net") | OTHER) as conn:
        assert conn.prepare_threshold == 5
        assert announcement(conn.pgconn) is None


@pytest.mark.parametrize(
    ("options", "is_warned"),
    [
        ({"prepare_threshold": 0, "pgbouncer": True}, True),
        ({"prepare_threshold": 0}, False),
        ({"prepare_threshold": 5, "pgbouncer": True}, False),
        ({"prepare_threshold": None, "pgbouncer": True}, False),
    ],
)
def test_a_threshold_of_0_is_warned_of(
    api: Api,
    hostile: Callable[[Script], Hostile],
    warned: Callable[[], list[str]],
    options: dict[str, Any],
    is_warned: bool,
) -> None:
    """Users of other drivers take it for "none", and prepares every query."""
    with api.connect(**hostile(pgbouncer()).address("db.example.net") | OTHER, **options):
        assert ["prepare_threshold=None" in each for each in warned()] == [True] * is_warned


def test_a_real_pgbouncer_is_recognized_by_what_it_announces(api: Api, azure: Emulator) -> None:
    """Version 1.26 announces it, and the emulator's keeps no prepared statements, as Azure's."""
    with api.connect(server="myserver", port=6432, pgbouncer=False) as conn:
        announced = announcement(conn.pgconn)
        assert conn.prepare_threshold == (5 if announced is None else None)
        assert announced is None or announced.pool_mode == "transaction"


def test_asyncpg_is_warned_of_what_pgbouncer_announces(
    look: Callable[..., Any], hostile: Callable[[Script], Hostile], warned: Callable[[], list[str]]
) -> None:
    """The size of its cache cannot be changed on an open connection."""
    address = hostile(pgbouncer(**ANNOUNCED)).address("127.0.0.1") | OTHER | {"host": "127.0.0.1"}

    async def nothing(_: object) -> None:
        pass

    look(nothing, **address)
    (warning,) = warned()
    assert "statement_cache_size=0" in warned()[0]
    look(nothing, **address, statement_cache_size=0)
    assert warned() == [warning]
