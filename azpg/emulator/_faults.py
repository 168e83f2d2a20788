"""The failures that can be asked for, by name."""

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any, Literal, get_args

from ._errors import EmulatorError

ListenerName = Literal["postgres", "pgbouncer", "reader"]
ConnectFault = Literal[
    "refuse",
    "stall",
    "cut-at-ssl-request",
    "cut-in-tls",
    "cut-at-password",
    "cut-before-ok",
    "cut-after-ok",
]
CertificateFault = Literal["expired", "self-signed", "other-name", "other-root"]
TLSFault = Literal["stripped"]
IdentityFault = Literal["down", "garbage", "hang"]
TokenFault = Literal["expired", "malformed", "no-oid", "wrong-audience", "wrong-signature"]


_IDENTITY_ERROR_STATUSES = [status.value for status in HTTPStatus if status >= 400]
_CHOICES: dict[str, Any] = {
    "at": ListenerName,
    "connect": ConnectFault,
    "certificate": CertificateFault,
    "tls": TLSFault,
    "token": TokenFault,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Name what is broken at the moment; None means that this part works."""

    at: ListenerName | None = None
    """The one port that the faults of connecting are at; None: all of them."""
    connect: ConnectFault | None = None
    error: tuple[str, str] | None = None
    """An SQLSTATE and a text."""
    certificate: CertificateFault | None = None
    tls: TLSFault | None = None
    identity: IdentityFault | int | None = None
    token: TokenFault | None = None


def validate_faults(fault: Faults) -> None:
    """Raise one error for all values that name no fault."""
    options = {name: value for name in _CHOICES if (value := getattr(fault, name)) is not None}
    problems = [
        _not_a_choice(name, value, _CHOICES[name])
        for name, value in options.items()
        if value not in get_args(_CHOICES[name])
    ]
    known = (None, *get_args(IdentityFault), *_IDENTITY_ERROR_STATUSES)
    if fault.identity not in known:
        listed = _not_a_choice("identity", fault.identity, IdentityFault)
        problems.append(f"{listed}, and no HTTP status such as 429 or 500")
    if fault.error is not None and not _is_sqlstate_and_message(fault.error):
        problems.append(
            f'say={fault.error!r} is no SQLSTATE with a text, such as ("57P03", "starting up")'
        )
    if problems:
        raise EmulatorError("; ".join(problems) + ".")


def validate_choice(option: str, value: object, names: Any) -> None:
    """Raise an error if an option has none of the values that a Literal lists."""
    if value not in get_args(names):
        raise EmulatorError(_not_a_choice(option, value, names) + ".")


def _not_a_choice(option: str, value: object, names: Any) -> str:
    return f"{option}={value!r} is none of {', '.join(map(repr, get_args(names)))}"


def _is_sqlstate_and_message(value: object) -> bool:
    match value:
        case (str() as sqlstate, str() as text):
            return re.fullmatch("[0-9A-Z]{5}", sqlstate) is not None and "\0" not in text
    return False


def merge_faults(faults: Iterable[Faults], *, listener: ListenerName | None = None) -> Faults:
    """Return what is in force at a place, or anywhere: of two faults of a kind the later one."""
    joined: dict[str, object] = {}
    for each in faults:
        if each.at is None or listener is None or each.at == listener:
            joined |= {name: value for name, value in asdict(each).items() if value is not None}
    return Faults(**joined | {"at": listener})  # type: ignore[arg-type]  # they were fields of Faults
