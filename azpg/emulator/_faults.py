"""The failures that can be asked for, by name."""

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any, Literal, get_args

from ._errors import EmulatorError

Place = Literal["postgres", "pgbouncer", "reader"]
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


_IDENTITY_STATUSES = [status.value for status in HTTPStatus if status >= 400]
_LISTED: dict[str, Any] = {
    "at": Place,
    "connect": ConnectFault,
    "certificate": CertificateFault,
    "tls": TLSFault,
    "token": TokenFault,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Name what is broken at the moment; None means that this part works."""

    at: Place | None = None
    """The one port that the faults of connecting are at; None: all of them."""
    connect: ConnectFault | None = None
    say: tuple[str, str] | None = None
    """An SQLSTATE and a text."""
    certificate: CertificateFault | None = None
    tls: TLSFault | None = None
    identity: IdentityFault | int | None = None
    token: TokenFault | None = None


def check(fault: Faults) -> None:
    """Raise one error for all values that name no fault."""
    given = {name: value for name in _LISTED if (value := getattr(fault, name)) is not None}
    problems = [
        _is_none_of(name, value, _LISTED[name])
        for name, value in given.items()
        if value not in get_args(_LISTED[name])
    ]
    known = (None, *get_args(IdentityFault), *_IDENTITY_STATUSES)
    if fault.identity not in known:
        listed = _is_none_of("identity", fault.identity, IdentityFault)
        problems.append(f"{listed}, and no HTTP status such as 429 or 500")
    if fault.say is not None and not _is_sqlstate_and_text(fault.say):
        problems.append(
            f'say={fault.say!r} is no SQLSTATE with a text, such as ("57P03", "starting up")'
        )
    if problems:
        raise EmulatorError("; ".join(problems) + ".")


def check_name(option: str, value: object, names: Any) -> None:
    """Raise an error if an option has none of the values that a Literal lists."""
    if value not in get_args(names):
        raise EmulatorError(_is_none_of(option, value, names) + ".")


def _is_none_of(option: str, value: object, names: Any) -> str:
    return f"{option}={value!r} is none of {', '.join(map(repr, get_args(names)))}"


def _is_sqlstate_and_text(value: object) -> bool:
    match value:
        case (str() as sqlstate, str() as text):
            return re.fullmatch("[0-9A-Z]{5}", sqlstate) is not None and "\0" not in text
    return False


def join(faults: Iterable[Faults], *, place: Place | None = None) -> Faults:
    """Return what is in force at a place, or anywhere: of two faults of a kind the later one."""
    joined: dict[str, object] = {}
    for each in faults:
        if each.at is None or place is None or each.at == place:
            joined |= {name: value for name, value in asdict(each).items() if value is not None}
    return Faults(**joined | {"at": place})  # type: ignore[arg-type]  # they were fields of Faults
