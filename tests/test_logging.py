"""The log: one logger, and what is said at which level."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import azpg

if TYPE_CHECKING:
    from fix_api import Api

    from azpg.emulator import Emulator

pytestmark = pytest.mark.compat

SOURCE = Path(azpg.__file__).parent


@pytest.fixture(autouse=True)
def everything(caplog: pytest.LogCaptureFixture) -> None:
    """Record what azpg says at any level."""
    caplog.set_level(logging.DEBUG, logger="azpg")


def said(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    """Return what azpg has said at a level."""
    return [r.getMessage() for r in caplog.records if r.name == "azpg" and r.levelno == level]


def test_every_logger_is_below_one() -> None:
    """Every module logs as `azpg` or below it, so that one line turns all of them up or down."""
    named = {
        found
        for path in [*SOURCE.glob("*.py"), *SOURCE.glob("django/*.py")]
        for found in re.findall(r"logger = .*\((.*)\)", path.read_text())
    }
    assert '"azpg"' in named
    assert all(re.match(r'"azpg["\.]', name) for name in named), named


def test_a_decision_is_told_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    """What azpg made stricter than it was asked for can be looked up in the log."""
    azpg.conninfo("host=decided.postgres.database.azure.com sslmode=require")
    assert said(caplog, logging.DEBUG) == [
        "sslmode=require (connection string) raised to verify-full"
    ]


def test_a_new_token_is_told_at_info(
    api: Api, azure: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    """One line tells which credential gave a token and how long it is good; one for each token."""
    for _ in range(2):
        with api.connect(server="myserver"):
            pass
    (line,) = said(caplog, logging.INFO)
    name = r"DefaultAzureCredential \(ManagedIdentityCredential\)"
    assert re.fullmatch(rf"token from {name}, good for 3[56]\d\d s", line)


def test_where_all_is_well_nobody_is_warned(
    api: Api, azure: Emulator, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that came about as it was asked for gives nobody anything to do."""
    for name in ("PGHOST", "PGHOSTADDR", "PGSSLROOTCERT"):
        monkeypatch.delenv(name)
    place = {"hostaddr": azure.hostaddr, "sslrootcert": azure.root_certificate}
    with api.connect(server="myserver", **place):
        assert not said(caplog, logging.WARNING)


def test_what_is_to_be_acted_on_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """A variable that a test left behind is warned of, once for the process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGHOSTADDR", "192.0.2.1")
        for dbname in ("one", "another"):
            azpg.conninfo(server="left-behind", dbname=dbname)
    (line,) = said(caplog, logging.WARNING)
    assert "PGHOSTADDR" in line
    assert "left-behind.postgres.database.azure.com" in line
