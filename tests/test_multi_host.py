"""Several hosts in one connect: a writer and its reader, with the real standby behind it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

import azpg
from azpg.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fix_api import Api


@pytest.fixture(scope="module")
def pair() -> Iterator[Emulator]:
    """Run a server with a standby that only these tests promote."""
    with Emulator(standby=True, pgbouncer=False) as emulator:
        yield emulator


@pytest.fixture
def both(pair: Emulator, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Export the writer, and return what leads to it first and to the reader second."""
    for name, value in pair.env.items():
        monkeypatch.setenv(name, value)
    return {
        "host": f"{pair.host},{pair.reader_host}",
        "hostaddr": f"{pair.hostaddr},{pair.reader_hostaddr}",
        "port": f"{pair.port},{pair.reader_port}",
    }


@pytest.fixture
def turned(both: dict[str, Any]) -> dict[str, Any]:
    """Return what leads to the reader first."""
    return {name: ",".join(reversed(value.split(","))) for name, value in both.items()}


@pytest.fixture
def reader(both: dict[str, Any]) -> dict[str, Any]:
    """Return what leads to the reader alone."""
    return {name: value.split(",")[1] for name, value in both.items()}


def recovering(api: Api, options: dict[str, Any], **more: Any) -> bool:
    """Tell whether connecting leads to the standby."""
    with api.connect(**options, **more) as conn:
        (answer,) = api.row(conn, "select pg_is_in_recovery()")
        return bool(answer)


ATTRIBUTES = {
    "read-write": (False, False),
    "primary": (False, False),
    "standby": (True, True),
    "read-only": (True, True),
    "prefer-standby": (True, True),
    "any": (False, True),
}


@pytest.mark.parametrize("asked", ATTRIBUTES)
def test_the_server_that_was_asked_for_is_found(
    api: Api, both: dict[str, Any], turned: dict[str, Any], asked: str
) -> None:
    """target_session_attrs finds the writer or the standby, whichever stands first."""
    standby = tuple(recovering(api, way, target_session_attrs=asked) for way in (both, turned))
    assert standby == ATTRIBUTES[asked]


def test_load_is_balanced(api: Api, both: dict[str, Any]) -> None:
    """load_balance_hosts=random spreads connects over all hosts, in a conninfo too."""
    seen: set[bool] = set()
    conninfo = " ".join(f"{name}={value}" for name, value in both.items())
    for _ in range(100):
        with api.connect(f"{conninfo} load_balance_hosts=random") as conn:
            seen |= set(api.row(conn, "select pg_is_in_recovery()"))
        if len(seen) == 2:
            break
    assert seen == {False, True}


@pytest.mark.parametrize("fault", [{"connect": "refuse"}, {"certificate": "expired"}], ids=str)
def test_a_reader_that_fails_is_passed_over(
    api: Api,
    pair: Emulator,
    both: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    fault: dict[str, Any],
) -> None:
    """prefer-standby takes the writer where no reader can be had, in the same round."""
    with pair.fault(**fault, at="reader"):
        assert not recovering(api, both, target_session_attrs="prefer-standby")
    assert "connecting again" not in caplog.text


def test_every_hosts_failure_is_told(api: Api, pair: Emulator, both: dict[str, Any]) -> None:
    """Where none of the hosts can be had the error names each, and the kind that counts."""
    with (
        pair.fault(connect="refuse"),
        pytest.raises(azpg.UnreachableError) as caught,
    ):
        api.open(**both, retry_timeout=0)
    assert caught.value.kind == "refused"
    for name in (pair.host, pair.reader_host):
        assert name in str(caught.value)


def test_no_server_of_the_kind_is_an_error(api: Api, reader: dict[str, Any]) -> None:
    """A writer that is asked for among readers alone is not there, and is said so."""
    with pytest.raises(azpg.ConnectError, match="read-only"):
        api.open(**reader, target_session_attrs="read-write", retry_timeout=0)


@pytest.mark.parametrize("asked", ["read-only", "standby"])
def test_no_replica_is_told_at_once(
    api: Api, pair: Emulator, both: dict[str, Any], caplog: pytest.LogCaptureFixture, asked: str
) -> None:
    """If every host answered as a primary, nothing is retried: the program takes the primary."""
    twice = {name: f"{value.split(',')[0]},{value.split(',')[0]}" for name, value in both.items()}
    for hosts in ({name: value.split(",")[0] for name, value in both.items()}, twice):
        with pytest.raises(azpg.ConnectError) as caught:
            api.open(**hosts, target_session_attrs=asked)
        assert (caught.value.kind, caught.value.transient) == ("no-replica", False)
        with pytest.raises(azpg.ConnectError) as caught:
            api.open_pool(**hosts, target_session_attrs=asked, min_size=1)
        assert caught.value.kind == "no-replica"
    assert "connecting again" not in caplog.text
    with pair.fault(connect="refuse", at="reader"), pytest.raises(azpg.ConnectError) as caught:
        api.open(**both, target_session_attrs=asked, retry_timeout=0)
    assert (caught.value.kind, caught.value.transient) == ("session-attrs", True)


def test_the_writer_may_take_its_time(api: Api, pair: Emulator, both: dict[str, Any]) -> None:
    """A connect for writing waits out a failover, as a job with retry_timeout=180 does."""
    failing_over = threading.Thread(target=pair.fail_over, kwargs={"refused": 0.5, "starting": 0.5})
    with api.connect() as conn:
        failing_over.start()
        try:
            with pytest.raises(psycopg.OperationalError):
                api.row(conn, "select pg_sleep(60)")
            options = {"target_session_attrs": "read-write", "retry_timeout": 180}
            assert not recovering(api, both, **options)
        finally:
            failing_over.join()


def test_a_pool_for_each(api: Api, pair: Emulator, both: dict[str, Any]) -> None:
    """A writer's pool and a reader's: after a failover each finds its server again."""
    with (
        api.pool(**both, target_session_attrs="read-write", min_size=2, timeout=60) as writing,
        api.pool(**both, target_session_attrs="prefer-standby", timeout=60) as reading,
    ):
        assert api.row_of_pool(writing, "select pg_is_in_recovery()") == (False,)
        assert api.row_of_pool(reading, "select pg_is_in_recovery()") == (True,)
        pair.fail_over()
        assert api.row_of_pool(writing, "select txid_current() is not null") == (True,)
        assert api.row_of_pool(writing, "select pg_is_in_recovery()") == (False,)
        # It may have found the writer, while there was no reader
        assert api.row_of_pool(reading, "select 1") == (1,)
