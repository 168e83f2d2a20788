"""Faults that do not exist: refused where they are asked for, with a list of those that do."""

from __future__ import annotations

from typing import Any

import pytest

from azpg.emulator import Emulator, EmulatorError


@pytest.mark.parametrize(
    ("fault", "there_is"),
    [
        ({"certificate": "expird"}, "'expired', 'self-signed', 'other-name', 'other-root'"),
        ({"certificate": ["expired"]}, "'expired'"),
        ({"certificate": True}, "'expired'"),
        ({"connect": "refused"}, "'refuse', 'stall', 'cut-at-ssl-request'"),
        ({"connect": ""}, "'refuse'"),
        ({"tls": "off"}, "'stripped'"),
        ({"at": "5432", "connect": "refuse"}, "'postgres', 'pgbouncer', 'reader'"),
        ({"token": "old"}, "'expired', 'malformed', 'no-oid'"),
        ({"identity": "slow"}, "'down', 'garbage', 'hang', and no HTTP status"),
        ({"identity": 200}, "HTTP status"),
        ({"identity": 499}, "HTTP status"),
        ({"identity": 600}, "HTTP status"),
        ({"identity": True}, "HTTP status"),
        ({"identity": "500"}, "HTTP status"),
        ({"say": "starting up"}, '("57P03", "starting up")'),
        ({"say": ("57P03",)}, "57P03"),
        ({"say": ("starting up", "57P03")}, "SQLSTATE"),
        ({"say": ("57P03", b"starting up")}, "SQLSTATE"),
        ({"say": ("57p03", "starting up")}, "SQLSTATE"),
    ],
)
def test_an_unknown_fault_raises_an_error(
    emulator: Emulator, fault: dict[str, Any], there_is: str
) -> None:
    """The call itself, before any `with`, names the option, its value and what there is."""
    name, value = next(iter(fault.items()))
    with pytest.raises(EmulatorError) as refused:
        emulator.fault(**fault)
    assert f"{name}={value!r}" in str(refused.value)
    assert there_is in str(refused.value)


def test_all_unknown_faults_are_reported_at_once(emulator: Emulator) -> None:
    """One error lists every value that names no fault."""
    faults: dict[str, Any] = {"certificate": "x", "connect": "y", "identity": 7, "at": "z"}
    with pytest.raises(EmulatorError) as refused:
        emulator.fault(**faults)
    for name, value in faults.items():
        assert f"{name}={value!r}" in str(refused.value)


def test_an_unknown_option_raises_type_error(emulator: Emulator) -> None:
    """An option that does not exist is named."""
    with pytest.raises(TypeError, match="certficate"):
        emulator.fault(certficate="expired")  # type: ignore[call-arg]


def test_unknown_restart_modes_and_listeners_raise_an_error(emulator: Emulator) -> None:
    """A way to restart or a place to cut that does not exist is refused, and nothing happens."""
    wrong: Any = "fats"
    with pytest.raises(EmulatorError, match=r"mode='fats' is none of 'fast', 'immediate', 'kill'"):
        emulator.restart_postgres(wrong)
    nothing: Any = None
    with pytest.raises(EmulatorError, match="mode=None"):
        emulator.restart_postgres(nothing)
    with pytest.raises(EmulatorError, match=r"at='fats' is none of 'postgres', 'pgbouncer'"):
        emulator.cut(at=wrong)
    assert emulator.token()


def test_an_invalid_fault_is_not_applied(emulator: Emulator) -> None:
    """What was refused is not in force, and a fault is not in force before its `with`."""
    faults: dict[str, Any] = {"certificate": "x", "connect": "refuse"}
    with pytest.raises(EmulatorError):
        emulator.fault(**faults)
    emulator.fault(connect="refuse")
    assert emulator._faults == []
