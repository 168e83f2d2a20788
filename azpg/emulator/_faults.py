"""The failures that can be asked for, by name."""

from dataclasses import asdict, dataclass, replace
from typing import Literal

CertificateFault = Literal["expired", "self-signed", "other-name", "other-root"]
TLSFault = Literal["stripped"]
IdentityFault = Literal["down", "garbage", "hang"]
TokenFault = Literal["expired", "malformed", "no-oid", "wrong-audience", "wrong-signature"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Name what is broken at the moment; None means that this part works."""

    certificate: CertificateFault | None = None
    tls: TLSFault | None = None
    identity: IdentityFault | int | None = None
    token: TokenFault | None = None

    def joined_by(self, others: "Faults") -> "Faults":
        """Return both together; where both name one, the others' is in force."""
        return replace(
            self, **{name: value for name, value in asdict(others).items() if value is not None}
        )
