"""What the emulator has seen so far, as plain numbers."""

from collections import Counter
from dataclasses import dataclass, fields

# The running numbers, by the names below.
Counters = Counter[str]


@dataclass(frozen=True, slots=True)
class Counts:
    """Count what reached the emulator since it started.

    Subtract two snapshots to see what one step cost::

        before = emulator.counts
        ...
        assert (emulator.counts - before).token_requests == 1
    """

    connections: int = 0
    """TCP connections that the front doors accepted, cancel requests among them."""
    tls_handshakes: int = 0
    """TLS handshakes that were completed; a client that refuses the certificate completes none."""
    sign_ins: int = 0
    """Sign-ins that were accepted, with a token or with a password."""
    refused_sign_ins: int = 0
    """Sign-ins that were refused: by the token check, by PostgreSQL or for want of TLS."""
    cancel_requests: int = 0
    """Requests to cancel a running query."""
    token_requests: int = 0
    """Requests that reached the identity endpoint, whatever they were answered."""
    tokens_issued: int = 0
    """Tokens that the identity endpoint handed out."""

    def __sub__(self, earlier: "Counts") -> "Counts":
        return Counts(
            **{
                field.name: getattr(self, field.name) - getattr(earlier, field.name)
                for field in fields(self)
            }
        )
