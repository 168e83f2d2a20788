"""Invalid faults raise an error that lists the valid ones."""

from __future__ import annotations

from typing import Any

import pytest

from azpg.emulator import Emulator, EmulatorError


@pytest.mark.parametrize(
    ("fault", "valid_values"),
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
    emulator: Emulator, fault: dict[str, Any], valid_values: str
) -> None:
    """The call itself raises an error with the option, its value and the valid values."""
    name, value = next(iter(fault.items()))
    with pytest.raises(EmulatorError) as error:
        emulator.fault(**fault)
    assert f"{name}={value!r}" in str(error.value)
    assert valid_values in str(error.value)


def test_all_unknown_faults_are_reported_at_once(emulator: Emulator) -> None:
    """One error lists every invalid value."""
    faults: dict[str, Any] = {"certificate": "x", "connect": "y", "identity": 7, "at": "z"}
    with pytest.raises(EmulatorError) as error:
        emulator.fault(**faults)
    for name, value in faults.items():
        assert f"{name}={value!r}" in str(error.value)


def test_an_unknown_option_raises_type_error(emulator: Emulator) -> None:
    """An unknown option raises TypeError with its name."""
    with pytest.raises(TypeError, match="certficate"):
        emulator.fault(certficate="expired")  # type: ignore[call-arg]


def test_unknown_restart_modes_and_listeners_raise_an_error(emulator: Emulator) -> None:
    """Unknown restart modes and listener names raise an error, and nothing is restarted or cut."""
    unknown: Any = "fats"
    with pytest.raises(EmulatorError, match=r"mode='fats' is none of 'fast', 'immediate', 'kill'"):
        emulator.restart_postgres(unknown)
    none: Any = None
    with pytest.raises(EmulatorError, match="mode=None"):
        emulator.restart_postgres(none)
    with pytest.raises(EmulatorError, match=r"at='fats' is none of 'postgres', 'pgbouncer'"):
        emulator.cut(at=unknown)
    assert emulator.token()


def test_an_invalid_fault_is_not_applied(emulator: Emulator) -> None:
    """An invalid fault does not apply, and no fault applies before its `with`."""
    faults: dict[str, Any] = {"certificate": "x", "connect": "refuse"}
    with pytest.raises(EmulatorError):
        emulator.fault(**faults)
    emulator.fault(connect="refuse")
    assert emulator._faults == []
