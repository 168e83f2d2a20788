"""The port, and how pgbouncer=True moves it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from fix_conninfo import Handed, Planned, Problems

HOST = "myserver.postgres.database.azure.com"


def test_the_port_is_5432(handed: Handed) -> None:
    """It is handed over, so that nothing else decides."""
    assert handed(host=HOST)["port"] == "5432"


@pytest.mark.parametrize(
    ("port", "moved"),
    [
        ("", "6432"),
        ("5432", "6432"),
        ("6432", "6432"),
        ("7432", "8432"),
        ("8432", "8432"),
        ("5432,7432", "6432,8432"),
        ("5432,6432", "6432,6432"),
        (",5432", "6432,6432"),
    ],
)
@pytest.mark.parametrize("source", ["conninfo", "uri", "environment", "service file"])
def test_pgbouncer_moves_azures_ports(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    planned: Planned,
    source: str,
    port: str,
    moved: str,
) -> None:
    """Portal strings always carry port=5432: pgbouncer=True beats any but a keyword."""
    host = ",".join([HOST] * (port.count(",") + 1))
    conninfo = ""
    if source == "environment":
        monkeypatch.setenv("PGPORT", port)
    elif source == "service file":
        (tmp_path / "s").write_text(f"[s]\nport={port}\n")
        monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "s"))
        conninfo = "service=s"
    else:
        conninfo = f"port='{port}'" if source == "conninfo" else f"postgresql:///?port={port}"
    plan = planned(conninfo, host=host, pgbouncer=True)
    assert plan.params["port"] == moved
    assert plan.pgbouncer


def test_pgbouncer_without_a_port_means_6432(planned: Planned) -> None:
    """Nobody says a port: 6432."""
    assert planned(host=HOST, pgbouncer=True).params["port"] == "6432"


@pytest.mark.parametrize("port", ["5432", "5433", 7432, "6432"])
def test_a_port_keyword_beats_pgbouncer(planned: Planned, port: object) -> None:
    """PgBouncer may listen where the caller says; prepared statements stay off."""
    plan = planned("port=1", host=HOST, port=port, pgbouncer=True)
    assert plan.params["port"] == str(port)
    assert plan.pgbouncer


@pytest.mark.parametrize("port", ["5433", "5432,5433", "15432"])
def test_another_port_beside_pgbouncer_is_refused(
    monkeypatch: pytest.MonkeyPatch, problems: Problems, port: str
) -> None:
    """A port that is neither the server's nor PgBouncer's: the error says to write it in code."""
    host = ",".join([HOST] * (port.count(",") + 1))
    (problem,) = problems(f"port={port}", host=host, pgbouncer=True)
    assert problem.startswith(
        f"pgbouncer=True means port 6432, but port={port!r} (connection string) is given"
    )
    assert "pass port= by itself" in problem
    monkeypatch.setenv("PGPORT", port)
    (problem,) = problems(host=host, pgbouncer=True)
    assert "PGPORT=" in problem


@pytest.mark.parametrize(
    ("port", "asked", "pgbouncer"),
    [
        ("5432", None, False),
        ("6432", None, True),
        ("8432", None, True),
        ("7432", None, False),
        ("5433", None, False),
        ("6432", False, False),
        ("8432", False, False),
        ("5433", True, True),
    ],
)
def test_the_port_tells_pgbouncer(
    planned: Planned, port: str, asked: bool | None, pgbouncer: bool
) -> None:
    """6432 and 8432 mean PgBouncer unless the caller says."""
    assert planned(host=HOST, port=port, pgbouncer=asked).pgbouncer is pgbouncer


@pytest.mark.parametrize(("ports", "pgbouncer"), [("5432,6432", True), ("5432,5433", False)])
def test_one_pgbouncer_in_a_list_is_enough(planned: Planned, ports: str, pgbouncer: bool) -> None:
    """A list with PgBouncer in it is used without prepared statements."""
    assert planned(host=f"{HOST},{HOST}", port=ports).pgbouncer is pgbouncer


@pytest.mark.parametrize("options", [{"password": "x", "host": "db"}, {"server": "myserver"}])
def test_pgbouncer_moves_the_port_of_any_host(handed: Handed, options: dict[str, Any]) -> None:
    """A developer's own PgBouncer listens on 6432 too."""
    assert handed(pgbouncer=True, **options)["port"] == "6432"


def test_one_port_serves_a_list_of_hosts(handed: Handed) -> None:
    """As in libpq."""
    assert handed(host=f"{HOST},{HOST}", port=5433)["port"] == "5433"


def test_an_empty_port_of_a_list_is_5432(handed: Handed) -> None:
    """As in libpq."""
    assert handed(host=f"{HOST},{HOST}", port=",5433")["port"] == "5432,5433"


@pytest.mark.parametrize(
    "port",
    [
        "none",
        "0",
        "65536",
        "-1",
        "5432a",
        "\u0665\u0664\u0663\u0662",
        "5432 6432",
        "1" * 5000,
        "5432;",
    ],
)
def test_a_port_that_is_no_number_is_refused(problems: Problems, port: str) -> None:
    """It is told with the source it came from."""
    (problem,) = problems(host=HOST, port=port)
    assert problem.startswith("port=")
    assert "is not a port" in problem


@pytest.mark.parametrize("port", ["1", "65535", "05432"])
def test_any_other_port_passes(handed: Handed, port: str) -> None:
    """What libpq takes, azpg takes."""
    assert handed(host=HOST, port=port)["port"] == port
