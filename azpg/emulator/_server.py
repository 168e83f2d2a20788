"""All parts of one emulator, started in order, and what its owner can ask of them."""

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

from . import _addresses, _azure, _pgbouncer, _postgres
from ._account import Account
from ._certificates import Certificates
from ._counts import Tally
from ._door import FrontDoor
from ._faults import Faults, Place, join
from ._identity import IdentityEndpoint
from ._principals import Kind, Principal, principal
from ._session import House
from ._tenant import Tenant

_POSTGRES_PORT = 5432
_PGBOUNCER_PORT = 6432
_DEFAULT_ROLE = "myapp"


class Server:
    """Hold the parts of one emulator; the public methods after `stop` are its owner's requests."""

    def __init__(self, folder: Path, account: Account) -> None:
        self._folder = folder
        self._account = account
        self._tally = Tally()
        self._doors: list[FrontDoor] = []
        self._cluster: _postgres.Cluster | None = None
        self._pgbouncer: _pgbouncer.PgBouncer | None = None
        self._identity: IdentityEndpoint | None = None
        self._tenant: Tenant | None = None

    async def start(
        self,
        *,
        host: str,
        postgres: str | None,
        pgbouncer: bool,
        token_lifetime: float,
        clock_skew: float,
    ) -> dict[str, Any]:
        """Start every part and return what its owner needs to know of it."""
        site = _azure.site(host)
        root = Path(postgres) if postgres else _postgres.bundled()
        installation = _postgres.Installation(root).within_reach(self._account, self._folder)
        private = self._folder / "private"
        private.mkdir(mode=0o700)
        self._account.own(private)
        self._cluster = _postgres.Cluster(installation, self._account, private)
        # Keys are made while initdb works: each has a processor of its own.
        creating = asyncio.create_task(self._cluster.create())
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
        self._cluster.trust([default.name])
        await self._cluster.start()
        await self._cluster.create_role(default.name, None)
        program = _pgbouncer.find() if pgbouncer else None
        if program is not None:
            self._pgbouncer = _pgbouncer.PgBouncer(program, self._account, private, private)
            self._pgbouncer.trust([default.name])
            await self._pgbouncer.start()

        address, ports = self._open_doors(certificates)
        self._identity = IdentityEndpoint(address, self._tenant, self._tally)
        await self._identity.open()
        root_certificate = self._folder / "root.crt"
        root_certificate.write_bytes(certificates.root_pem)
        return {
            "host": site.host,
            "hostaddr": address,
            "port": ports[0],
            "pgbouncer_port": ports[1] if self._pgbouncer else None,
            "root_certificate": str(root_certificate),
            "identity_url": self._identity.url,
            "identity_header": self._identity.header,
            "postgres_version": installation.version,
            "pgbouncer_version": self._pgbouncer.version if self._pgbouncer else None,
            "principal": dataclasses.asdict(default),
        }

    async def stop(self) -> None:
        """End every part; one that was never started is passed over."""
        await asyncio.gather(*(door.stop() for door in self._doors))
        if self._identity is not None:
            self._identity.close()
        if self._pgbouncer is not None:
            await self._pgbouncer.stop()
        if self._cluster is not None:
            await self._cluster.stop()

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
        await self._database.create_role(name, password)
        if password is None:
            self._entra.add(made)
            self._database.trust(self._entra.role_names)
            await self._database.reload()
            if self._pgbouncer is not None:
                self._pgbouncer.trust(self._entra.role_names)
                await self._pgbouncer.reload()
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
        asked = [Faults(**fault) for fault in faults]
        for door in self._doors:
            await door.set_faults(asked)
        self._entra.faults = join(asked)
        if self._identity is not None:
            if self._entra.faults.identity == "down":
                self._identity.close()
            else:
                await self._identity.open()

    async def cut(self, *, at: Place | None, reset: bool) -> int:
        """End the open connections of one door, or of all, and return how many there were."""
        doors = (door for door in self._doors if at in {None, door.place})
        return sum(await asyncio.gather(*(door.cut(reset=reset) for door in doors)))

    @property
    def _database(self) -> _postgres.Cluster:
        assert self._cluster is not None  # noqa: S101  # requests come after `start`
        return self._cluster

    @property
    def _entra(self) -> Tenant:
        assert self._tenant is not None  # noqa: S101  # requests come after `start`
        return self._tenant

    def _open_doors(self, certificates: Certificates) -> tuple[str, list[int]]:
        """Open a door before each server, all at one address."""
        house = House(self._entra, certificates, self._tally, reserved=_postgres.SUPERUSER)
        rooms: list[tuple[Place, int, Path]] = [("postgres", _POSTGRES_PORT, self._database.socket)]
        if self._pgbouncer is not None:
            rooms.append(("pgbouncer", _PGBOUNCER_PORT, self._pgbouncer.socket))
        listeners = _addresses.listen([port for _, port, _ in rooms])
        names: list[tuple[str, int]] = [listener.getsockname() for listener in listeners]
        for (place, _, room), listener in zip(rooms, listeners, strict=True):
            self._doors.append(FrontDoor(place, listener, room, house))
        return names[0][0], [port for _, port in names]
