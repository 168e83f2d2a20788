"""The parts of one emulator, started in order, and the requests that they serve."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Literal

from ._azure_extensions import parse_allow_list
from ._azure_host import parse_host
from ._counters import Counters
from ._entra.identity_endpoint import IdentityEndpoint
from ._entra.principals import Principal, PrincipalKind, create_principal
from ._entra.tenant import Tenant
from ._entra_role import EntraRole
from ._errors import EmulatorError, ServerError
from ._faults import Faults, ListenerName, merge_faults
from ._os_user import OSUser
from ._postgres.cluster import SUPERUSER
from ._postgres.database_servers import DatabaseServers, PrimaryRestartMode
from ._postgres.installation import Installation, find_postgres
from ._postgres.pgbouncer import CONSOLE_DATABASE, CONSOLE_USER, find_pgbouncer
from ._proxy import loopback
from ._proxy.certificates import ServerCertificates
from ._proxy.listener import Listener
from ._proxy.proxy_session import PasswordCheck, SessionContext

_LISTENER_PORTS: dict[ListenerName, int] = {"postgres": 5432, "pgbouncer": 6432, "reader": 5432}
_DEFAULT_ROLE = "myapp"

# The SQLSTATE and the message that each listener returns while a failover completes.
_STARTING_UP = "the database system is starting up"
_STARTING_UP_ERRORS: dict[ListenerName, tuple[str, str]] = {
    "postgres": ("57P03", _STARTING_UP),
    "pgbouncer": ("08P01", f"server login has been failing, cached error: {_STARTING_UP}"),
}


class EmulatorServer:
    """Run all parts of one emulator.

    The public methods after `stop` are requests of the parent process, as `Emulator` sends them.

    Args:
        folder: The folder for the files of the real servers.
        certificate_folder: The folder for the root certificate.
        os_user: The operating system user to run the real servers as.
    """

    def __init__(self, folder: Path, certificate_folder: Path, os_user: OSUser) -> None:
        self._folder = folder
        self._certificate_folder = certificate_folder
        self._os_user = os_user
        self._counters = Counters()
        self._roles: list[EntraRole] = []
        self._roles_lock = asyncio.Lock()
        self._requested_faults: list[Faults] = []
        self._listeners: dict[ListenerName, Listener] = {}
        # These parts are None until `start` has created them.
        self._servers_or_none: DatabaseServers | None = None
        self._tenant_or_none: Tenant | None = None
        self._identity_endpoint: IdentityEndpoint | None = None
        self._session_context: SessionContext | None = None

    async def start(
        self,
        *,
        host: str,
        postgres: str | None,
        pgbouncer: bool,
        extensions: list[str],
        imds: bool,
        token_lifetime: float,
        clock_skew: float,
    ) -> dict[str, Any]:
        """Start every part and return what the parent process needs to know about it."""
        azure_host = parse_host(host)
        allow_list = parse_allow_list(extensions)
        root = Path(postgres) if postgres else find_postgres()
        installation = Installation(root).runnable_by(self._os_user, self._folder)
        installation.check_version()
        private = self._folder / "private"
        private.mkdir(mode=0o700)
        self._os_user.chown(private)
        pgbouncer_program = find_pgbouncer() if pgbouncer else None
        servers = DatabaseServers(
            installation, pgbouncer_program, self._os_user, private, allow_list
        )
        self._servers_or_none = servers
        # The keys are generated while initdb runs, because both take a processor for a while.
        init = asyncio.create_task(servers.init(self._folder / "tree"))
        try:
            certificates = await asyncio.to_thread(ServerCertificates, azure_host)
            tenant = await asyncio.to_thread(
                Tenant, azure_host, token_lifetime=token_lifetime, clock_skew=clock_skew
            )
            await init
        finally:
            init.cancel()
            await asyncio.gather(init, return_exceptions=True)
        self._tenant_or_none = tenant

        principal = create_principal(_DEFAULT_ROLE, "user-assigned")
        await servers.start(tenant.tenant_id)
        await self._add_principal(principal)
        tenant.sign_in_as(principal)
        await self._create_entra_role(principal)

        self._session_context = SessionContext(
            self._password_check_for,
            certificates,
            self._counters,
            reserved_users=frozenset({SUPERUSER, CONSOLE_USER}),
            reserved_databases={"pgbouncer": CONSOLE_DATABASE},
        )
        upstream_sockets: dict[ListenerName, Path] = {"postgres": servers.primary.socket_path}
        if servers.pgbouncer is not None:
            upstream_sockets["pgbouncer"] = servers.pgbouncer.socket_path
        self._start_listeners(upstream_sockets)
        hostaddr, port = self._listeners["postgres"].address
        pgbouncer_port = pgbouncer_version = None
        if servers.pgbouncer is not None:
            _, pgbouncer_port = self._listeners["pgbouncer"].address
            pgbouncer_version = servers.pgbouncer.version

        identity_endpoint = IdentityEndpoint(
            hostaddr,
            tenant,
            self._counters,
            imds=imds,
            update_identities=self._update_roles_if_possible,
        )
        self._identity_endpoint = identity_endpoint
        await identity_endpoint.open()
        root_certificate = self._certificate_folder / "root.crt"
        root_certificate.write_bytes(certificates.root_pem)
        return {
            "host": azure_host.name,
            "hostaddr": hostaddr,
            "port": port,
            "pgbouncer_port": pgbouncer_port,
            "reader_host": azure_host.reader_host,
            "folders": [str(self._folder), str(self._certificate_folder)],
            "root_certificate": str(root_certificate),
            "identity_url": identity_endpoint.url,
            "identity_header": identity_endpoint.header,
            "postgres_version": installation.version,
            "pgbouncer_version": pgbouncer_version,
            "extension_problem": servers.extension_problem,
            "principal": dataclasses.asdict(principal),
        }

    async def stop(self) -> None:
        """Stop every part that has been started."""
        await asyncio.gather(*(listener.stop() for listener in self._listeners.values()))
        if self._identity_endpoint is not None:
            self._identity_endpoint.close()
        if self._servers_or_none is not None:
            await self._servers_or_none.stop()

    async def add_role(
        self,
        *,
        name: str,
        kind: PrincipalKind,
        object_id: str | None,
        resource_type: str | None,
        members: list[dict[str, Any]],
        password: str | None,
        token_size: int,
    ) -> dict[str, Any]:
        """Create a role in PostgreSQL and, if it has no password, its identity in Entra."""
        if password is not None:
            principal = create_principal(name, "native")
            await self._servers.primary.create_role(name, password=password)
            return dataclasses.asdict(principal)
        identity = await self.add_identity(
            name=name,
            kind=kind,
            object_id=object_id,
            resource_type=resource_type,
            members=members,
            token_size=token_size,
        )
        await self._create_entra_role(Principal.from_json(identity))
        return identity

    async def add_identity(
        self,
        *,
        name: str,
        kind: PrincipalKind,
        object_id: str | None,
        resource_type: str | None,
        members: list[dict[str, Any]],
        token_size: int,
    ) -> dict[str, Any]:
        """Create an identity in Entra, without a role in PostgreSQL."""
        principal = create_principal(
            name,
            kind,
            object_id=object_id,
            resource_type=resource_type,
            members=tuple(Principal.from_json(member) for member in members),
            token_size=token_size,
        )
        await self._add_principal(principal)
        return dataclasses.asdict(principal)

    async def sign_in_as(self, *, principal: dict[str, Any]) -> None:
        """Set the principal that gets a token if a request names none."""
        self._tenant.sign_in_as(Principal.from_json(principal))

    async def token(
        self, *, principal: dict[str, Any], resource: str | None, lifetime: float | None
    ) -> str:
        """Return a token of a principal."""
        return self._tenant.issue_token(Principal.from_json(principal), resource, lifetime)

    async def set_time(self, *, token_lifetime: float, clock_skew: float) -> None:
        """Set the lifetime of new tokens and the difference between the clocks, in seconds."""
        self._tenant.token_lifetime = token_lifetime
        self._tenant.clock_skew = clock_skew

    async def expire_tokens(self) -> None:
        """Treat every token issued until now as expired."""
        self._tenant.expire_tokens()

    async def revoke_tokens(self) -> None:
        """Treat every token issued until now as invalid."""
        self._tenant.revoke_tokens()

    async def counts(self) -> dict[str, int]:
        """Return the counters."""
        return dict(self._counters)

    async def set_faults(self, *, faults: list[dict[str, Any]]) -> None:
        """Replace the requested faults by these, the earliest first."""
        self._requested_faults = [Faults(**fault) for fault in faults]
        for listener in self._listeners.values():
            await listener.set_requested_faults(self._requested_faults)
        self._tenant.faults = merge_faults(self._requested_faults)
        if self._identity_endpoint is not None:
            if self._tenant.faults.identity == "down":
                self._identity_endpoint.close()
            else:
                await self._identity_endpoint.open()

    async def cut(self, *, at: ListenerName | None, reset: bool) -> int:
        """End the connections of one listener, or of all, and return how many there were."""
        listeners = [
            listener for name, listener in self._listeners.items() if at is None or at == name
        ]
        return sum(await asyncio.gather(*(listener.cut(reset=reset) for listener in listeners)))

    async def restart_postgres(self, *, mode: PrimaryRestartMode | Literal["kill-backend"]) -> None:
        """Restart PostgreSQL while its port refuses connections, or kill one backend."""
        if mode == "kill-backend":
            await self._servers.primary.kill_backend()
            return
        async with self._refusing_connections("postgres"):
            await self._servers.restart_primary(mode)

    async def restart_pgbouncer(self) -> None:
        """Restart PgBouncer while its port refuses connections."""
        pgbouncer = self._servers.pgbouncer
        if pgbouncer is None:
            raise EmulatorError("This emulator runs without PgBouncer.")
        async with self._refusing_connections("pgbouncer"):
            await pgbouncer.stop()
            await pgbouncer.start()

    async def fill_slots(self, *, reserved: bool) -> None:
        """Take PostgreSQL's free connection slots, with `reserved` also the reserved ones."""
        await self._servers.fill_slots(_DEFAULT_ROLE, reserved=reserved)

    async def free_slots(self) -> None:
        """Free the connection slots that `fill_slots` has taken."""
        await self._servers.free_slots()

    async def ensure_reader(self) -> tuple[str, int]:
        """Return the reader's IP address and port, and create the standby if there is none."""
        standby = await self._servers.ensure_standby()
        if "reader" not in self._listeners:
            self._start_listeners({"reader": standby.socket_path})
        listener = self._listeners["reader"]
        listener.upstream_socket = standby.socket_path
        await listener.set_requested_faults(self._requested_faults)
        await listener.set_server_state(Faults())
        return listener.address

    async def begin_fail_over(self) -> None:
        """Refuse connections, end every session and promote the standby."""
        await self.ensure_reader()
        for listener in self._listeners.values():
            await listener.set_server_state(Faults(connect="refuse"))
        # Without this the reader's sessions would stay open and become sessions of the primary.
        await self._listeners["reader"].cut(reset=False)
        await self._servers.fail_over()

    async def report_starting_up(self) -> None:
        """Accept connections, and return the error that the server is starting up."""
        for name, error in _STARTING_UP_ERRORS.items():
            if name in self._listeners:
                await self._listeners[name].set_server_state(Faults(error=error))

    async def finish_fail_over(self) -> None:
        """Forward connections to the promoted server."""
        await self._servers.start_pgbouncer()
        self._listeners["postgres"].upstream_socket = self._servers.primary.socket_path
        for name in _STARTING_UP_ERRORS:
            if name in self._listeners:
                await self._listeners[name].set_server_state(Faults())

    async def _add_principal(self, principal: Principal) -> None:
        self._tenant.add_principal(principal)
        await self._servers.primary.add_identity(
            principal.object_id, principal.name, principal.role_type
        )

    async def _create_entra_role(self, principal: Principal) -> None:
        """Create the administrator role of an identity."""
        role = EntraRole(principal.name, principal.object_id, principal.role_type, is_admin=True)
        await self._servers.primary.create_role(role.name, entra_role=role)
        await self._update_roles()

    async def _password_check_for(self, role_name: str) -> PasswordCheck | None:
        """Return the token check of an Entra role, which SQL may have created just now."""
        await self._update_roles_if_possible()
        return self._tenant.password_check_for(role_name)

    async def _update_roles_if_possible(self) -> None:
        """Update the Entra roles; if PostgreSQL does not answer, they stay as they were."""
        with contextlib.suppress(ServerError, OSError, EOFError):
            await self._update_roles()

    async def _update_roles(self) -> None:
        """Let exactly those roles in with tokens that are Entra roles in PostgreSQL now."""
        async with self._roles_lock:
            roles = await self._servers.read_entra_roles()
            if roles != self._roles:
                self._tenant.set_roles(roles)
                await self._servers.trust_roles(self._tenant.role_names)
                self._roles = roles

    @contextlib.asynccontextmanager
    async def _refusing_connections(self, name: ListenerName) -> AsyncIterator[None]:
        await self._listeners[name].set_server_state(Faults(connect="refuse"))
        try:
            yield
        finally:
            await self._listeners[name].set_server_state(Faults())

    @property
    def _servers(self) -> DatabaseServers:
        assert self._servers_or_none is not None  # noqa: S101  # `start` has set it
        return self._servers_or_none

    @property
    def _tenant(self) -> Tenant:
        assert self._tenant_or_none is not None  # noqa: S101  # `start` has set it
        return self._tenant_or_none

    def _start_listeners(self, upstream_sockets: Mapping[ListenerName, Path]) -> None:
        """Start a listener for each real server, all on one address of their own."""
        assert self._session_context is not None  # noqa: S101  # `start` has set it
        sockets = loopback.listen([_LISTENER_PORTS[name] for name in upstream_sockets])
        for (name, upstream_socket), sock in zip(upstream_sockets.items(), sockets, strict=True):
            self._listeners[name] = Listener(name, sock, upstream_socket, self._session_context)
