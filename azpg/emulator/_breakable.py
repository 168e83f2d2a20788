"""What can be broken in an emulator, one call each."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

from ._faults import (
    CertificateFault,
    ConnectFault,
    Faults,
    IdentityFault,
    Place,
    TLSFault,
    TokenFault,
)


class Breakable:
    """Break parts of an emulator, and mend them."""

    def __init__(self) -> None:
        self._faults: list[Faults] = []

    def _ask(self, what: str, **arguments: Any) -> Any:
        raise NotImplementedError

    @contextlib.contextmanager
    def fault(
        self,
        *,
        connect: ConnectFault | None = None,
        say: tuple[str, str] | None = None,
        certificate: CertificateFault | None = None,
        tls: TLSFault | None = None,
        at: Place | None = None,
        identity: IdentityFault | int | None = None,
        token: TokenFault | None = None,
    ) -> Iterator[None]:
        """Break something for as long as the context lasts.

        `connect` is what becomes of new connections; those that are open go on (see `cut`):

        - "refuse": nobody listens;
        - "stall": they are accepted and never answered;
        - "cut-at-ssl-request": cut when the client has asked for TLS;
        - "cut-in-tls": cut in the middle of the TLS handshake;
        - "cut-at-password": cut when the client has sent its token or password;
        - "cut-before-ok": cut when the server has accepted it, before the client is told;
        - "cut-after-ok": cut when the client has been told, before its session is ready.

        `say` is an SQLSTATE and a text with which the server refuses them, inside TLS.
        `certificate` is a wrong one for the server to show, `tls="stripped"` a server that
        refuses TLS. `at` is the one port that these four are at, "postgres" or "pgbouncer";
        without it they are at both.

        `identity` is what the identity endpoint does: an HTTP status to answer (429, 500),
        "down", "garbage" or "hang". `token` is what is wrong with the tokens handed out.

            with emulator.fault(connect="refuse", at="pgbouncer"):
                ...
            with emulator.fault(say=("57P03", "the database system is starting up")):
                ...
            with emulator.fault(certificate="expired"):
                ...

        Contexts may overlap. Of two faults of a kind the one that came later is in force.
        """
        asked = Faults(
            connect=connect,
            say=say,
            certificate=certificate,
            tls=tls,
            at=at,
            identity=identity,
            token=token,
        )
        self._set_faults([*self._faults, asked])
        try:
            yield
        finally:
            # Found by identity: an equal fault in force is another context's.
            self._set_faults([fault for fault in self._faults if fault is not asked])

    def end_faults(self) -> None:
        """End every `fault` in force, whose contexts may go on."""
        self._set_faults([])

    def expire_tokens(self) -> None:
        """Treat every token handed out until now as expired; new ones are good."""
        self._ask("expire_tokens")

    def revoke_tokens(self) -> None:
        """Refuse every token handed out until now, though it has not expired; new ones are good.

        The server says what Azure says of a token that it cannot validate: "An error occurred
        while validating the access token."
        """
        self._ask("revoke_tokens")

    def cut(self, *, reset: bool = False, at: Place | None = None) -> int:
        """Cut every open connection without a goodbye and return how many there were.

        With `reset` they end by RST, otherwise by FIN. Queries under way run on in the server,
        as they do when a network fails. `at` is the one port whose connections are cut,
        "postgres" or "pgbouncer"; without it both ports' are.

            emulator.cut(reset=True)
        """
        return int(self._ask("cut", reset=reset, at=at))

    def _set_faults(self, faults: list[Faults]) -> None:
        self._ask("set_faults", faults=[dataclasses.asdict(fault) for fault in faults])
        self._faults = faults
