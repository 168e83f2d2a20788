"""The machine's clock is wrong, or set while running: sign-ins go on, and tokens are not wasted."""

from __future__ import annotations

import base64
import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from azure.identity import ManagedIdentityCredential

import azpg

if TYPE_CHECKING:
    from fix_api import Api
    from fix_clock import Clock
    from fix_credentials import Credentials
    from fix_refresh import Background

    from azpg.emulator import Emulator

HOUR = 3600.0


@pytest.fixture(params=["azure", "azure_vm"], ids=["app-service", "imds"])
def machine(request: pytest.FixtureRequest, clock: Clock) -> Emulator:
    """Be on App Service, which says when a token ends, or on a VM, which says how long it lasts."""
    emulator: Emulator = request.getfixturevalue(request.param)
    clock.of(emulator)
    return emulator


def left(azure: Emulator, clock: Clock, token: str) -> float:
    """Return how long a token lives by Azure's clock."""
    body = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return float(claims["exp"] - (clock.real_time() + azure.clock_skew))


@pytest.mark.parametrize("off", [-HOUR, -1800, 1800, HOUR], ids=str)
def test_a_clock_wrong_from_the_start(
    api: Api, machine: Emulator, clock: Clock, credentials: Credentials, off: float
) -> None:
    """By up to an hour either way, twenty connects sign in with one token."""
    clock.is_set(off)
    credential = credentials.managed_identity()
    before = machine.counts
    for _ in range(20):
        with api.connect(credential=credential):
            pass
    spent = machine.counts - before
    assert (spent.sign_ins, spent.refused_sign_ins, spent.token_requests) == (20, 0, 1)


@pytest.mark.parametrize("off", [-HOUR, HOUR], ids=["back", "forward"])
def test_a_clock_set_while_running(
    api: Api,
    machine: Emulator,
    clock: Clock,
    credentials: Credentials,
    background: Background,
    off: float,
) -> None:
    """Set by an hour, and back again: sign-ins go on, with one more token at most."""
    credential = credentials.managed_identity()
    before = machine.counts
    for step in (0.0, off, -off):
        clock.is_set(step)
        for _ in range(7):
            with api.connect(credential=credential):
                pass
    background.landed()
    spent = machine.counts - before
    assert (spent.sign_ins, spent.refused_sign_ins) == (21, 0)
    assert spent.token_requests <= 2


@pytest.mark.parametrize("when", [0, 30], ids=["from-the-start", "while-running"])
@pytest.mark.parametrize("off", [-HOUR, -1800, 1800, HOUR], ids=str)
def test_tokens_are_renewed_by_a_wrong_clock(
    machine: Emulator, clock: Clock, background: Background, off: float, when: int
) -> None:
    """For hours on end no token given is dead, none is missing, and few are asked for."""
    password = azpg.EntraPassword()
    before = machine.counts
    for minute in range(200):
        if minute == when:
            clock.is_set(off)
        assert left(machine, clock, password()) > 20 - 1
        background.landed()
        clock.goes_on(60)
    assert (machine.counts - before).token_requests <= 12
    assert password.stats().failed == 0


def test_a_credential_misled_by_the_clock_is_told(
    api: Api, machine: Emulator, clock: Clock, credentials: Credentials
) -> None:
    """One made by the caller, whose cache takes a dead token for good, ends in a clear error."""
    password = azpg.EntraPassword(credentials.managed_identity())
    call: Any = password if api.kind == "sync" else password.call_async
    api.run(call())
    clock.is_set(-HOUR)
    clock.goes_on(HOUR)
    with pytest.raises(azpg.CredentialError, match="gave a token with 0 s left") as caught:
        api.run(call())
    assert caught.value.hint.startswith("check this machine's clock")
    assert "pass a function, credential=ManagedIdentityCredential" in caught.value.hint
    clock.is_set(HOUR)
    assert left(machine, clock, api.run(call())) > HOUR - 10


@pytest.mark.parametrize("off", [-HOUR, -1800], ids=str)
def test_a_function_that_makes_the_credential_is_the_cure(
    machine: Emulator, clock: Clock, background: Background, off: float
) -> None:
    """With a slow clock azpg makes the credential again, as the hint says, and nothing fails."""
    clock.is_set(off)
    made, closed = [], []

    class Closing(ManagedIdentityCredential):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

        def close(self) -> None:
            closed.append(self)
            super().close()

    password = azpg.EntraPassword(Closing)
    for _ in range(200):
        assert left(machine, clock, password()) > 20 - 1
        background.landed()
        clock.goes_on(60)
    assert password.stats().failed == 0
    assert made[:-1] == closed
    # App Service says when a token ends, by which a slow clock misleads azure-identity
    assert bool(closed) == ("IDENTITY_ENDPOINT" in os.environ)


def test_a_machine_that_slept_asks_anew(
    api: Api, machine: Emulator, clock: Clock, credentials: Credentials
) -> None:
    """After a night's sleep the first connect has a new token."""
    credential = credentials.managed_identity()
    before = machine.counts
    for _ in range(2):
        with api.connect(credential=credential):
            pass
        clock.sleeps(8 * HOUR)
    spent = machine.counts - before
    assert (spent.sign_ins, spent.refused_sign_ins, spent.token_requests) == (2, 0, 2)
