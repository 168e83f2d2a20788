"""connect() for asyncpg: its own connection, made by azpg's rules."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl as tls
import sys
from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg
from asyncpg.exceptions import (
    ClientConfigurationError,
    ConnectionDoesNotExistError,
    InternalClientError,
)

from azpg._redact import quote

from ._connect import ConnectRequest
from ._conninfo.options import ConnectOptions, hide_secrets
from ._libpq import NONEXISTENT_FILE, libpq_info
from ._redact import redact
from ._tls import ssl_context
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
    timeout: float | Unset | None = UNSET,  # noqa: ASYNC109  # asyncpg's own
    statement_cache_size: int | Unset = UNSET,
    server_settings: Mapping[str, str] | None = None,
    **kwargs: Any,
) -> asyncpg.Connection[Any]:
    """Connect to Azure Database for PostgreSQL and return asyncpg's new connection.

    It is what `asyncpg.create_pool(connect=azpg.asyncpg.connect, …)` and SQLAlchemy's
    `async_creator_fn` take. `server` to `retry_timeout` are the options of `azpg.connect_async`;
    the rest are asyncpg's, and libpq's keywords, such as `hostaddr` and `sslrootcert`. `dsn` is
    read as libpq reads it: a setting of the server goes into `server_settings`.

    `ssl` is an sslmode, or a context of your own, which has to verify the server. `timeout` is
    how many seconds one try may take, by default 15. `statement_cache_size` is 0
    under PgBouncer, unless you give it.

    Raise `ConfigError` for a call that cannot be meant, with all its problems; `ConnectError`
    or one of its kinds when no connection could be made.

    >>> conn = await azpg.asyncpg.connect(server="myserver", database="mydb")
    >>> await conn.fetchval("select 1")
    1
    >>> await conn.close()
    """
    handled = sys.exception()
    request: ConnectRequest | None = None
    try:
        libpq = {name: kwargs.pop(name) for name in [*kwargs] if name in libpq_info().variables}
        libpq |= {"host": _joined(host), "port": _joined(port), "user": user}
        kwargs = hide_secrets(kwargs)  # error reports show the variables of this frame
        if database is not None:
            libpq["dbname"] = database
        if isinstance(ssl, bool):
            ssl = "verify-full" if ssl else "disable"
        if isinstance(ssl, str):
            libpq["sslmode"] = ssl
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
        if statement_cache_size is not UNSET or config.pgbouncer:
            size = 0 if statement_cache_size is UNSET else statement_cache_size
            kwargs["statement_cache_size"] = size
        while True:
            try:
                conn = await _connected(
                    request,
                    own_context,
                    server_settings or {},
                    kwargs,
                )
            except psycopg.Error as error:
                delay = request.handle_failure(error)
                if delay is None:
                    raise
            else:
                _keep_alive(conn, config.params)
                return conn
            await asyncio.sleep(delay)
    except BaseException as error:
        dsn, libpq, password, kwargs, request = None, {}, None, {}, None
        redact_exception(error, handled)
        raise


async def _connected(
    request: ConnectRequest,
    own_context: tls.SSLContext | None,
    server_settings: Mapping[str, str],
    kwargs: Mapping[str, Any],
) -> asyncpg.Connection[Any]:
    """Connect once; raise what fails as an error of psycopg's with libpq's message."""
    params = request.params(await request.login_async(), await request.resolve_hosts_async())
    arguments = _arguments(params, own_context, server_settings)
    try:
        conn: asyncpg.Connection[Any] = await asyncpg.connect(**arguments, **kwargs)
    except ClientConfigurationError as error:
        raise ConfigError(redact(str(error))) from None
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, InternalClientError) as error:
        message = _in_libpqs_words(error, request.config.params)
        raise psycopg.OperationalError(message) from error
    except (AttributeError, LookupError, UnicodeDecodeError) as error:
        # Raised by asyncpg's own code for messages that no PostgreSQL server sends
        what = f"asyncpg cannot read the server's answer ({type(error).__name__}: {error})"
        message = _in_libpqs_words(InternalClientError(what), request.config.params)
        raise psycopg.OperationalError(message) from error
    return conn


def _joined(given: object) -> object:
    return ",".join(map(str, given)) if isinstance(given, list | tuple) else given


# What libpq would be handed, as asyncpg takes it

_KEEPALIVES = {
    "keepalives_idle": "TCP_KEEPIDLE",
    "keepalives_interval": "TCP_KEEPINTVL",
    "keepalives_count": "TCP_KEEPCNT",
    "tcp_user_timeout": "TCP_USER_TIMEOUT",
}

_HANDED_ON = _KEEPALIVES.keys() | {
    "application_name", "connect_timeout", "dbname", "fallback_application_name", "gsslib", "host",
    "hostaddr", "keepalives", "krbsrvname", "options", "passfile", "port", "service", "sslcert",
    "sslcrl", "sslkey", "sslkeylogfile", "sslmode", "sslnegotiation", "sslrootcert",
    "ssl_max_protocol_version", "ssl_min_protocol_version", "target_session_attrs", "user",
}  # fmt: skip

_DONE_ANYWAY = {
    "channel_binding": ("disable", "prefer"),
    "client_encoding": ("auto", "utf8", "utf-8"),
    "gssencmode": ("disable", "prefer"),
    "load_balance_hosts": ("disable",),
    "sslcertmode": ("allow", "disable"),
    "sslcompression": ("0",),
    "sslsni": ("1",),
}


def _check_support(config: ResolvedConfig, own_context: tls.SSLContext | None) -> None:
    """Raise `ConfigError` for what libpq would do and asyncpg cannot."""
    if problems := [*_problems(config, own_context)]:
        raise ConfigError(problems)


def _problems(plan: ResolvedConfig, own: tls.SSLContext | None) -> Iterator[str]:
    params = plan.params
    for name, value in params.items():
        if value and name not in _HANDED_ON and value.lower() not in _DONE_ANYWAY.get(name, ()):
            yield (
                f"asyncpg has no {name} (here {quote(value)}): leave it out, or use connect_async()"
            )
    for name in _KEEPALIVES:
        if not params.get(name, "0").isdecimal():
            yield f"{name}={quote(params[name])} is no whole number"
    places = set(zip(_split(params, "hostaddr"), _split(params, "host"), strict=False))
    if len({address for address, _ in places}) < len(places):
        yield "hostaddr leads to one address for hosts of several names: connect to one of them"
    if own is not None and params.get("sslmode") == "verify-full":
        if unfit := ssl_context.unfit(own):
            yield f"the ssl context is none for this sign-in, as {unfit}: leave out ssl="
        if plan.lookup_hosts or params.get("hostaddr"):
            yield (
                "an ssl context of your own verifies the address that is reached, not the name: "
                "leave out ssl=, and write your roots' file as sslrootcert="
            )


def _split(params: Mapping[str, str], name: str) -> list[str]:
    return params[name].split(",") if params.get(name) else []


def _arguments(
    params: Mapping[str, str],
    own: tls.SSLContext | None,
    server_settings: Mapping[str, str],
) -> dict[str, Any]:
    """Return also what asyncpg would otherwise look up in the environment."""
    hosts = _split(params, "host")
    addresses = _split(params, "hostaddr") or hosts
    mode = params.get("sslmode", "disable")
    context: tls.SSLContext | str | bool = mode
    if own is not None:
        context = own
    elif mode in {"require", "verify-ca", "verify-full"}:
        context = ssl_context.context(params, dict(zip(addresses, hosts, strict=False)))
    settings = {
        "application_name": params.get("application_name") or params["fallback_application_name"],
        "options": params.get("options"),
    }
    secret = params.get("password", "" if params.get("passfile") == NONEXISTENT_FILE else None)
    seconds = float(params["connect_timeout"])
    return {
        "host": addresses,
        "port": [int(port) for port in _split(params, "port")],
        "user": params.get("user"),
        # No text: asyncpg shows that to its query loggers. Its SCRAM takes no subclass of str.
        "password": None if secret is None else lambda: str(secret),
        "passfile": params.get("passfile"),
        "database": params.get("dbname"),
        "ssl": context,
        "direct_tls": params.get("sslnegotiation") == "direct",
        "target_session_attrs": params.get("target_session_attrs") or "any",
        "timeout": seconds if seconds > 0 else None,
        "server_settings": {**{k: v for k, v in settings.items() if v}, **server_settings},
    } | {name: params[name] for name in ("gsslib", "krbsrvname") if params.get(name)}


def _keep_alive(conn: asyncpg.Connection[Any], params: Mapping[str, str]) -> None:
    """Do to the socket what libpq does: Azure's load balancer drops idle connections in silence."""
    sock = conn._transport.get_extra_info("socket")  # type: ignore[attr-defined]  # noqa: SLF001
    if sock.family in {socket.AF_INET, socket.AF_INET6} and params.get("keepalives") != "0":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for keyword, option in _KEEPALIVES.items():
            if params.get(keyword) and hasattr(socket, option):
                number = getattr(socket, option)
                sock.setsockopt(socket.IPPROTO_TCP, number, int(params[keyword]))


# What went wrong

_OTHER_NAME = {62, 64}
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH."""


def _in_libpqs_words(error: BaseException, params: Mapping[str, str]) -> str:
    """Return the text of a failure of asyncpg's or Python's, which failures are told by."""
    host = params.get("host") or params["hostaddr"]
    if isinstance(error, socket.gaierror):
        return f"failed to resolve host {host!r}: {error}"
    text = str(error)
    if isinstance(error, tls.SSLCertVerificationError):
        text = f"certificate verify failed: {error.verify_message}"
        if error.verify_code in _OTHER_NAME:
            text = f"the certificate does not match host name: {error.verify_message}"
    elif isinstance(error, tls.SSLEOFError | ConnectionDoesNotExistError):
        text = f"server closed the connection unexpectedly ({text})"
    elif isinstance(error, tls.SSLError):
        text = f"SSL error: {text}"
    elif isinstance(error, TimeoutError) and not text:
        text = "timeout expired"
    elif "connection_lost" in text or "closed during TLS" in text:
        text = "server closed the connection unexpectedly"
    elif "rejected SSL upgrade" in text:
        text = "server does not support SSL, but SSL was required"
    elif isinstance(error, OSError):
        # asyncio has the numbers only
        reasons = {os.strerror(int(number)) for number in re.findall(r"\[Errno (\d+)\]", text)}
        text = f"{', '.join(sorted(reasons))}: {text}" if reasons else text
    return f'connection to server at "{host}", port {params["port"]} failed: {text}'
