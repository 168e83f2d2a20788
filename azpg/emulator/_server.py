"""All parts of one emulator, started in order, and what its owner can ask of them."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Literal

from . import _azure_host
from ._counters import Counters
from ._entra.identity_endpoint import IdentityEndpoint
from ._entra.principals import Principal, PrincipalKind, create_principal
from ._entra.tenant import Tenant
from ._errors import EmulatorError
from ._faults import Faults, ListenerName, merge_faults
from ._os_user import OSUser
from ._postgres.cluster import SUPERUSER
from ._postgres.database_servers import DatabaseServers, PrimaryRestartMode
from ._postgres.installation import Installation, find_bundled_postgres
from ._postgres.pgbouncer import CONSOLE_DATABASE, CONSOLE_USER, find_pgbouncer
from ._proxy import loopback
from ._proxy.certificates import ServerCertificates
from ._proxy.listener import Listener
from ._proxy.proxy_session import SessionContext

_LISTENER_PORTS: dict[ListenerName, int] = {"postgres": 5432, "pgbouncer": 6432, "reader": 5432}
_DEFAULT_ROLE = "myapp"


_STARTING_UP = "the database system is starting up"
_STARTUP_ERRORS: dict[ListenerName, tuple[str, str]] = {
    "postgres": ("57P03", _STARTING_UP),
    "pgbouncer": ("08P01", f"server login has been failing, cached error: {_STARTING_UP}"),
}


class EmulatorServer:
    """Hold the parts of one emulator; the public methods after `stop` are its owner's requests."""

    def __init__(self, folder: Path, certificate_folder: Path, os_user: OSUser) -> None:
        self._folder = folder
        self._certificate_folder = certificate_folder
        self._os_user = os_user
        self._counters = Counters()
        self._requested_faults: list[Faults] = []
        self._listeners: dict[ListenerName, Listener] = {}
        self._database_servers: DatabaseServers | None = None
        self._identity: IdentityEndpoint | None = None
        self._tenant: Tenant | None = None
        self._context: SessionContext | None = None

    async def start(
        self,
        *,
        host: str,
        postgres: str | None,
        pgbouncer: bool,
        imds: bool,
        token_lifetime: float,
        clock_skew: float,
    ) -> dict[str, Any]:
        """Start every part and return what its owner needs to know of it."""
        azure_host = _azure_host.parse_host(host)
        root = Path(postgres) if postgres else find_bundled_postgres()
        installation = Installation(root).runnable_by(self._os_user, self._folder)
        installation.check_version()
        private = self._folder / "private"
        private.mkdir(mode=0o700)
        self._os_user.chown(private)
        program = find_pgbouncer() if pgbouncer else None
        self._database_servers = databases = DatabaseServers(
            installation, program, self._os_user, private
        )
        # Keys are made while initdb works: each has a processor of its own.
        creating = asyncio.create_task(databases.primary.init())
        try:
            certificates = await asyncio.to_thread(ServerCertificates, azure_host)
            self._tenant = await asyncio.to_thread(
                Tenant, azure_host, token_lifetime=token_lifetime, clock_skew=clock_skew
            )
            await creating
        finally:
            creating.cancel()
            await asyncio.gather(creating, return_exceptions=True)

        default = create_principal(_DEFAULT_ROLE, "user-assigned")
        self._tenant.add_principal(default)
        self._tenant.sign_in_as(default)
        await databases.start([default.name])

        self._context = SessionContext(
            self._tenant.password_check_for,
            certificates,
            self._counters,
            reserved_users=frozenset({SUPERUSER, CONSOLE_USER}),
            reserved_databases={"pgbouncer": CONSOLE_DATABASE},
        )
        pgbouncer_server = databases.pgbouncer
        upstream_sockets: dict[ListenerName, Path] = {"postgres": databases.primary.socket_path}
        if pgbouncer_server is not None:
            upstream_sockets["pgbouncer"] = pgbouncer_server.socket_path
        address, ports = self._start_listeners(upstream_sockets)
        self._identity = IdentityEndpoint(address, self._tenant, self._counters, imds=imds)
        await self._identity.open()
        root_certificate = self._certificate_folder / "root.crt"
        root_certificate.write_bytes(certificates.root_pem)
        return {
            "host": azure_host.name,
            "hostaddr": address,
            "port": ports[0],
            "pgbouncer_port": ports[1] if pgbouncer_server else None,
            "reader_host": azure_host.reader_host,
            "folders": [str(self._folder), str(self._certificate_folder)],
            "root_certificate": str(root_certificate),
            "identity_url": self._identity.url,
            "identity_header": self._identity.header,
            "postgres_version": installation.version,
            "pgbouncer_version": pgbouncer_server.version if pgbouncer_server else None,
            "principal": dataclasses.asdict(default),
        }

    async def stop(self) -> None:
        """End every part; one that was never started is passed over."""
        await asyncio.gather(*(listener.stop() for listener in self._listeners.values()))
        if self._identity is not None:
            self._identity.close()
        if self._database_servers is not None:
            await self._database_servers.stop()

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
        """Create a role in PostgreSQL and, unless it has a password, its identity in Entra."""
        principal = create_principal(
            name,
            kind,
            object_id=object_id,
            resource_type=resource_type,
            members=tuple(Principal.from_json(member) for member in members),
            token_size=token_size,
        )
        await self._servers.primary.create_role(name, password)
        if password is None:
            self._entra.add_principal(principal)
            await self._servers.trust_roles(self._entra.role_names)
        return dataclasses.asdict(principal)

    async def sign_in_as(self, *, principal: dict[str, Any]) -> None:
        self._entra.sign_in_as(Principal.from_json(principal))

    async def token(
        self, *, principal: dict[str, Any], resource: str | None, lifetime: float | None
    ) -> str:
        return self._entra.issue_token(Principal.from_json(principal), resource, lifetime)

    async def set_time(self, *, token_lifetime: float, clock_skew: float) -> None:
        self._entra.token_lifetime = token_lifetime
        self._entra.clock_skew = clock_skew

    async def expire_tokens(self) -> None:
        self._entra.expire_tokens()

    async def revoke_tokens(self) -> None:
        self._entra.revoke_tokens()

    async def counts(self) -> dict[str, int]:
        return dict(self._counters)

    async def set_faults(self, *, faults: list[dict[str, Any]]) -> None:
        self._requested_faults = [Faults(**fault) for fault in faults]
        for listener in self._listeners.values():
            await listener.set_requested_faults(self._requested_faults)
        self._entra.faults = merge_faults(self._requested_faults)
        if self._identity is not None:
            if self._entra.faults.identity == "down":
                self._identity.close()
            else:
                await self._identity.open()

    async def cut(self, *, at: ListenerName | None, reset: bool) -> int:
        """End the open connections of one door, or of all, and return how many there were."""
        listeners = (listener for name, listener in self._listeners.items() if at in {None, name})
        return sum(await asyncio.gather(*(listener.cut(reset=reset) for listener in listeners)))

    async def restart_postgres(self, *, mode: PrimaryRestartMode | Literal["kill-backend"]) -> None:
        """Restart PostgreSQL behind a port that refuses, or let it recover from a lost backend."""
        if mode == "kill-backend":
            await self._servers.primary.kill_backend()
            return
        async with self._port_refused("postgres"):
            await self._servers.restart_primary(mode)

    async def restart_pgbouncer(self) -> None:
        if (pgbouncer_server := self._servers.pgbouncer) is None:
            raise EmulatorError("This emulator runs without PgBouncer.")
        async with self._port_refused("pgbouncer"):
            await pgbouncer_server.stop()
            await pgbouncer_server.start()

    async def fill_slots(self, *, reserved: bool) -> None:
        await self._servers.fill_slots(_DEFAULT_ROLE, reserved=reserved)

    async def free_slots(self) -> None:
        await self._servers.free_slots()

    async def ensure_reader(self) -> tuple[str, int]:
        """Return where the standby is reached, which is made when there is none."""
        standby = await self._servers.ensure_standby()
        if "reader" not in self._listeners:
            self._start_listeners({"reader": standby.socket_path})
        listener = self._listeners["reader"]
        listener.upstream_socket = standby.socket_path
        await listener.set_requested_faults(self._requested_faults)
        await listener.set_server_state(Faults())
        return listener.address

    async def begin_fail_over(self) -> None:
        """Close the doors, end every session and promote the standby."""
        await self.ensure_reader()
        for listener in self._listeners.values():
            await listener.set_server_state(Faults(connect="refuse"))
        # Its sessions would go on with the primary that it becomes.
        await self._listeners["reader"].cut(reset=False)
        await self._servers.fail_over()

    async def report_starting_up(self) -> None:
        """Open the doors, and say behind them that the server is not ready yet."""
        for name, error in _STARTUP_ERRORS.items():
            if name in self._listeners:
                await self._listeners[name].set_server_state(Faults(error=error))

    async def finish_fail_over(self) -> None:
        """Let clients in to the promoted server."""
        await self._servers.start_pgbouncer()
        self._listeners["postgres"].upstream_socket = self._servers.primary.socket_path
        for name in _STARTUP_ERRORS:
            if name in self._listeners:
                await self._listeners[name].set_server_state(Faults())

    @contextlib.asynccontextmanager
    async def _port_refused(self, name: ListenerName) -> AsyncIterator[None]:
        await self._listeners[name].set_server_state(Faults(connect="refuse"))
        try:
            yield
        finally:
            await self._listeners[name].set_server_state(Faults())

    @property
    def _servers(self) -> DatabaseServers:
        assert self._database_servers is not None  # noqa: S101  # requests come after `start`
        return self._database_servers

    @property
    def _entra(self) -> Tenant:
        assert self._tenant is not None  # noqa: S101  # requests come after `start`
        return self._tenant

    def _start_listeners(
        self, upstream_sockets: Mapping[ListenerName, Path]
    ) -> tuple[str, list[int]]:
        """Open a door before each server, all at one address that nobody else has."""
        assert self._context is not None  # noqa: S101  # `start` has set it
        listeners = loopback.listen([_LISTENER_PORTS[name] for name in upstream_sockets])
        for (name, upstream_socket), listener in zip(
            upstream_sockets.items(), listeners, strict=True
        ):
            self._listeners[name] = Listener(name, listener, upstream_socket, self._context)
        return listeners[0].getsockname()[0], [
            self._listeners[name].address[1] for name in upstream_sockets
        ]
