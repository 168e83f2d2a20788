"""The real servers together: the primary, its standby if there is one, and PgBouncer."""

import asyncio
import secrets
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from azpg.emulator._entra_role import EntraRole
from azpg.emulator._errors import EmulatorError, ServerError
from azpg.emulator._os_user import OSUser

from .admin_session import Login
from .cluster import MAINTENANCE_DATABASE, SUPERUSER, Cluster
from .connection_slots import ConnectionSlots
from .entra_roles import EntraRoleReader
from .extension_tree import make_server_program
from .installation import Installation
from .pgbouncer import PgBouncer

PrimaryRestartMode = Literal["fast", "immediate", "kill"]

_STOP_SIGNALS: dict[PrimaryRestartMode, signal.Signals] = {
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
    "kill": signal.SIGKILL,
}


class DatabaseServers:
    """Run the real servers and fail over from one to another.

    After `start`, `extension_problem` is empty if `CREATE EXTENSION` follows Azure's rules.

    Args:
        installation: The PostgreSQL to run.
        pgbouncer: The path of PgBouncer; None runs without it.
        os_user: The operating system user to run the servers as.
        folder: The private folder for their files and sockets.
        allowed_extensions: The value of `azure.extensions`.
    """

    def __init__(
        self,
        installation: Installation,
        pgbouncer: Path | None,
        os_user: OSUser,
        folder: Path,
        allowed_extensions: Sequence[str],
    ) -> None:
        self._installation = installation
        self._os_user = os_user
        self._folder = folder
        self._allowed_extensions = allowed_extensions
        # Only this process, its servers and files in their private folder have this password.
        self._superuser = Login(SUPERUSER, secrets.token_urlsafe(32))
        self._program = installation.postgres
        self._share_folder: Path | None = None
        self.extension_problem = ""
        self._cluster_count = 0
        self.primary = self._new_cluster()
        self.standby: Cluster | None = None
        self.pgbouncer = (
            PgBouncer(pgbouncer, os_user, folder, self.primary.folder, self._superuser)
            if pgbouncer
            else None
        )
        self._connection_slots = ConnectionSlots()
        self._entra_role_reader = EntraRoleReader(self._superuser, MAINTENANCE_DATABASE)

    async def init(self, tree_folder: Path) -> None:
        """Create the primary's data directory, and the program of all servers in a new folder."""
        init = asyncio.create_task(self.primary.init())
        try:
            self._program, self._share_folder = await make_server_program(
                self._installation, self._os_user, tree_folder, self._allowed_extensions
            )
        except (EmulatorError, OSError) as error:
            self.extension_problem = str(error)
        finally:
            await init
        self.primary.program = self._program

    async def start(self, tenant_id: str) -> None:
        """Start the primary and PgBouncer; there are no roles of clients yet."""
        self.primary.trust_roles([])
        await self.primary.start()
        await self.primary.create_azure_objects(tenant_id)
        if self._share_folder is not None:
            try:
                await self.primary.check_share_folder(self._share_folder)
            except ServerError as error:
                self.extension_problem = str(error)
        if self.pgbouncer:
            self.pgbouncer.trust_roles([])
            await self.pgbouncer.start()

    async def stop(self) -> None:
        """Stop every server."""
        self._entra_role_reader.close()
        if self.pgbouncer:
            await self.pgbouncer.stop()
        for cluster in self._clusters:
            await cluster.stop()

    async def trust_roles(self, roles: Sequence[str]) -> None:
        """Let the Entra roles in, whose tokens the proxy checks; others need a password."""
        for cluster in self._clusters:
            cluster.trust_roles(roles)
            await cluster.reload()
        if self.pgbouncer:
            self.pgbouncer.trust_roles(roles)
            if self.pgbouncer.running:
                await self.pgbouncer.reload()

    async def read_entra_roles(self) -> list[EntraRole]:
        """Return the roles of Microsoft Entra identities, also those that clients created.

        Raises:
            ServerError, OSError or EOFError: If the primary does not answer.
        """
        return await self._entra_role_reader.read(self.primary.socket_path)

    async def ensure_standby(self) -> Cluster:
        """Return the synchronous standby, and create it if there is none."""
        if self.standby is None:
            standby = self._new_cluster()
            await standby.copy_from(self.primary)
            await standby.start()
            self.standby = standby
            await self.primary.enable_synchronous_replication()
        return self.standby

    async def fail_over(self) -> None:
        """Stop the primary and PgBouncer, and promote the standby to the primary."""
        old_primary, new_primary = self.primary, await self.ensure_standby()
        await old_primary.stop(signal.SIGINT)
        if self.pgbouncer:
            await self.pgbouncer.stop()
            self.pgbouncer.postgres_folder = new_primary.folder
        await new_primary.promote()
        self.primary, self.standby = new_primary, None
        old_primary.remove()

    async def start_pgbouncer(self) -> None:
        """Start PgBouncer if there is one and it does not run."""
        if self.pgbouncer and not self.pgbouncer.running:
            await self.pgbouncer.start()

    async def restart_primary(self, mode: PrimaryRestartMode) -> None:
        """Stop the primary in the given mode and start it again."""
        await self.primary.stop(_STOP_SIGNALS[mode])
        await self.primary.restart_after_kill()

    async def fill_slots(self, role: str, *, reserved: bool) -> None:
        """Take the primary's free connection slots.

        Args:
            role: The role that takes the ordinary slots.
            reserved: Whether to take the slots reserved for superusers as well.
        """
        await self._connection_slots.fill(self.primary.socket_path, Login(role))
        if reserved:
            await self._connection_slots.fill(self.primary.socket_path, self._superuser)

    async def free_slots(self) -> None:
        """Free the connection slots that `fill_slots` has taken."""
        await self._connection_slots.free()

    @property
    def _clusters(self) -> list[Cluster]:
        return [self.primary] if self.standby is None else [self.primary, self.standby]

    def _new_cluster(self) -> Cluster:
        self._cluster_count += 1
        folder = self._folder / f"server-{self._cluster_count}"
        cluster = Cluster(
            self._installation, self._os_user, folder, self._superuser, self._allowed_extensions
        )
        cluster.program = self._program
        return cluster
