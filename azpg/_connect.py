"""What the sync and the async connect() share: configuration, secrets, errors, retries."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import logging
import math
import os
import random
import socket
import sys
import time
from functools import cache, lru_cache, partial
from types import MethodType
from typing import TYPE_CHECKING, NamedTuple, TypeGuard, cast

import psycopg

from . import _deadline, _jwt, _passfile, _retry
from ._attempt import Attempt, silent_addresses_last
from ._clouds import CLOUDS, Cloud, cloud_for_host, has_assumed_scope, token_resources
from ._conninfo import service_connector, sources
from ._conninfo.options import password_kind, type_errors
from ._conninfo.pgbouncer_settings import (
    DROPS_PREPARED_STATEMENTS,
    PREPARES_AT_ONCE,
    refused_setting_warnings,
    settings_in,
)
from ._conninfo.resolve import (
    OptionSummary,
    Platform,
    ResolvedConfig,
    resolve,
    with_addresses,
)
from ._conninfo.suggestions import (
    STRIP_LINE_BREAK,
    client_id_error,
    secret_placeholder_error,
)
from ._deadline import Deadline
from ._diagnosis.classify import BAD_TOKEN_KINDS, classify
from ._diagnosis.hints import HintContext, password_note
from ._diagnosis.patterns import EVENT_LOOP_HINT
from ._libpq import libpq_info, os_user_name, validation_error, with_native_paths
from ._redact import redact, sanitized
from ._spelling import spelled
from ._tls.roots import has_azure_root, replaceable_by, root_file, user_root_crt
from ._tokens.credentials import (
    credential_error,
    is_async_function,
    proxy_error,
    service_principal,
)
from ._tokens.entra import EntraPassword
from ._tokens.token import require_role, token_owner
from ._tracebacks import redact_exception, shows_token
from .errors import ConfigError, ConnectError, CredentialError, LibpqConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ._conninfo.options import ConnectOptions
    from ._conninfo.service_connector import ServiceIdentity
    from ._conninfo.sources import Parameter, Parameters
    from ._pgbouncer import Announcement
    from ._tokens.token import Token
    from .abc import Credential

logger = logging.getLogger("azpg")
pgbouncer_logger = logging.getLogger("azpg.pgbouncer")

CACHE_SIZE = 256
"""Number of resolved configurations, and of warnings, to remember. It is bounded, because a program
may generate its connection strings."""


class Login(NamedTuple):
    """The password for one attempt, and the user that a token names."""

    password: str | None
    user: str | None

    def __repr__(self) -> str:
        return f"<Login of user {self.user!r}>"


class ConnectRequest:
    """One request for a connection: what libpq is given, and what a failure of it means.

    Args:
        options: what the caller asked for.
        is_async: whether an async credential or password callback can be awaited.

    Raises:
        ConfigError: if the options are invalid or contradict each other; it lists every problem.
    """

    def __init__(self, options: ConnectOptions, *, is_async: bool) -> None:
        self._started = time.monotonic()
        self._pool_deadline = _deadline.CURRENT.get()
        self._handled = sys.exception()
        """what the caller is handling: the context of every error below, which stays as it is"""
        options = _without_wrapped_entra_password(options)
        resolved = _resolve_options(options, is_async=is_async)
        self.config = resolved.config
        self.prepare_threshold = None if self.config.pgbouncer else 5
        """psycopg's default; Azure's PgBouncer has max_prepared_statements = 0 until it is set
        (MicrosoftDocs/azure-databases-docs, pgbouncer-parameters-table.md, checked 2026-11-27)"""
        self.entra: EntraPassword | None = None
        """what acquires the tokens, if the connection authenticates with them"""
        self._secrets = dict(resolved.secrets)
        password = options.password
        if isinstance(password, str):
            self._secrets["password"] = password
        self._callback = cast("Callable[[], object]", password) if callable(password) else None
        if self.config.auth == "entra":
            self._secrets.pop("password", None)
            self.entra = _entra_password(options, resolved)
        self._password_place = resolved.password_place
        self._login = Login(None, None)
        self._is_given_token = False
        """the password is a Microsoft Entra token that azpg did not acquire"""
        self._rejected: tuple[str, ConnectError] | None = None
        """a token that the server rejected, and the error"""
        self._attempt_started = self._started
        self._connect_timeout = resolved.connect_timeout
        given = options.retry_timeout
        self._backoff = _retry.Backoff(
            resolved.retry_timeout if given is None else given, self._started
        )
        self._retry_timeout = given if given is not None and given > 0 else None
        """the caller's own"""
        self._is_limited = given > 0 if given is not None else not resolved.has_connect_timeout
        """whether the attempt must end when the retry timeout is over; a first attempt need not, if
        the caller gave only connect_timeout, which is for each address"""
        self._attempt = Attempt()
        self._settings: tuple[str, ...] = ()
        """the names of the settings that are given apart from `options`"""

    def add_settings(self, names: Iterable[str], option: str) -> None:
        """Take the names of further settings of the session, for warnings and hints.

        Args:
            names: The names.
            option: The option that has them, as a message names it.
        """
        self._settings = tuple(names)
        if self.config.pgbouncer and is_on_azure(self.config):
            for warning in refused_setting_warnings(self._settings, option):
                _warn_once(pgbouncer_logger, spelled(warning))

    def check_prepare_threshold(self, threshold: int | None) -> None:
        """Warn of a threshold of 0 behind PgBouncer, which is mistaken for none.

        Args:
            threshold: The `prepare_threshold` that the caller gave.
        """
        if threshold == 0 and self.config.pgbouncer:
            _warn_once(pgbouncer_logger, spelled(PREPARES_AT_ONCE))

    def check_announcement(self, announced: Announcement | None) -> None:
        """Warn if PgBouncer announced that prepared statements do not work, and they are on."""
        if announced is not None and announced.drops_prepared_statements:
            _warn_once(pgbouncer_logger, spelled(DROPS_PREPARED_STATEMENTS))

    def attempt(self) -> Attempt:
        """Return the next attempt, as the context manager to make it in."""
        deadline = self._pool_deadline
        self._attempt = Attempt(deadline.check_stopped if deadline is not None else None)
        self._attempt_started = time.monotonic()
        return self._attempt

    # The password

    def login(self) -> Login:
        """Return the password of the next attempt: a new one for every physical connection.

        Raises:
            CredentialError: if there is none.
            ConfigError: if it is a token that must not be sent to these servers.
        """
        if self.entra is not None:
            self._login = self._from_credential(self.entra.token(self._deadline()))
        elif self._callback is not None:
            try:
                password = self._callback()
            except Exception as error:  # noqa: BLE001  # the caller's code may raise anything
                raise _callback_error(error) from (None if shows_token(error) else error)
            self._login = self._from_callback(password)
        elif self.config.auth == "token":
            self._login = self._from_token(self._secrets["password"])
        return self._login

    async def login_async(self) -> Login:
        """Do the same without blocking the event loop: a sync callback runs in a thread."""
        running_loop()
        if self.entra is not None:
            self._login = self._from_credential(await self.entra.token_async(self._deadline()))
        elif self._callback is not None:
            try:
                password = await _call_maybe_async(self._callback)
            except Exception as error:  # noqa: BLE001  # the caller's code may raise anything
                raise _callback_error(error) from (None if shows_token(error) else error)
            self._login = self._from_callback(password)
        elif self.config.auth == "token":
            self._login = self._from_token(self._secrets["password"])
        return self._login

    def _deadline(self) -> Deadline | None:
        """Return when the caller stops waiting for a token, or None if the caller did not say."""
        deadlines = [] if self._pool_deadline is None else [self._pool_deadline]
        if self._connect_timeout is not None:
            seconds, source = self._connect_timeout
            deadlines.append(Deadline(self._attempt_started + seconds, seconds, source))
        if self._retry_timeout:
            at = self._started + self._retry_timeout
            source = f"⟦retry_timeout={self._retry_timeout:g}⟧"
            deadlines.append(Deadline(at, self._retry_timeout, source))
        if not deadlines:
            return None
        stopped = None if self._pool_deadline is None else self._pool_deadline.stopped
        return min(deadlines, key=lambda each: each.at)._replace(stopped=stopped)

    def _from_callback(self, returned: object) -> Login:
        password = _check_password(returned)
        if _is_token_for(password, self.config):
            return self._from_token(password)
        return Login(password, None)

    def _from_token(self, token: str) -> Login:
        self._is_given_token = True
        has_user = "user" in self.config.params
        return Login(token, None if has_user else require_role(_jwt.claims(token)))

    def _from_credential(self, token: Token) -> Login:
        if self._rejected is not None and token.text == self._rejected[0]:
            raise self._rejected[1]  # the credential has no other token
        has_user = "user" in self.config.params
        return Login(token.text, None if has_user else token.role())

    # The parameters

    def resolve_hosts(self) -> list[list[str]]:
        """Return the addresses of the hosts to connect to under the name of `server`."""
        return [_getaddrinfo(host) for host in self.config.lookup_hosts]

    async def resolve_hosts_async(self) -> list[list[str]]:
        """Do the same without blocking the event loop."""
        return [await asyncio.to_thread(_getaddrinfo, host) for host in self.config.lookup_hosts]

    def params(self, login: Login, addresses: list[list[str]]) -> dict[str, str]:
        """Return the parameters of one attempt, with the secrets."""
        params = silent_addresses_last(self.public_params(addresses)) | self._secrets
        now = time.monotonic()
        if self._is_limited:
            timeout = params["connect_timeout"]
            params["connect_timeout"] = self._backoff.attempt_timeout(timeout, now)
        if self.entra is not None and self._connect_timeout is not None:
            # The wait for the token was part of the attempt
            remaining = math.ceil(self._attempt_started + self._connect_timeout[0] - now)
            if remaining < float(params["connect_timeout"]):
                params["connect_timeout"] = str(max(_retry.LIBPQ_MIN_TIMEOUT_SECONDS, remaining))
        self._set_limits(params)
        if login.password is not None:
            params["password"] = login.password
        if login.user is not None:
            params["user"] = login.user
        if self._is_given_token:
            params.setdefault("dbname", "postgres")
        return params

    def _set_limits(self, params: Mapping[str, str]) -> None:
        end = self._started + self._backoff.retry_timeout if self._is_limited else math.inf
        if self._pool_deadline is not None:
            end = min(end, self._pool_deadline.at)
        addresses = max(params.get(name, "").count(",") for name in ("host", "hostaddr")) + 1
        if params.get("target_session_attrs") == "prefer-standby":
            addresses *= 2  # psycopg tries each as a standby, then each as any server
        self._attempt.set_limits(
            end=end,
            address_seconds=_retry.psycopg_timeout(params["connect_timeout"]),
            addresses=addresses,
        )

    def libpq_params(self, login: Login, addresses: list[list[str]]) -> dict[str, str]:
        """Return a value for every keyword of libpq, so that it reads none from the environment."""
        params = self.config.defaults | self.params(login, addresses)
        if "user" not in params and (name := os_user_name()) is not None:
            params["user"] = name
        return with_native_paths(params)

    def public_params(self, addresses: list[list[str]]) -> dict[str, str]:
        """Return the parameters without secrets, and without the user of a token."""
        params = self.config.params.copy()
        if addresses:
            params = with_addresses(params, addresses)
        if self.config.roots is not None:
            params["sslrootcert"] = root_file(self.config.roots)
        return params

    # Failures

    def handle_failure(self, error: psycopg.Error) -> float | None:
        """Decide what follows a failed attempt. Call it where the error is handled.

        Args:
            error: what the attempt failed with; if it is a driver's, it is redacted in place.

        Returns:
            The seconds to wait before the next attempt, or None to raise the error itself.

        Raises:
            ConnectError: what the driver's error means; its context is the driver's error.
        """
        if isinstance(error, ConnectError) or not isinstance(error, psycopg.OperationalError):
            if self._rejected is not None and error is not self._rejected[1]:
                raise self._rejected[1] from None
            return self._next_delay(error) if isinstance(error, CredentialError) else None
        # By the message as it was: a password could contain a word that a failure is told by
        found = classify(str(error), self._hint_context(str(error)))
        redact_exception(error, self._handled, self._redact)
        message = str(error)
        if issubclass(found.error, ConfigError):
            raise LibpqConfigError(message) from None
        failure = found.error(
            message,
            kind=found.kind,
            hint=found.hint,
            transient=found.transient,
            pgconn=error.pgconn,
        )
        if (delay := self._next_delay(failure)) is not None:
            return delay
        if self.entra is None or self._rejected or found.kind not in BAD_TOKEN_KINDS:
            raise failure from None
        # The server was verified, as always with tokens: try once more, with another token
        token = cast("str", self._login.password)
        self._rejected = token, failure
        self.entra.reject(token)
        return 0.0

    def _next_delay(self, failure: ConnectError) -> float | None:
        """Return the seconds to wait before the next attempt, or None if there must be none."""
        if not failure.transient:
            return None
        now = time.monotonic()
        # A failed token request is answered from the cache until the next request is due
        not_before = failure._retry_at if isinstance(failure, CredentialError) else None  # noqa: SLF001
        delay = self._backoff.next_delay(failure.kind, now, random.uniform, not_before)
        if delay is None:
            return None
        self._is_limited = True
        logger.warning("connecting again in %.1f s: %s", delay, failure)
        return delay

    def _redact(self, message: str) -> str:
        return redact(message, self._login.password, *self._secrets.values())

    def _hint_context(self, message: str) -> HintContext:
        params = self.config.params
        root_file = params.get("sslrootcert", "")
        is_token = self.entra is not None or self._is_given_token
        owner = token_owner(_jwt.claims((is_token and self._login.password) or ""))
        reads_roots = root_file and "certificate" in message
        return HintContext(
            host=params.get("host") or params.get("hostaddr", "the server"),
            port=params["port"],
            dbname=params.get("dbname", ""),
            user=params.get("user") or sanitized(self._login.user or ""),
            entra=is_token or self.config.auth == "token",
            scope=self.config.cloud.scope,
            assumed_scope_of=self.config.cloud.name if has_assumed_scope(self.config.cloud) else "",
            secret_length=len(self._login.password or ""),
            root_file=root_file,
            has_azure_root=has_azure_root(root_file) if reads_roots else None,
            has_pinned_roots=self.config.roots != "certifi",
            reached=self._attempt.reached,
            places=self._places(),
            password_note=password_note(self._login.password or self._secrets.get("password", "")),
            password_is_callback=self._callback is not None,
            settings=(*settings_in(params.get("options", "")), *self._settings),
            lookup_host=",".join(self.config.lookup_hosts),
            hostaddr=params.get("hostaddr", ""),
            token_role=owner.role,
            token_kind=owner.kind,
            token_object_id=owner.object_id,
        )

    def _places(self) -> dict[str, str]:
        """Return where the user finds the values that hints name."""
        places = dict(self.config.places)
        if self.entra is None and self._password_place is not None:
            places["password"] = self._password_place
        return places


# From the options to a configuration


class _Resolved(NamedTuple):
    config: ResolvedConfig
    secrets: Mapping[str, str]
    """the secret parameters, without a password that was an argument"""
    retry_timeout: float
    """seconds to retry for, if the caller gave no retry_timeout"""
    has_connect_timeout: bool
    """whether the caller gave a connect_timeout, be it 0 for none"""
    connect_timeout: tuple[float, str] | None
    """the seconds of one attempt, and the option that says so, if the caller gave them"""
    identity: ServiceIdentity | None
    """the identity of Service Connector's variables, if the host comes from them"""
    password_place: str | None
    """where the user finds the password; empty for an argument, None if there is none"""


def _resolve_options(options: ConnectOptions, *, is_async: bool) -> _Resolved:
    if type_problems := _check_types(options):
        raise ConfigError(type_problems)
    options, object_problems = _check_objects(options, is_async=is_async)
    environ = sources.environment()
    params, problems = sources.merge(options, environ)
    secret_keywords = libpq_info().secrets
    has_password = options.password is not None or "password" in params
    near_misses = sources.near_misses(
        params,
        options.conninfo,
        needs_server=options.server is options.cloud is None and not has_password,
    )
    if not options.password is options.credential is options.client_id is None:
        near_misses.pop("password", None)  # another way to authenticate is used
    for keyword in near_misses.keys() - secret_keywords:
        del params[keyword]
    problems += dict.fromkeys(near_misses.values())
    is_unreadable = bool(problems) and _conninfo_is_unreadable(options, params, environ)
    hosts_unreadable = is_unreadable or not near_misses.keys().isdisjoint(("host", "hostaddr"))
    timeout = params.get("connect_timeout")

    # No secret goes into the rules, whose results are cached
    secret_params = {name: params.pop(name) for name in secret_keywords & params.keys()}
    secrets = {name: parameter.value for name, parameter in secret_params.items()}
    password_parameter = secret_params["password"] if secrets.get("password") else None
    password_source = password_parameter.source if password_parameter is not None else None
    if isinstance(options.password, str):
        secrets.pop("password", None)
    token = _given_token(options, secrets)
    problems += object_problems
    if token is not None and (problem := _wrong_service_error(token)):
        problems.append(problem)
    root_file_parameter = params.get("sslrootcert")
    summary = OptionSummary(
        server=options.server,
        cloud=options.cloud,
        pgbouncer=options.pgbouncer,
        has_credential=options.credential is not None,
        has_client_id=options.client_id is not None,
        password_kind=password_kind(options.password),
        password_source=password_source,
        password_where=password_parameter.where if password_parameter is not None else "",
        password_is_token=token is not None,
        hosts_unreadable=hosts_unreadable,
        root_file_replaceable_by=replaceable_by(root_file_parameter.value)
        if root_file_parameter is not None and root_file_parameter.value
        else None,
        emulator_host=_emulator_host(environ),
        problems=tuple(problems),
    )
    if (
        options.credential is options.client_id is options.password is password_source is None
    ) and (password := _command_password(params, summary, environ)):
        secrets["password"] = password
        summary = _with_command_password(summary, _entra_claims(password, options.cloud))
    config = _cached_config(frozenset(params.items()), summary)
    for warning in config.warnings:
        _warn_once(logger, spelled(warning))
    for warning in config.pgbouncer_warnings:
        _warn_once(pgbouncer_logger, spelled(warning))
    for message in config.log_messages:
        logger.debug("%s", spelled(message))
    is_connector = sources.source_of(params, "host") == "Service Connector"
    return _Resolved(
        config=config,
        secrets=secrets,
        retry_timeout=_retry.default_retry_timeout(timeout.value if timeout is not None else None),
        has_connect_timeout=timeout is not None,
        connect_timeout=_given_connect_timeout(timeout),
        identity=service_connector.identity_from_environ(environ) if is_connector else None,
        password_place=_password_place(options, password_parameter),
    )


def _emulator_host(environ: Mapping[str, str]) -> str:
    """Return the host that the environment leads to a running emulator, whose file then exists."""
    file = os.environ.get("AZPG_EMULATOR", "")
    is_running = file == environ.get("PGSSLROOTCERT") and os.path.exists(file)
    return environ.get("PGHOST", "") if is_running else ""


def _password_place(options: ConnectOptions, parameter: Parameter | None) -> str | None:
    if options.password is not None:
        return ""
    return None if parameter is None else parameter.where


def _given_connect_timeout(parameter: Parameter | None) -> tuple[float, str] | None:
    """Return the seconds that the caller gave for one attempt, and the option as written."""
    seconds = float(parameter.value) if parameter is not None and parameter.value else 0.0
    if parameter is None or seconds <= 0:
        return None
    if parameter.source == "environment":
        return seconds, f"{parameter.place}={seconds:g}"
    where = "" if parameter.source == "keyword" else f" ({parameter.where})"
    return seconds, f"⟦connect_timeout={seconds:g}⟧{where}"


@lru_cache(maxsize=CACHE_SIZE)
def _cached_config(
    params: frozenset[tuple[str, Parameter]], summary: OptionSummary
) -> ResolvedConfig:
    config, problems = resolve(dict(sorted(params)), summary, _platform())
    if problems:
        raise ConfigError(problems)
    # azpg never uses GSS encryption, but a value that libpq rejects is an error all the same
    given = {name: parameter.value for name, parameter in params if name == "gssencmode"}
    if message := validation_error(config.params | given):
        raise LibpqConfigError(message)
    return config


@cache
def _platform() -> Platform:
    libpq = libpq_info()
    return Platform(
        keywords=frozenset(libpq.variables),
        libpq_version=libpq.version,
        defaults=libpq.defaults,
        is_linux=sys.platform == "linux",
        has_user_root_crt=os.path.exists(user_root_crt()),
    )


@lru_cache(maxsize=CACHE_SIZE)
def _warn_once(to: logging.Logger, warning: str) -> None:
    to.warning("%s", warning)


def _check_types(options: ConnectOptions) -> list[str]:
    problems = type_errors(options)
    retry_timeout = options.retry_timeout
    if isinstance(retry_timeout, float) and math.isnan(retry_timeout):
        problems.append("⟦retry_timeout⟧ is not a number: pass a number of seconds, 0 for one try")
    return problems


def _conninfo_is_unreadable(
    options: ConnectOptions, params: Parameters, environ: Mapping[str, str]
) -> bool:
    """Return whether a conninfo was given and no parameter of it could be read."""
    has_conninfo = bool(options.conninfo) or service_connector.CONNECTION_STRING in environ
    return has_conninfo and all(each.source != "conninfo" for each in params.values())


def _command_password(
    params: Parameters, summary: OptionSummary, environ: Mapping[str, str]
) -> str | None:
    """Return the password that `azpg exec` provides, if it is for these hosts and this user."""
    if sources.source_of(params, "passfile") != "environment":
        return None
    if not (passwords := sources.command_passwords(environ)):
        return None
    # Which hosts and ports these are is known only after the rules, here those for a password
    summary = summary._replace(password_source="azpg exec")
    config, problems = resolve(dict(params), summary, _platform())
    if problems:
        return None
    found = {passwords.get(place) for place in _passfile.password_keys(config.params)}
    return found.pop() if len(found) == 1 else None


def _with_command_password(summary: OptionSummary, token: _jwt.Claims | None) -> OptionSummary:
    problem = _wrong_service_error(token) if token is not None else None
    return summary._replace(
        password_source="azpg exec",
        password_is_token=token is not None,
        problems=(*summary.problems, *([problem] if problem else [])),
    )


# Credentials and passwords


def is_on_azure(config: ResolvedConfig) -> bool:
    """Return whether a configuration has an Azure host."""
    hosts = config.params.get("host", "").split(",")
    return any(cloud_for_host(host, (config.cloud, *CLOUDS)) for host in hosts)


def is_entra_password(value: object) -> TypeGuard[EntraPassword]:
    """Return whether an object is an EntraPassword; a proxy of one is not."""
    return issubclass(type(value), EntraPassword)


MAX_WRAPPERS = 8
_CALLED_METHODS = ("__call__", "call_async")


def find_entra_password(password: object) -> EntraPassword | None:
    """Return the EntraPassword that a password callback calls, as far as that can be seen.

    It is found as the object itself, as its `call_async` or `__call__`, and behind functools'
    `partial` and decorators that set `__wrapped__`.
    """
    for _ in range(MAX_WRAPPERS):
        if is_entra_password(password):
            return password
        # By the class alone: the attributes of a proxy are those of another object
        kind = type(password)
        if issubclass(kind, partial):
            password = cast("partial[object]", password).func
        elif kind is MethodType and getattr(password, "__name__", "") in _CALLED_METHODS:
            password = cast("MethodType", password).__self__
        elif kind.__module__ in ("builtins", "functools") and hasattr(password, "__wrapped__"):
            password = password.__wrapped__
        else:
            return None
    return None


def _without_wrapped_entra_password(options: ConnectOptions) -> ConnectOptions:
    """Return the options with an EntraPassword as credential, also if it was the password."""
    if options.credential is None and options.password is not None:
        entra = find_entra_password(options.password)
        if entra is not None:
            options = dataclasses.replace(options, credential=entra, password=None)
    if options.cloud is None and is_entra_password(options.credential):
        options = dataclasses.replace(options, cloud=options.credential.cloud)
    return options


def _check_objects(options: ConnectOptions, *, is_async: bool) -> tuple[ConnectOptions, list[str]]:
    """Check the credential and the password callback.

    Returns:
        The options, with a plain function in place of a proxy: looking at a proxy calls the
        function behind it, which may raise. And the problems.
    """
    credential, password = options.credential, options.password
    problems = []
    if credential is not None and (problem := proxy_error("credential", credential)):
        problems.append(problem)
        credential = _placeholder_callback
    if not _is_text(password) and (problem := proxy_error("password", password)):
        problems.append(problem)
        password = _placeholder_callback
    if problems:
        options = dataclasses.replace(options, credential=credential, password=password)
    if is_entra_password(credential):
        if options.cloud not in {credential.cloud, credential.cloud.name}:
            problems.append(
                f"the EntraPassword is for the cloud {credential.cloud.name!r} and ⟦cloud=⟧ is "
                f"another: leave out ⟦cloud=⟧"
            )
    elif credential is not None and (problem := credential_error(credential, async_api=is_async)):
        problems.append(problem)
    if password is not None:
        problems += _password_errors(password, is_async=is_async)
    if options.client_id is not None and (problem := client_id_error(options.client_id)):
        problems.append(problem)
    return options, problems


def _is_text(password: object) -> bool:
    try:
        return password is None or isinstance(password, str)  # lazy text of Django is text too
    except Exception:  # noqa: BLE001  # raised by the function behind a proxy
        return False


def _placeholder_callback() -> str:
    return ""


def _password_errors(password: object, *, is_async: bool) -> list[str]:
    if isinstance(password, str):
        if not sources.is_encodable(password):
            return [f"⟦password⟧ contains {_UNENCODABLE}, which libpq does not accept"]
        if password.endswith(("\n", "\r")):
            return [f"⟦password⟧ {STRIP_LINE_BREAK}"]
        problem = secret_placeholder_error("⟦password⟧", password)
        return [problem] if problem else []
    if not callable(password):
        return [f"⟦password⟧ is {type(password).__name__}: pass text or a function that returns it"]
    if not is_async and is_async_function(password):
        return ["⟦password⟧ is an async function: use connect_async(), or a plain function"]
    return []


_UNENCODABLE = "a NUL or characters that are not UTF-8"


def _entra_password(options: ConnectOptions, resolved: _Resolved) -> EntraPassword:
    credential, client_id = options.credential, options.client_id
    if is_entra_password(credential):
        return credential
    cloud = resolved.config.cloud
    if resolved.identity is not None and credential is None and client_id is None:
        identity = resolved.identity
        client_id = identity.client_id or None
        if identity.client_secret:
            if not (identity.client_id and identity.tenant_id):
                raise ConfigError(service_connector.INCOMPLETE_PRINCIPAL)
            credential = service_principal(
                cloud.authority, identity.tenant_id, identity.client_id, identity.client_secret
            )
            client_id = None
    return EntraPassword(cast("Credential | None", credential), cloud=cloud, client_id=client_id)


def running_loop() -> asyncio.AbstractEventLoop:
    """Return the running event loop, or raise `ConfigError` if it is not asyncio's."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigError(
            "no asyncio event loop is running: azpg's async API needs asyncio, as psycopg's does. "
            "With trio call the sync API in a thread, trio.to_thread.run_sync(azpg.connect, …)"
        ) from None


def check_event_loop() -> None:
    """Reject Windows' default event loop before anything else happens: psycopg does it last.

    Raises:
        ConfigError: psycopg cannot run on the running event loop; it says what to type.
    """
    if sys.platform == "win32" and not can_wait_for_sockets(type(running_loop())):
        raise ConfigError(
            [f"psycopg cannot run on the ProactorEventLoop, Windows' default: {EVENT_LOOP_HINT}"]
        )


def can_wait_for_sockets(loop_class: type) -> bool:
    """Return whether psycopg can run on an event loop of this class."""
    return all(each.__name__ != "ProactorEventLoop" for each in loop_class.__mro__)


async def _call_maybe_async(callback: Callable[[], object]) -> object:
    if is_async_function(callback):
        returned = callback()
    else:
        returned = await asyncio.to_thread(callback)
    return await returned if inspect.isawaitable(returned) else returned


def _check_password(returned: object) -> str:
    """Return what a password callback returned, if it is a password."""
    if isinstance(returned, str) and returned and sources.is_encodable(returned):
        if returned.endswith(("\n", "\r")):
            raise _password_error("returned text that ends in a line break")
        if secret_placeholder_error("password", returned):
            raise _password_error("returned what is still a placeholder, a word in brackets")
        return returned
    if inspect.iscoroutine(returned):
        returned.close()
    if not isinstance(returned, str):
        raise _password_error(f"returned {type(returned).__name__}")
    raise _password_error(
        f"returned {f'text with {_UNENCODABLE}' if returned else 'an empty text'}"
    )


def _callback_error(error: Exception) -> CredentialError:
    return _password_error(f"raised {type(error).__name__}: {redact(str(error))}")


def _password_error(what: str) -> CredentialError:
    hint = "it must return the password, as text that is not empty"
    return CredentialError(f"the password callback {what}", kind="callback", hint=hint)


# Tokens that are given as a password


def _entra_claims(text: str, cloud: Cloud | str | None) -> _jwt.Claims | None:
    """Return the claims of a Microsoft Entra token for any cloud, or None for another text."""
    clouds = (*CLOUDS, cloud) if isinstance(cloud, Cloud) else CLOUDS
    return _jwt.entra_claims(text, token_resources(clouds))


def _given_token(options: ConnectOptions, secrets: Mapping[str, str]) -> _jwt.Claims | None:
    """Return the claims of the token that is used as the password, or None if there is none."""
    if isinstance(options.password, str):
        return _entra_claims(options.password, options.cloud)
    if options.password is options.credential is options.client_id is None:
        return _entra_claims(secrets.get("password", ""), options.cloud)
    return None


def _wrong_service_error(token: _jwt.Claims) -> str | None:
    """Return the problem with a token for another service of Azure, or None."""
    if (service := _jwt.other_service(token)) is None:
        return None
    return (
        f"the password is a Microsoft Entra token for {service}, which no database accepts and "
        f"which opens more than a database: leave out the password, azpg acquires tokens itself "
        f"(or: az account get-access-token --resource-type oss-rdbms)"
    )


def _is_token_for(password: str, config: ResolvedConfig) -> bool:
    """Return whether the password that a callback returned is a Microsoft Entra token.

    Raises:
        ConfigError: if it is a token, and must not be sent to the servers of this configuration.
    """
    token = _entra_claims(password, config.cloud)
    if token is None:
        return False
    problem = _wrong_service_error(token)
    if problems := [*config.token_problems, *([problem] if problem else [])]:
        raise ConfigError(problems)
    return True


def _getaddrinfo(host: str) -> list[str]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        # In the words of psycopg, which resolves the other hosts itself
        raise psycopg.OperationalError(f"failed to resolve host {host!r}: {error}") from None
    return [str(address[0]) for *_, address in found]
