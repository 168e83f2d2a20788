"""The faults that a test can request, by name."""

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
# The options whose values are a list of names, with the type that lists them.
_CHOICES: dict[str, Any] = {
    "at": ListenerName,
    "connect": ConnectFault,
    "certificate": CertificateFault,
    "tls": TLSFault,
    "token": TokenFault,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """A set of faults, at most one of each kind; None means no fault of that kind."""

    at: ListenerName | None = None
    """The listener that the connection faults apply to; None means all listeners."""
    connect: ConnectFault | None = None
    error: tuple[str, str] | None = None
    """The SQLSTATE and the message of the error that the server returns."""
    certificate: CertificateFault | None = None
    tls: TLSFault | None = None
    identity: IdentityFault | int | None = None
    token: TokenFault | None = None


def validate_faults(faults: Faults) -> None:
    """Check that each value names a fault.

    Raises:
        EmulatorError: If any value is invalid; the message lists every invalid value.
    """
    problems = []
    for option, choices in _CHOICES.items():
        value = getattr(faults, option)
        if value is not None and value not in get_args(choices):
            problems.append(_not_a_choice(option, value, choices))
    valid_identity_faults = (None, *get_args(IdentityFault), *_IDENTITY_ERROR_STATUSES)
    if faults.identity not in valid_identity_faults:
        problem = _not_a_choice("identity", faults.identity, IdentityFault)
        problems.append(f"{problem}, and no HTTP status such as 429 or 500")
    if faults.error is not None and not _is_sqlstate_and_message(faults.error):
        problems.append(
            f'say={faults.error!r} is not a SQLSTATE with a text, such as ("57P03", "starting up")'
        )
    if problems:
        raise EmulatorError("; ".join(problems) + ".")


def validate_choice(option: str, value: object, choices: Any) -> None:
    """Check that an option has one of the values that a Literal type lists.

    Raises:
        EmulatorError: If it has another value; the message lists the valid ones.
    """
    if value not in get_args(choices):
        raise EmulatorError(_not_a_choice(option, value, choices) + ".")


def merge_faults(faults: Iterable[Faults], *, listener: ListenerName | None = None) -> Faults:
    """Combine faults into one set.

    Args:
        faults: The faults, the earliest first. Of two faults of one kind the later one applies.
        listener: Only combine the faults that apply to this listener; None combines all of them.
    """
    merged: dict[str, object] = {}
    for each in faults:
        if each.at is None or listener is None or each.at == listener:
            merged |= {name: value for name, value in asdict(each).items() if value is not None}
    merged["at"] = listener
    return Faults(**merged)  # type: ignore[arg-type]  # the values come from fields of Faults


def _not_a_choice(option: str, value: object, choices: Any) -> str:
    return f"{option}={value!r} is none of {', '.join(map(repr, get_args(choices)))}"


def _is_sqlstate_and_message(value: object) -> bool:
    match value:
        case (str() as sqlstate, str() as message):
            return re.fullmatch("[0-9A-Z]{5}", sqlstate) is not None and "\0" not in message
    return False
