"""Django's own PostgreSQL backend, connected as azpg connects."""

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

from azpg._child_env import psql
from azpg._connect import ConnectRequest
from azpg._conninfo.options import PSYCOPG_OPTIONS, ConnectOptions, hide_secret, hide_secrets
from azpg._conninfo.resolve import PGBOUNCER_PORTS
from azpg.connection import Connection
from azpg.errors import ConfigError, clean
from azpg.pool import ConnectionPool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from azpg._conninfo.resolve import ResolvedConfig

_KEYWORDS = {
    "NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"
}  # fmt: skip
_POOLS = set(inspect.signature(ConnectionPool).parameters) - {"conninfo", "kwargs"}
_NOT_SECRET = {"assume_role", "isolation_level", *_POOLS}
_DIRECT = {pooled: direct for direct, pooled in PGBOUNCER_PORTS.items()}

_psycopg = ModuleType("psycopg", psycopg.__doc__)
vars(_psycopg).update(vars(psycopg), connect=Connection.connect)


class DatabaseClient(client.DatabaseClient):
    """psql, with a fresh token in a password file that is there for psql alone."""

    connection: DatabaseWrapper

    def runshell(self, parameters: Iterable[str]) -> None:
        """Run psql with arguments of its own: `manage.py dbshell -- -c "select 1"`."""
        options = _options(self.connection.get_connection_params())
        with self.connection.wrap_database_errors:
            try:
                command, child = psql(self.executable_name, [*parameters], options)
            except ConfigError as error:
                raise CommandError(str(error)) from None
        # Ctrl-C is for psql, which cancels its query
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with self.connection.wrap_database_errors, child.exported() as environ:
                subprocess.run(command, env=environ, check=True)  # noqa: S603
        except (OSError, subprocess.CalledProcessError) as ex:
            raise ex.with_traceback(None)  # noqa: B904  # itself; its frames hold the token
        finally:
            signal.signal(signal.SIGINT, before)


class DatabaseCreation(creation.DatabaseCreation):
    """Test databases, past PgBouncer: its idle connections would keep them from being dropped."""

    connection: DatabaseWrapper

    def _create_test_db(self, *args: Any, **kwargs: Any) -> str:
        self.connection.go_past_pgbouncer()
        # Of an app that has queried at its start: its pool would go on with the real database
        self.connection.close()
        self.connection.close_pool()
        return super()._create_test_db(*args, **kwargs)  # type: ignore[misc, no-any-return]

    def set_as_test_mirror(self, primary_settings_dict: dict[str, Any]) -> None:
        """Go to the test database of another connection, as directly as that one does."""
        super().set_as_test_mirror(primary_settings_dict)
        primary_settings_dict = {}  # they hold its password, and an error shows this frame
        self.connection.go_past_pgbouncer()


class DatabaseWrapper(base.DatabaseWrapper):
    """A Django connection, made over verified TLS and signed in with Microsoft Entra."""

    Database = _psycopg
    client_class = DatabaseClient
    creation_class = DatabaseCreation

    _connection_pools: dict[str, ConnectionPool[Any]]
    _configure_connection: Callable[[psycopg.Connection[Any]], None]

    def get_connection_params(self) -> dict[str, Any]:
        """Return what `azpg.connect` is called with; a token is no part of it."""
        # In the settings themselves, since frames of Django's hold OPTIONS, and errors show frames.
        # PASSWORD is in no frame, and stays the text that other code may read there.
        hidden = hide_secrets(self.settings_dict["OPTIONS"], known=_NOT_SECRET)
        self.settings_dict["OPTIONS"] = hidden
        params = self._params()
        if self.settings_dict["OPTIONS"].get("assume_role") and self._plan(params).pgbouncer:
            raise ImproperlyConfigured(
                f"DATABASES[{self.alias!r}]: assume_role sets the role of a session, and behind "
                f"PgBouncer other clients share the session: leave out assume_role, or go past "
                f"PgBouncer (no OPTIONS['pgbouncer'], PORT 5432)"
            )
        return params

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Connect, or take a connection of the pool.

        Raise Django's ImproperlyConfigured, with every problem, for settings that cannot be meant.
        """
        try:
            return super().get_new_connection(conn_params)
        except ConfigError as error:
            raise self._improper(error) from None

    @property
    def pool(self) -> ConnectionPool[Any] | None:
        """The pool of this alias, which the whole process shares; None where none is asked for."""
        if self.alias == NO_DB_ALIAS or not self.settings_dict["OPTIONS"].get("pool"):
            return None
        if self.alias not in self._connection_pools:
            if self.settings_dict.get("CONN_MAX_AGE", 0) != 0:
                raise ImproperlyConfigured(
                    f"Pooling doesn't support persistent connections. (DATABASES[{self.alias!r}]: "
                    f"leave out CONN_MAX_AGE, or OPTIONS['pool'])"
                )
            params = self.get_connection_params()
            asked = self.settings_dict["OPTIONS"]["pool"]
            checked = self.settings_dict["CONN_HEALTH_CHECKS"]
            options = {"check": ConnectionPool.check_connection if checked else None}
            pool = ConnectionPool(
                kwargs=params | {"autocommit": True},
                open=False,
                configure=self._configure_connection,
                **(options if asked is True else options | asked),
            )
            self._connection_pools.setdefault(self.alias, pool)
        return self._connection_pools[self.alias]

    def chunked_cursor(self) -> Any:
        """Return a cursor on the server, but where PgBouncer would part it from its connection.

        `"DISABLE_SERVER_SIDE_CURSORS": False`, written out, says that PgBouncer pools sessions.
        """
        allowed = self.settings_dict.get("DISABLE_SERVER_SIDE_CURSORS") is False
        if not allowed and self._plan(self._params()).pgbouncer:
            return self.cursor()
        return super().chunked_cursor()

    def go_past_pgbouncer(self) -> None:
        """Change the settings of this alias to PostgreSQL's own port, in every thread."""
        plan = self._plan(self._params())
        if plan.pgbouncer:
            ports = plan.params["port"].split(",")
            self.settings_dict["PORT"] = ",".join(_DIRECT.get(port, port) for port in ports)
            self.settings_dict["OPTIONS"] = self.settings_dict["OPTIONS"] | {"pgbouncer": False}

    def _params(self) -> dict[str, Any]:
        given = dict(self.settings_dict)
        for name, keyword in _KEYWORDS.items():
            given[name] = hide_secret(keyword, given[name])
        named = copy.copy(self)
        # Django insists on a name, and forgets the service of a connection that has none
        named.settings_dict = {**given, "NAME": given["NAME"] or "postgres"}
        params: dict[str, Any] = super(DatabaseWrapper, named).get_connection_params()
        if given["NAME"] == "" and "dbname" not in given["OPTIONS"]:
            del params["dbname"]
        return hide_secrets(params)

    def _plan(self, params: dict[str, Any]) -> ResolvedConfig:
        try:
            options = ConnectOptions.from_mapping(_options(params))
            return ConnectRequest(options, is_async=False).config
        except ConfigError as error:
            raise self._improper(clean(error)) from None

    def _improper(self, error: ConfigError) -> ImproperlyConfigured:
        return ImproperlyConfigured(
            f"DATABASES[{self.alias!r}] cannot be used:\n{error}\n"
            f"HINT: HOST, PORT, NAME, USER and PASSWORD are host, port, dbname, user and "
            f"password; all else stands in OPTIONS."
        )


def _options(params: dict[str, Any]) -> dict[str, Any]:
    """Return what says where to, as whom and how, without what psycopg makes of a connection."""
    return {name: value for name, value in params.items() if name not in PSYCOPG_OPTIONS}
