"""The real servers: the primary, its standby once there is one, and PgBouncer."""

import secrets
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from azpg.emulator._os_user import OSUser

from .admin_session import Login
from .cluster import SUPERUSER, Cluster
from .connection_slots import ConnectionSlots
from .installation import Installation
from .pgbouncer import PgBouncer

PrimaryRestartMode = Literal["fast", "immediate", "kill"]

_STOP_SIGNALS: dict[PrimaryRestartMode, signal.Signals] = {
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
    "kill": signal.SIGKILL,
}


class DatabaseServers:
    """Run the servers and put one in another's place; who may reach them is the doors' business."""

    def __init__(
        self, installation: Installation, pgbouncer: Path | None, os_user: OSUser, folder: Path
    ) -> None:
        self._installation = installation
        self._os_user = os_user
        self._folder = folder
        # Known to nobody but this process, its servers and the files in their private folder.
        self._superuser = Login(SUPERUSER, secrets.token_urlsafe(32))
        self._cluster_count = 0
        self.primary = self._new_cluster()
        self.standby: Cluster | None = None
        self.pgbouncer = (
            PgBouncer(pgbouncer, os_user, folder, self.primary.folder, self._superuser)
            if pgbouncer
            else None
        )
        self._connection_slots = ConnectionSlots()

    async def start(self, roles: Sequence[str]) -> None:
        """Start the primary and PgBouncer with some roles that are trusted."""
        self.primary.trust_roles(roles)
        await self.primary.start()
        await self.primary.create_azure_objects()
        for role in roles:
            await self.primary.create_role(role, None)
        if self.pgbouncer:
            self.pgbouncer.trust_roles(roles)
            await self.pgbouncer.start()

    async def stop(self) -> None:
        """End every server."""
        if self.pgbouncer:
            await self.pgbouncer.stop()
        for cluster in self._clusters:
            await cluster.stop()

    async def trust_roles(self, roles: Sequence[str]) -> None:
        """Let in, from now on, the roles in whose tokens the front door checks."""
        for cluster in self._clusters:
            cluster.trust_roles(roles)
            await cluster.reload()
        if self.pgbouncer:
            self.pgbouncer.trust_roles(roles)
            await self.pgbouncer.reload()

    async def ensure_standby(self) -> Cluster:
        """Return the standby, which from now on has everything before it is acknowledged."""
        if self.standby is None:
            standby = self._new_cluster()
            await standby.copy_from(self.primary)
            await standby.start()
            self.standby = standby
            await self.primary.enable_synchronous_replication()
        return self.standby

    async def fail_over(self) -> None:
        """End every session with the primary and put the standby in its place."""
        old, new = self.primary, await self.ensure_standby()
        await old.stop(signal.SIGINT)
        if self.pgbouncer:
            await self.pgbouncer.stop()
            self.pgbouncer.postgres_folder = new.folder
        await new.promote()
        self.primary, self.standby = new, None
        old.remove()

    async def start_pgbouncer(self) -> None:
        """Start PgBouncer unless it runs, or there is none."""
        if self.pgbouncer and not self.pgbouncer.running:
            await self.pgbouncer.start()

    async def restart_primary(self, mode: PrimaryRestartMode) -> None:
        await self.primary.stop(_STOP_SIGNALS[mode])
        await self.primary.restart_after_kill()

    async def fill_slots(self, role: str, *, reserved: bool) -> None:
        """Take every connection slot of the primary, or all but those reserved."""
        await self._connection_slots.fill(self.primary.socket_path, Login(role))
        if reserved:
            await self._connection_slots.fill(self.primary.socket_path, self._superuser)

    async def free_slots(self) -> None:
        await self._connection_slots.free()

    @property
    def _clusters(self) -> list[Cluster]:
        return [self.primary, *([self.standby] if self.standby else [])]

    def _new_cluster(self) -> Cluster:
        self._cluster_count += 1
        folder = self._folder / f"server-{self._cluster_count}"
        return Cluster(self._installation, self._os_user, folder, self._superuser)
