"""How long connect() waits for a token, and when it asks for one again."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import azpg

if TYPE_CHECKING:
    from fix_api import Api
    from fix_credentials import Credentials

    from azpg.emulator import Emulator


@pytest.mark.parametrize(
    ("variables", "options", "source"),
    [
        ({}, {"connect_timeout": 1, "retry_timeout": 0}, "connect_timeout=1"),
        ({}, {"conninfo": "connect_timeout=1"}, "connect_timeout=1 (conninfo)"),
        ({"PGCONNECT_TIMEOUT": "1"}, {"retry_timeout": 0}, "PGCONNECT_TIMEOUT=1"),
        ({}, {"retry_timeout": 1}, "retry_timeout=1"),
        ({}, {"connect_timeout": 5, "retry_timeout": 1}, "retry_timeout=1"),
    ],
    ids=str,
)
def test_the_callers_deadline_bounds_the_wait_for_a_token(
    api: Api,
    azure: Emulator,
    credentials: Credentials,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    options: dict[str, Any],
    source: str,
) -> None:
    """The error names the option that set it, as the caller wrote it."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    started = time.monotonic()
    with azure.fault(identity="hang"), pytest.raises(azpg.CredentialError) as caught:
        api.open(server="myserver", credential=credentials.managed_identity(), **options)
    assert caught.value.kind == "credential-timeout"
    assert f"({source})" in str(caught.value)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("options", [{}, {"connect_timeout": 0}], ids=str)
def test_a_default_is_no_deadline(api: Api, gated: Any, options: dict[str, Any]) -> None:
    """Neither azpg's connect_timeout nor libpq's 0 ends the wait; EntraPassword's timeout does."""
    gated.gate.clear()
    password = azpg.EntraPassword(gated, timeout=0.2)
    with pytest.raises(azpg.CredentialError) as caught:
        api.open(server="myserver", password=password, retry_timeout=0, **options)
    gated.gate.set()
    assert str(caught.value).startswith("no token from Gated within 0.2 s\n")


def test_the_wait_for_a_token_is_part_of_the_attempt(api: Api, azure: Emulator, gated: Any) -> None:
    """A connection that gets its token late has what is left of connect_timeout."""
    gated.gate.clear()
    threading.Timer(1.1, gated.gate.set).start()
    recording, attempts = api.recording_class()
    with azure.fault(connect="refuse"), pytest.raises(azpg.UnreachableError):
        api.run(
            recording.connect(
                server="myserver", credential=gated, connect_timeout=60, retry_timeout=0
            )
        )
    assert [int(each["connect_timeout"]) < 60 for each in attempts] == [True]


def test_an_endpoint_that_is_away_for_seconds_is_retried(api: Api, azure: Emulator) -> None:
    """Within retry_timeout, with a pause until the credential is asked again."""
    before = azure.counts
    fault = azure.fault(identity=503)
    fault.__enter__()
    threading.Timer(1.0, lambda: fault.__exit__(None, None, None)).start()
    with api.connect(server="myserver", retry_timeout=60) as conn:
        assert api.row(conn, "select 1") == (1,)
    assert (azure.counts - before).token_requests < 30
