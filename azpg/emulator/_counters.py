"""Counters of what reached the emulator."""

from collections import Counter
from dataclasses import dataclass, fields

# The current value of each counter, by the names of the fields below.
Counters = Counter[str]


@dataclass(frozen=True, slots=True)
class Counts:
    """A snapshot of what reached the emulator since it started.

    Subtract two snapshots to see what happened between them::

        before = emulator.counts
        ...
        assert (emulator.counts - before).token_requests == 1
    """

    connections: int = 0
    """TCP connections that the listeners accepted, including cancel requests."""
    tls_handshakes: int = 0
    """Completed TLS handshakes. A client that rejects the certificate does not complete one."""
    sign_ins: int = 0
    """Successful authentications, with a token or with a password."""
    refused_sign_ins: int = 0
    """Failed authentications: a rejected token or password, or a connection without TLS."""
    cancel_requests: int = 0
    """Requests to cancel a running query."""
    token_requests: int = 0
    """Requests to the identity endpoint, whatever its response was."""
    tokens_issued: int = 0
    """Tokens that the identity endpoint returned."""

    def __sub__(self, earlier: "Counts") -> "Counts":
        return Counts(
            **{
                field.name: getattr(self, field.name) - getattr(earlier, field.name)
                for field in fields(self)
            }
        )
