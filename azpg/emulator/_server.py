"""All parts of one emulator, started in order, and what its owner can ask of them."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Literal

from . import _azure_host
from ._counters import Tally
from ._entra.identity_endpoint import IdentityEndpoint
from ._entra.principals import Kind, Principal, principal
from ._entra.tenant import Tenant
from ._errors import EmulatorError
from ._faults import Faults, Place, join
from ._os_user import Account
from ._postgres.cluster import SUPERUSER
from ._postgres.database_servers import Databases, Restart
from ._postgres.installation import Installation, bundled
from ._postgres.pgbouncer import CONSOLE, CONSOLE_USER, find
from ._proxy import loopback
from ._proxy.certificates import Certificates
from ._proxy.listener import FrontDoor
from ._proxy.proxy_session import House

_PORTS: dict[Place, int] = {"postgres": 5432, "pgbouncer": 6432, "reader": 5432}
_DEFAULT_ROLE = "myapp"


_STARTING_UP = "the database system is starting up"
_FAILING_OVER: dict[Place, tuple[str, str]] = {
    "postgres": ("57P03", _STARTING_UP),
    "pgbouncer": ("08P01", f"server login has been failing, cached error: {_STARTING_UP}"),
}


class Server:
    """Hold the parts of one emulator; the public methods after `stop` are its owner's requests."""

    def __init__(self, folder: Path, certificate_folder: Path, account: Account) -> None:
        self._folder = folder
        self._certificate_folder = certificate_folder
        self._account = account
        self._tally = Tally()
        self._asked: list[Faults] = []
        self._doors: dict[Place, FrontDoor] = {}
        self._databases: Databases | None = None
        self._identity: IdentityEndpoint | None = None
        self._tenant: Tenant | None = None
        self._house: House | None = None

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
        site = _azure_host.site(host)
        root = Path(postgres) if postgres else bundled()
        installation = Installation(root).within_reach(self._account, self._folder)
        installation.check()
        private = self._folder / "private"
        private.mkdir(mode=0o700)
        self._account.own(private)
        program = find() if pgbouncer else None
        self._databases = databases = Databases(installation, program, self._account, private)
        # Keys are made while initdb works: each has a processor of its own.
        creating = asyncio.create_task(databases.primary.create())
        try:
            certificates = await asyncio.to_thread(Certificates, site)
            self._tenant = await asyncio.to_thread(
                Tenant, site, token_lifetime=token_lifetime, clock_skew=clock_skew
            )
            await creating
        finally:
            creating.cancel()
            await asyncio.gather(creating, return_exceptions=True)

        default = principal(_DEFAULT_ROLE, "user-assigned")
        self._tenant.add(default)
        self._tenant.sign_in_as(default)
        await databases.start([default.name])

        self._house = House(
            self._tenant.token_check_for,
            certificates,
            self._tally,
            reserved_users=frozenset({SUPERUSER, CONSOLE_USER}),
            reserved_databases={"pgbouncer": CONSOLE},
        )
        bouncer = databases.pgbouncer
        rooms: dict[Place, Path] = {"postgres": databases.primary.socket}
        if bouncer is not None:
            rooms["pgbouncer"] = bouncer.socket
        address, ports = self._open_doors(rooms)
        self._identity = IdentityEndpoint(address, self._tenant, self._tally, imds=imds)
        await self._identity.open()
        root_certificate = self._certificate_folder / "root.crt"
        root_certificate.write_bytes(certificates.root_pem)
        return {
            "host": site.host,
            "hostaddr": address,
            "port": ports[0],
            "pgbouncer_port": ports[1] if bouncer else None,
            "reader_host": site.reader,
            "folders": [str(self._folder), str(self._certificate_folder)],
            "root_certificate": str(root_certificate),
            "identity_url": self._identity.url,
            "identity_header": self._identity.header,
            "postgres_version": installation.version,
            "pgbouncer_version": bouncer.version if bouncer else None,
            "principal": dataclasses.asdict(default),
        }

    async def stop(self) -> None:
        """End every part; one that was never started is passed over."""
        await asyncio.gather(*(door.stop() for door in self._doors.values()))
        if self._identity is not None:
            self._identity.close()
        if self._databases is not None:
            await self._databases.stop()

    async def add_role(
        self,
        *,
        name: str,
        kind: Kind,
        object_id: str | None,
        resource_type: str | None,
        members: list[dict[str, Any]],
        password: str | None,
        token_size: int,
    ) -> dict[str, Any]:
        """Create a role in PostgreSQL and, unless it has a password, its identity in Entra."""
        made = principal(
            name,
            kind,
            object_id=object_id,
            resource_type=resource_type,
            members=tuple(Principal.from_json(member) for member in members),
            token_size=token_size,
        )
        await self._servers.primary.create_role(name, password)
        if password is None:
            self._entra.add(made)
            await self._servers.trust(self._entra.role_names)
        return dataclasses.asdict(made)

    async def sign_in_as(self, *, principal: dict[str, Any]) -> None:
        self._entra.sign_in_as(Principal.from_json(principal))

    async def token(
        self, *, principal: dict[str, Any], resource: str | None, lifetime: float | None
    ) -> str:
        return self._entra.token(Principal.from_json(principal), resource, lifetime)

    async def set_time(self, *, token_lifetime: float, clock_skew: float) -> None:
        self._entra.token_lifetime = token_lifetime
        self._entra.clock_skew = clock_skew

    async def expire_tokens(self) -> None:
        self._entra.expire_tokens()

    async def revoke_tokens(self) -> None:
        self._entra.revoke_tokens()

    async def counts(self) -> dict[str, int]:
        return dict(self._tally)

    async def set_faults(self, *, faults: list[dict[str, Any]]) -> None:
        self._asked = [Faults(**fault) for fault in faults]
        for door in self._doors.values():
            await door.set_faults(self._asked)
        self._entra.faults = join(self._asked)
        if self._identity is not None:
            if self._entra.faults.identity == "down":
                self._identity.close()
            else:
                await self._identity.open()

    async def cut(self, *, at: Place | None, reset: bool) -> int:
        """End the open connections of one door, or of all, and return how many there were."""
        doors = (door for place, door in self._doors.items() if at in {None, place})
        return sum(await asyncio.gather(*(door.cut(reset=reset) for door in doors)))

    async def restart_postgres(self, *, mode: Restart | Literal["kill-backend"]) -> None:
        """Restart PostgreSQL behind a port that refuses, or let it recover from a lost backend."""
        if mode == "kill-backend":
            await self._servers.primary.crash()
            return
        async with self._refusing("postgres"):
            await self._servers.restart_primary(mode)

    async def restart_pgbouncer(self) -> None:
        if (bouncer := self._servers.pgbouncer) is None:
            raise EmulatorError("This emulator runs without PgBouncer.")
        async with self._refusing("pgbouncer"):
            await bouncer.stop()
            await bouncer.start()

    async def fill_slots(self, *, reserved: bool) -> None:
        await self._servers.fill_slots(_DEFAULT_ROLE, reserved=reserved)

    async def free_slots(self) -> None:
        await self._servers.free_slots()

    async def reader(self) -> tuple[str, int]:
        """Return where the standby is reached, which is made when there is none."""
        standby = await self._servers.make_standby()
        if "reader" not in self._doors:
            self._open_doors({"reader": standby.socket})
        door = self._doors["reader"]
        door.backend = standby.socket
        await door.set_faults(self._asked)
        await door.set_condition(Faults())
        return door.address

    async def begin_fail_over(self) -> None:
        """Close the doors, end every session and promote the standby."""
        await self.reader()
        for door in self._doors.values():
            await door.set_condition(Faults(connect="refuse"))
        # Its sessions would go on with the primary that it becomes.
        await self._doors["reader"].cut(reset=False)
        await self._servers.fail_over()

    async def start_up(self) -> None:
        """Open the doors, and say behind them that the server is not ready yet."""
        for place, words in _FAILING_OVER.items():
            if place in self._doors:
                await self._doors[place].set_condition(Faults(say=words))

    async def finish_fail_over(self) -> None:
        """Let clients in to the promoted server."""
        await self._servers.start_pgbouncer()
        self._doors["postgres"].backend = self._servers.primary.socket
        for place in _FAILING_OVER:
            if place in self._doors:
                await self._doors[place].set_condition(Faults())

    @contextlib.asynccontextmanager
    async def _refusing(self, place: Place) -> AsyncIterator[None]:
        await self._doors[place].set_condition(Faults(connect="refuse"))
        try:
            yield
        finally:
            await self._doors[place].set_condition(Faults())

    @property
    def _servers(self) -> Databases:
        assert self._databases is not None  # noqa: S101  # requests come after `start`
        return self._databases

    @property
    def _entra(self) -> Tenant:
        assert self._tenant is not None  # noqa: S101  # requests come after `start`
        return self._tenant

    def _open_doors(self, rooms: Mapping[Place, Path]) -> tuple[str, list[int]]:
        """Open a door before each server, all at one address that nobody else has."""
        assert self._house is not None  # noqa: S101  # `start` has set it
        listeners = loopback.listen([_PORTS[place] for place in rooms])
        for (place, room), listener in zip(rooms.items(), listeners, strict=True):
            self._doors[place] = FrontDoor(place, listener, room, self._house)
        return listeners[0].getsockname()[0], [self._doors[place].address[1] for place in rooms]
