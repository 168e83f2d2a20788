"""Django's PostgreSQL backend with azpg's connections and pools."""

from __future__ import annotations

import copy
import inspect
import signal
import subprocess
from types import ModuleType
from typing import TYPE_CHECKING, Any

import psycopg
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError
from django.db.backends.base.base import NO_DB_ALIAS
from django.db.backends.postgresql import base, client, creation

from azpg._child_env import psql_command
from azpg._connect import ConnectRequest
from azpg._conninfo.options import PSYCOPG_OPTIONS, ConnectOptions, hide_secret, hide_secrets
from azpg._conninfo.resolve import PGBOUNCER_PORTS
from azpg._spelling import as_django_settings, used
from azpg.connection import Connection
from azpg.errors import ConfigError
from azpg.pool import ConnectionPool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from azpg._conninfo.resolve import ResolvedConfig

_SETTING_KEYWORDS = {
    "NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"
}  # fmt: skip
_POOL_PARAMETERS = set(inspect.signature(ConnectionPool).parameters) - {"conninfo", "kwargs"}
_NON_SECRET_OPTIONS = {"assume_role", "isolation_level", *_POOL_PARAMETERS}
_DIRECT_PORTS = {pooled: direct for direct, pooled in PGBOUNCER_PORTS.items()}


class _DatabaseConnection(Connection[Any]):
    """Connects with messages that spell options as the settings do."""

    _spelling = as_django_settings


# Django calls Database.connect(), and reads other names of psycopg from Database too
_database_module = ModuleType("psycopg", psycopg.__doc__)
vars(_database_module).update(vars(psycopg), connect=_DatabaseConnection.connect)


class DatabaseClient(client.DatabaseClient):
    """Runs psql with a fresh token in a temporary password file."""

    connection: DatabaseWrapper

    def runshell(self, parameters: Iterable[str]) -> None:
        """Run psql with further arguments, as in `manage.py dbshell -- -c "select 1"`.

        Args:
            parameters: Arguments of psql.

        Raises:
            CommandError: The arguments lead psql to another server.
            subprocess.CalledProcessError: psql failed.
        """
        options = _connect_arguments(self.connection.get_connection_params())
        with self.connection.wrap_database_errors:
            try:
                with used(as_django_settings):
                    command, child = psql_command(self.executable_name, [*parameters], options)
            except ConfigError as error:
                raise CommandError(str(error)) from None
        # psql handles Ctrl-C: it cancels its query
        previous_handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with self.connection.wrap_database_errors, child.exported() as environ:
                subprocess.run(command, env=environ, check=True)  # noqa: S603
        except (OSError, subprocess.CalledProcessError) as ex:
            raise ex.with_traceback(None)  # noqa: B904  # itself; its frames hold the token
        finally:
            signal.signal(signal.SIGINT, previous_handler)


class DatabaseCreation(creation.DatabaseCreation):
    """Creates test databases without PgBouncer, whose idle connections would prevent their drop."""

    connection: DatabaseWrapper

    def _create_test_db(self, *args: Any, **kwargs: Any) -> str:
        self.connection.bypass_pgbouncer()
        # If an app ran a query while it loaded, its pool is connected to the real database
        self.connection.close()
        self.connection.close_pool()
        return super()._create_test_db(*args, **kwargs)  # type: ignore[misc, no-any-return]

    def set_as_test_mirror(self, primary_settings_dict: dict[str, Any]) -> None:
        """Use the test database of another alias, without PgBouncer as that alias does.

        Args:
            primary_settings_dict: The settings of the other alias.
        """
        super().set_as_test_mirror(primary_settings_dict)
        primary_settings_dict = {}  # tracebacks show this frame, and they contain a password
        self.connection.bypass_pgbouncer()


class DatabaseWrapper(base.DatabaseWrapper):
    """A Django database connection over verified TLS, authenticated with Microsoft Entra ID."""

    Database = _database_module
    client_class = DatabaseClient
    creation_class = DatabaseCreation

    _connection_pools: dict[str, ConnectionPool[Any]]
    _configure_connection: Callable[[psycopg.Connection[Any]], None]

    def get_connection_params(self) -> dict[str, Any]:
        """Return the arguments of `azpg.connect`, which do not include a token."""
        # Hide the secrets in the settings, because tracebacks show OPTIONS in Django's frames.
        # PASSWORD is in no frame, and other code may read it.
        hidden = hide_secrets(self.settings_dict["OPTIONS"], known=_NON_SECRET_OPTIONS)
        self.settings_dict["OPTIONS"] = hidden
        params = self._connect_params()
        if self.settings_dict["OPTIONS"].get("assume_role") and self._resolve(params).pgbouncer:
            raise ImproperlyConfigured(
                f"DATABASES[{self.alias!r}]: assume_role sets the role of a session, and behind "
                f"PgBouncer other clients share the session: leave out assume_role, or go past "
                f"PgBouncer (no OPTIONS['pgbouncer'], PORT 5432)"
            )
        return params

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Return a new connection, or one from the pool.

        Args:
            conn_params: What `get_connection_params()` returned.

        Raises:
            ImproperlyConfigured: The settings are invalid; it lists every problem.
        """
        try:
            with used(as_django_settings):
                return super().get_new_connection(conn_params)
        except ConfigError as error:
            raise self._improperly_configured(error) from None

    @property
    def pool(self) -> ConnectionPool[Any] | None:
        """The pool of this alias, shared by all threads, or None if OPTIONS has no "pool"."""
        if self.alias == NO_DB_ALIAS or not self.settings_dict["OPTIONS"].get("pool"):
            return None
        if self.alias not in self._connection_pools:
            if self.settings_dict.get("CONN_MAX_AGE", 0) != 0:
                raise ImproperlyConfigured(
                    f"Pooling doesn't support persistent connections. (DATABASES[{self.alias!r}]: "
                    f"leave out CONN_MAX_AGE, or OPTIONS['pool'])"
                )
            params = self.get_connection_params()
            pool_options = self.settings_dict["OPTIONS"]["pool"]
            health_checks = self.settings_dict["CONN_HEALTH_CHECKS"]
            defaults: dict[str, Any] = {
                "check": ConnectionPool.check_connection if health_checks else None
            }
            defaults["connection_class"] = _DatabaseConnection
            with used(as_django_settings):
                pool = ConnectionPool(
                    kwargs=params | {"autocommit": True},
                    open=False,
                    configure=self._configure_connection,
                    **(defaults if pool_options is True else defaults | pool_options),
                )
            self._connection_pools.setdefault(self.alias, pool)
        return self._connection_pools[self.alias]

    def chunked_cursor(self) -> Any:
        """Return a server-side cursor, or a client-side one with PgBouncer.

        PgBouncer's transaction mode would run the cursor's statements on different server
        connections. Set `"DISABLE_SERVER_SIDE_CURSORS": False` if it is in session mode.
        """
        allowed = self.settings_dict.get("DISABLE_SERVER_SIDE_CURSORS") is False
        if not allowed and self._resolve(self._connect_params()).pgbouncer:
            return self.cursor()
        return super().chunked_cursor()

    def bypass_pgbouncer(self) -> None:
        """Change the port in the settings from PgBouncer's to PostgreSQL's, for every thread."""
        plan = self._resolve(self._connect_params())
        if plan.pgbouncer:
            ports = plan.params["port"].split(",")
            self.settings_dict["PORT"] = ",".join(_DIRECT_PORTS.get(port, port) for port in ports)
            self.settings_dict["OPTIONS"] = self.settings_dict["OPTIONS"] | {"pgbouncer": False}

    def _connect_params(self) -> dict[str, Any]:
        settings = dict(self.settings_dict)
        for name, keyword in _SETTING_KEYWORDS.items():
            settings[name] = hide_secret(keyword, settings[name])
        with_name = copy.copy(self)
        # Django requires NAME or a service, and drops the service if NAME is None
        with_name.settings_dict = {**settings, "NAME": settings["NAME"] or "postgres"}
        params: dict[str, Any] = super(DatabaseWrapper, with_name).get_connection_params()
        if settings["NAME"] == "" and "dbname" not in settings["OPTIONS"]:
            del params["dbname"]
        return hide_secrets(params)

    def _resolve(self, params: dict[str, Any]) -> ResolvedConfig:
        try:
            options = ConnectOptions.from_mapping(_connect_arguments(params))
            with used(as_django_settings):
                return ConnectRequest(options, is_async=False).config
        except ConfigError as error:
            raise self._improperly_configured(error) from None

    def _improperly_configured(self, error: ConfigError) -> ImproperlyConfigured:
        return ImproperlyConfigured(
            f"DATABASES[{self.alias!r}] cannot be used:\n{error}\n"
            f"HINT: HOST, PORT, NAME, USER and PASSWORD are host, port, dbname, user and "
            f"password; everything else goes into OPTIONS."
        )


def _connect_arguments(params: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters without those of psycopg's connection object."""
    return {name: value for name, value in params.items() if name not in PSYCOPG_OPTIONS}
