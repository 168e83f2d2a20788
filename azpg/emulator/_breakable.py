"""What can be broken in an emulator, one call each."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from typing import Any, Literal

from ._errors import EmulatorError
from ._faults import (
    CertificateFault,
    ConnectFault,
    Faults,
    IdentityFault,
    Place,
    TLSFault,
    TokenFault,
    check,
    check_name,
)

RestartMode = Literal["fast", "immediate", "kill", "kill-backend"]


class Breakable:
    """Break parts of an emulator, and mend them."""

    def __init__(self) -> None:
        self._faults: list[Faults] = []

    def _ask(self, what: str, **arguments: Any) -> Any:
        raise NotImplementedError

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
    ) -> contextlib.AbstractContextManager[None]:
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
        `certificate` is a wrong one for the server to show: "expired", "self-signed",
        "other-name" or "other-root". `tls="stripped"` is a server that refuses TLS. `at` is the
        one place that these four are at, "postgres" (port 5432), "pgbouncer" (6432) or "reader"
        (the standby's name); without it they are everywhere.

        `identity` is what the identity endpoint does: an HTTP status to answer (429, 500),
        "down", "garbage" or "hang". `token` is what is wrong with the tokens handed out:
        "expired", "malformed", "no-oid", "wrong-audience" or "wrong-signature"::

            with emulator.fault(connect="refuse", at="pgbouncer"):
                ...
            with emulator.fault(say=("57P03", "the database system is starting up")):
                ...
            with emulator.fault(certificate="expired"):
                ...

        Contexts may overlap. Of two faults of a kind the one that came later is in force.
        Raises EmulatorError for a value that names no fault.
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
        check(asked)
        return self._in_force(asked)

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
        as they do when a network fails. `at` is the one place where they are cut, "postgres",
        "pgbouncer" or "reader"; without it they are cut everywhere::

            emulator.cut(reset=True)
        """
        if at is not None:
            check_name("at", at, Place)
        return int(self._ask("cut", reset=reset, at=at))

    def restart_postgres(self, mode: RestartMode = "fast") -> None:
        """Restart the PostgreSQL server; on return it answers again.

        Meanwhile port 5432 refuses. `mode` is

        - "fast": sessions end with 57P01, "terminating connection due to administrator command";
        - "immediate": sessions just end, and the server recovers from its log;
        - "kill": its first process is killed outright, and the server recovers from its log;
        - "kill-backend": one session's process is killed outright, so that all others end and
          the server recovers; the port stays open and says so with 57P03.

        Nothing is lost of what was acknowledged. PgBouncer stays up; as always it tries a server
        that it found down again only after 15 seconds::

            emulator.restart_postgres("immediate")
        """
        check_name("mode", mode, RestartMode)
        self._ask("restart_postgres", mode=mode)

    def restart_pgbouncer(self) -> None:
        """Restart PgBouncer, which cuts its clients off; on return it answers again.

        Meanwhile port 6432 refuses. Raises EmulatorError where there is no PgBouncer.
        """
        self._ask("restart_pgbouncer")

    @contextlib.contextmanager
    def slots_used_up(self, *, reserved: bool = False) -> Iterator[None]:
        """Take all of PostgreSQL's free connection slots for as long as the context lasts.

        The next client is told by the real server that the "remaining connection slots are
        reserved". With `reserved` those are taken too: "sorry, too many clients already". A slot
        whose owner leaves meanwhile is free again. PgBouncer keeps its connections; when it was
        refused another one, it tries again only after 15 seconds::

            with emulator.slots_used_up():
                ...
        """
        try:
            self._ask("fill_slots", reserved=reserved)
            yield
        finally:
            self._ask("free_slots")

    def fail_over(self, *, refused: float = 0.2, starting: float = 0.2) -> None:
        """Fail over to the standby, as Azure's zone-redundant high availability does.

        Every session with the server ends with 57P01, "terminating connection due to
        administrator command", or is cut if it goes through PgBouncer. For `refused` seconds at
        least the address refuses, for `starting` seconds it says 57P03, "the database system is
        starting up", then the same name answers from the promoted standby. All that was
        acknowledged is there. At Azure this takes 60 to 120 seconds.

        It returns when a new standby stands by; only then does the reader answer again. Until
        then it refuses, and its sessions are cut. The first call without `standby=True` makes a
        standby beforehand, which takes about a second::

            failing_over = threading.Thread(target=emulator.fail_over)
        """
        if min(refused, starting) < 0:
            raise EmulatorError("refused= and starting= are seconds, 0 or more.")
        try:
            self._ask("begin_fail_over")
            time.sleep(refused)
            self._ask("start_up")
            time.sleep(starting)
        finally:
            self._ask("finish_fail_over")
        self._ask("reader")

    @contextlib.contextmanager
    def _in_force(self, asked: Faults) -> Iterator[None]:
        self._set_faults([*self._faults, asked])
        try:
            yield
        finally:
            # Found by identity: an equal fault in force is another context's.
            self._set_faults([fault for fault in self._faults if fault is not asked])

    def _set_faults(self, faults: list[Faults]) -> None:
        self._ask("set_faults", faults=[dataclasses.asdict(fault) for fault in faults])
        self._faults = faults
