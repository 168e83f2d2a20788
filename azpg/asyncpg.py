"""connect() for asyncpg: an asyncpg connection with azpg's authentication and TLS."""

from __future__ import annotations

import os
import re
import socket
import ssl as tls
import sys
from typing import TYPE_CHECKING, Any

import psycopg

try:
    import asyncpg
    from asyncpg.exceptions import (
        ClientConfigurationError,
        ConnectionDoesNotExistError,
        InternalClientError,
    )
except ModuleNotFoundError as error:
    if error.name != "asyncpg":
        raise
    raise ModuleNotFoundError(
        "azpg.asyncpg needs a package: pip install 'asyncpg>=0.30'", name="asyncpg"
    ) from error

from . import _deadline, _spelling
from ._connect import ConnectRequest
from ._conninfo.options import ConnectOptions, hide_secrets
from ._libpq import NONEXISTENT_FILE, libpq_info
from ._pgbouncer import Announcement, read_announcement
from ._redact import quote, redact
from ._tls.ssl_context import create_ssl_context, insecure_reason
from ._tracebacks import redact_exception
from .abc import UNSET, Unset
from .errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ._clouds import Cloud
    from ._conninfo.resolve import ResolvedConfig
    from .abc import AsyncPassword, Credential

__all__ = ["connect"]


async def connect(
    dsn: str | None = None,
    *,
    server: str | None = None,
    credential: Credential | None = None,
    client_id: str | None = None,
    password: AsyncPassword | None = None,
    pgbouncer: bool | None = None,
    cloud: Cloud | str | None = None,
    retry_timeout: float | None = None,
    host: str | Sequence[str] | None = None,
    port: int | str | Sequence[int | str] | None = None,
    user: str | None = None,
    database: str | None = None,
    ssl: bool | str | tls.SSLContext | None = None,
    direct_tls: bool | None = None,
    timeout: float | Unset | None = UNSET,  # noqa: ASYNC109  # asyncpg's name
    statement_cache_size: int | Unset = UNSET,
    server_settings: Mapping[str, str] | None = None,
    **kwargs: Any,
) -> asyncpg.Connection[Any]:
    """Connect to Azure Database for PostgreSQL and return an asyncpg connection.

    Pass this function to `asyncpg.create_pool(connect=azpg.asyncpg.connect, …)`, or to SQLAlchemy
    as `async_creator_fn`.

    Args:
        dsn: Connection string of libpq, as key/value pairs or as a URI. Settings of the server go
            into `server_settings`.
        server: Name of the server, for example "myserver" or its full host name.
        credential: An azure-identity credential, sync or async, or a function that returns one.
            Default: one `DefaultAzureCredential` per process.
        client_id: Client ID of the managed or workload identity that the default credential uses.
        password: Password of a PostgreSQL role, instead of Microsoft Entra: text, or a sync or
            async function that is called for each new connection.
        pgbouncer: True connects to PgBouncer (port 6432). Default: the port decides.
        cloud: An `azpg.Cloud` or its name. Default: the cloud of the host.
        retry_timeout: Seconds within which transient failures are retried; 0 for a single attempt.
            Default: 30, or `timeout` if you pass a smaller one.
        host: Host to connect to, or several, for example the local end of a tunnel. The
            certificate is still verified against `server`.
        port: Port, or one for each host. Default: 5432, or 6432 with `pgbouncer=True`.
        user: Name of the PostgreSQL role. Default: the role that the token names.
        database: Name of the database.
        ssl: True (verify-full), False, an sslmode such as "verify-full", or your own
            `ssl.SSLContext`, which must verify the server.
        direct_tls: Whether to begin with the TLS handshake instead of an SSLRequest.
        timeout: Seconds that one attempt may take; None for unlimited. Default: 15.
        statement_cache_size: Size of asyncpg's cache of prepared statements. Default: asyncpg's,
            or 0 with PgBouncer.
        server_settings: Run-time parameters of the session, by name.
        **kwargs: Further keywords of libpq, such as `sslrootcert`, and arguments of
            `asyncpg.connect`, such as `connection_class`.

    Returns:
        The connection.

    Raises:
        ConfigError: The arguments are invalid, contradict each other, or ask for what asyncpg does
            not support; it lists every problem.
        ConnectError: The connection failed, as one of its subclasses, such as `LoginError`.

    >>> conn = await azpg.asyncpg.connect(server="myserver", database="mydb")
    >>> await conn.fetchval("select 1")
    1
    >>> await conn.close()
    """
    handled = sys.exception()
    spelling = _spelling.use(_spelling.as_asyncpg_arguments)
    request: ConnectRequest | None = None
    try:
        libpq = {name: kwargs.pop(name) for name in [*kwargs] if name in libpq_info().variables}
        libpq |= {"host": _join_list(host), "port": _join_list(port), "user": user}
        kwargs = hide_secrets(kwargs)  # error reports show the variables of this frame
        if database is not None:
            libpq["dbname"] = database
        if not isinstance(ssl, tls.SSLContext):
            libpq["ssl"] = ssl
        if direct_tls is not None:
            libpq["sslnegotiation"] = "direct" if direct_tls else "postgres"
        if timeout is not UNSET:
            libpq["connect_timeout"] = timeout or 0
        request = ConnectRequest(
            ConnectOptions(
                conninfo=dsn or "",
                keywords=libpq,
                server=server,
                credential=credential,
                client_id=client_id,
                password=password,
                pgbouncer=pgbouncer,
                cloud=cloud,
                retry_timeout=retry_timeout,
            ),
            is_async=True,
        )
        dsn, libpq, password = None, {}, None
        config = request.config
        own_context = ssl if isinstance(ssl, tls.SSLContext) else None
        _check_support(config, own_context)
        request.add_settings(server_settings or {}, "⟦options⟧")
        if statement_cache_size is not UNSET or config.pgbouncer:
            size = 0 if statement_cache_size is UNSET else statement_cache_size
            kwargs["statement_cache_size"] = size
        while True:
            try:
                with request.attempt():
                    conn = await _connect(request, own_context, server_settings or {}, kwargs)
            except psycopg.Error as error:
                delay = request.handle_failure(error)
                if delay is None:
                    raise
            else:
                _set_keepalives(conn, config.params)
                if kwargs.get("statement_cache_size") != 0:
                    request.check_announcement(_announcement(conn))
                return conn
            await _deadline.sleep_async(delay)
    except BaseException as error:
        dsn, libpq, password, kwargs, request = None, {}, None, {}, None
        redact_exception(error, handled)
        raise
    finally:
        _spelling.use(spelling)


async def _connect(
    request: ConnectRequest,
    own_context: tls.SSLContext | None,
    server_settings: Mapping[str, str],
    kwargs: Mapping[str, Any],
) -> asyncpg.Connection[Any]:
    """Connect once; raise a failure as a psycopg error with libpq's message."""
    params = request.params(await request.login_async(), await request.resolve_hosts_async())
    arguments = _to_asyncpg_arguments(params, own_context, server_settings)
    try:
        conn: asyncpg.Connection[Any] = await asyncpg.connect(**arguments, **kwargs)
    except ClientConfigurationError as error:
        raise ConfigError(redact(str(error))) from None
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, InternalClientError) as error:
        message = _to_libpq_message(error, request.config.params)
        raise psycopg.OperationalError(message) from error
    except (AttributeError, LookupError, UnicodeDecodeError) as error:
        # Raised by asyncpg's own code for messages that no PostgreSQL server sends
        what = f"asyncpg cannot read the server's answer ({type(error).__name__}: {error})"
        message = _to_libpq_message(InternalClientError(what), request.config.params)
        raise psycopg.OperationalError(message) from error
    return conn


def _join_list(value: object) -> object:
    """Return a sequence as libpq's comma-separated list, and any other value as it is."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else value


# libpq's parameters as asyncpg's arguments

_KEEPALIVES = {
    "keepalives_idle": "TCP_KEEPIDLE",
    "keepalives_interval": "TCP_KEEPINTVL",
    "keepalives_count": "TCP_KEEPCNT",
    "tcp_user_timeout": "TCP_USER_TIMEOUT",
}

_SUPPORTED = _KEEPALIVES.keys() | {
    "application_name", "connect_timeout", "dbname", "fallback_application_name", "gsslib", "host",
    "hostaddr", "keepalives", "krbsrvname", "options", "passfile", "port", "service", "sslcert",
    "sslcrl", "sslkey", "sslkeylogfile", "sslmode", "sslnegotiation", "sslrootcert",
    "ssl_max_protocol_version", "ssl_min_protocol_version", "target_session_attrs", "user",
}  # fmt: skip

_IMPLIED = {
    "channel_binding": ("disable", "prefer"),
    "client_encoding": ("auto", "utf8", "utf-8"),
    "gssencmode": ("disable", "prefer"),
    "load_balance_hosts": ("disable",),
    "sslcertmode": ("allow", "disable"),
    "sslcompression": ("0",),
    "sslsni": ("1",),
}
"""Keyword that asyncpg does not support -> values that describe what asyncpg does anyway."""


def _check_support(config: ResolvedConfig, own_context: tls.SSLContext | None) -> None:
    """Raise `ConfigError` for what libpq would do and asyncpg cannot."""
    if problems := [*_find_problems(config, own_context)]:
        raise ConfigError(problems)


def _find_problems(config: ResolvedConfig, own_context: tls.SSLContext | None) -> Iterator[str]:
    params = config.params
    for name, value in params.items():
        if value and name not in _SUPPORTED and value.lower() not in _IMPLIED.get(name, ()):
            yield (
                f"asyncpg has no {name} (here {quote(value)}): leave it out, or use connect_async()"
            )
    for name in _KEEPALIVES:
        if not params.get(name, "0").isdecimal():
            yield f"{name}={quote(params[name])} is not a whole number"
    targets = set(zip(_split_list(params, "hostaddr"), _split_list(params, "host"), strict=False))
    if len({address for address, _ in targets}) < len(targets):
        yield "hostaddr leads to one address for hosts of several names: connect to one of them"
    if own_context is not None and params.get("sslmode") == "verify-full":
        if reason := insecure_reason(own_context):
            yield f"the ssl context does not protect this login, because {reason}: leave out ⟦ssl=⟧"
        if config.lookup_hosts or params.get("hostaddr"):
            yield (
                "an ssl context of your own verifies the address that is reached, not the name: "
                "leave out ⟦ssl=⟧, and write your roots' file as ⟦sslrootcert=⟧"
            )


def _split_list(params: Mapping[str, str], name: str) -> list[str]:
    return params[name].split(",") if params.get(name) else []


def _to_asyncpg_arguments(
    params: Mapping[str, str],
    own_context: tls.SSLContext | None,
    server_settings: Mapping[str, str],
) -> dict[str, Any]:
    """Return asyncpg's arguments for libpq's parameters.

    They include whatever asyncpg would otherwise look up in the environment.
    """
    hosts = _split_list(params, "host")
    addresses = _split_list(params, "hostaddr") or hosts
    mode = params.get("sslmode", "disable")
    context: tls.SSLContext | str | bool = mode
    if own_context is not None:
        context = own_context
    elif mode in {"require", "verify-ca", "verify-full"}:
        context = create_ssl_context(params, dict(zip(addresses, hosts, strict=False)))
    settings = {
        "application_name": params.get("application_name") or params["fallback_application_name"],
        "options": params.get("options"),
    }
    secret = params.get("password", "" if params.get("passfile") == NONEXISTENT_FILE else None)
    seconds = float(params["connect_timeout"])
    return {
        "host": addresses,
        "port": [int(port) for port in _split_list(params, "port")],
        "user": params.get("user"),
        # A function, because asyncpg passes a text to its query loggers. It returns a plain str,
        # because asyncpg's SCRAM takes no subclass of it.
        "password": None if secret is None else lambda: str(secret),
        "passfile": params.get("passfile"),
        "database": params.get("dbname"),
        "ssl": context,
        "direct_tls": params.get("sslnegotiation") == "direct",
        "target_session_attrs": params.get("target_session_attrs") or "any",
        "timeout": seconds if seconds > 0 else None,
        "server_settings": {**{k: v for k, v in settings.items() if v}, **server_settings},
    } | {name: params[name] for name in ("gsslib", "krbsrvname") if params.get(name)}


def _set_keepalives(conn: asyncpg.Connection[Any], params: Mapping[str, str]) -> None:
    """Set TCP keepalives as libpq does.

    Azure's load balancer silently drops connections that are idle for 4 minutes
    (https://learn.microsoft.com/azure/load-balancer/load-balancer-tcp-reset, 2026-11-27). That it
    is in the path to a flexible server is an assumption.
    """
    sock = conn._transport.get_extra_info("socket")  # type: ignore[attr-defined]  # noqa: SLF001
    if sock.family in {socket.AF_INET, socket.AF_INET6} and params.get("keepalives") != "0":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for keyword, option in _KEEPALIVES.items():
            if params.get(keyword) and hasattr(socket, option):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), int(params[keyword]))


def _announcement(conn: asyncpg.Connection[Any]) -> Announcement | None:
    """Return what PgBouncer announced on a connection, or None."""
    settings = conn.get_settings()
    return read_announcement(lambda name: getattr(settings, name, None))


# Failures as libpq reports them

_NAME_MISMATCH_CODES = {62, 64}
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH."""


def _to_libpq_message(error: BaseException, params: Mapping[str, str]) -> str:
    """Return the message that libpq has for a failure, because failures are classified by it."""
    host = params.get("host") or params["hostaddr"]
    if isinstance(error, socket.gaierror):
        return f"failed to resolve host {host!r}: {error}"
    message = str(error)
    if isinstance(error, tls.SSLCertVerificationError):
        message = f"certificate verify failed: {error.verify_message}"
        if error.verify_code in _NAME_MISMATCH_CODES:
            message = f"the certificate does not match host name: {error.verify_message}"
    elif isinstance(error, tls.SSLEOFError | ConnectionDoesNotExistError):
        message = f"server closed the connection unexpectedly ({message})"
    elif isinstance(error, tls.SSLError):
        message = f"SSL error: {message}"
    elif isinstance(error, TimeoutError) and not message:
        message = "timeout expired"
    elif "connection_lost" in message or "closed during TLS" in message:
        message = "server closed the connection unexpectedly"
    elif "rejected SSL upgrade" in message:
        message = "server does not support SSL, but SSL was required"
    elif isinstance(error, OSError):
        # asyncio's message for several addresses has only the error numbers
        reasons = {os.strerror(int(number)) for number in re.findall(r"\[Errno (\d+)\]", message)}
        message = f"{', '.join(sorted(reasons))}: {message}" if reasons else message
    return f'connection to server at "{host}", port {params["port"]} failed: {message}'
