"""The failures that can be asked for, by name."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

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


def join(faults: Iterable[Faults], *, place: Place | None = None) -> Faults:
    """Return what is in force at a place, or anywhere: of two faults of a kind the later one."""
    joined: dict[str, object] = {}
    for each in faults:
        if each.at is None or place is None or each.at == place:
            joined |= {name: value for name, value in asdict(each).items() if value is not None}
    return Faults(**joined | {"at": place})  # type: ignore[arg-type]  # they were fields of Faults
