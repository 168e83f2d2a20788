"""One call of connect(): what its sync and async twins share, from the options to the error."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import logging
import math
import random
import socket
import time
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import psycopg
from psycopg import errors as e

from . import _retry
from ._conninfo.options import (
    UNSENDABLE,
    entra_password_behind,
    is_async_function,
    is_entra_password,
    mistyped,
)
from ._conninfo.resolve import reached
from ._conninfo.service_connector import INCOMPLETE
from ._conninfo.sources import sendable
from ._jwt import claims
from ._libpq import libpq_info, os_user_name, with_native_paths
from ._redact import redact, sanitized
from ._settled import check_token, settle
from ._tls.roots import root_file
from .errors import ConfigError, ConnectError, CredentialError, LibpqConfigError, clean

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from psycopg.pq.abc import PGconn

    from ._clouds import Cloud
    from ._conninfo.resolve import Plan
    from ._conninfo.service_connector import Identity
    from ._tokens.credentials import Credential
    from ._tokens.entra import EntraPassword
    from ._tokens.token import Token

    Password: TypeAlias = str | Callable[[], str]
    AsyncPassword: TypeAlias = str | Callable[[], str] | Callable[[], Awaitable[str]]
    Answer: TypeAlias = tuple[str | None, str | None]
    """the secret, and the user that a token names"""

logger = logging.getLogger("azpg")


class Call:
    """Hold what one call is about.

    Once it has failed `error` is set, for the caller to raise from a frame without secrets.
    """

    error: BaseException | None = None
    _answer: Answer = (None, None)
    _is_token = False
    """the password is a Microsoft Entra token that azpg did not fetch"""
    _pauses: _retry.Retry | None = None
    pause: float | None = None
    """seconds to wait before the next try"""

    def __init__(
        self,
        conninfo: str,
        keywords: Mapping[str, object],
        *,
        server: str | None,
        credential: object,
        client_id: str | None,
        password: object,
        pgbouncer: bool | None,
        cloud: Cloud | str | None,
        retry_timeout: float | None = None,
        is_async: bool,
    ) -> None:
        self._refused: tuple[str, ConnectError] | None = None
        """a token that the server blamed, and how it said so"""
        own = (conninfo, server, client_id, pgbouncer, cloud, retry_timeout)
        wrong = mistyped(*map(type, own))
        if isinstance(retry_timeout, float) and math.isnan(retry_timeout):
            wrong += ("retry_timeout is no number: pass a number of seconds, 0 for one try",)
        if wrong:
            self.error = ConfigError(wrong)
            return
        if credential is None and (entra := entra_password_behind(password)):
            credential, password = entra, None
        if credential is not None and cloud is None and is_entra_password(credential):
            cloud = credential.cloud
        try:
            settled = settle(
                conninfo,
                keywords,
                server=server,
                credential=credential,
                client_id=client_id,
                password=password,
                pgbouncer=pgbouncer,
                cloud=cloud,
                is_async=is_async,
            )
            if settled.connector is not None and credential is client_id is None:
                credential, client_id = _connected(settled.plan, settled.connector)
        except BaseException as error:  # noqa: BLE001  # raised by the caller
            self.error = clean(error)
            return
        self.plan = settled.plan
        self.prepare_threshold = None if self.plan.pgbouncer else 5
        """psycopg's default; PgBouncer on Azure has max_prepared_statements = 0 until it is set"""
        self._secrets = dict(settled.secrets)
        if isinstance(password, str):
            self._secrets["password"] = password
        self._callback = cast("Callable[[], object]", password) if callable(password) else None
        self._budget = settled.budget if retry_timeout is None else retry_timeout
        self._started = time.monotonic()
        self._hurry = retry_timeout is not None and retry_timeout > 0
        """no try may take longer than what is left; the first may, where no budget was given"""
        self.entra: EntraPassword | None = None
        """what gives the tokens, where one signs in with them"""
        if self.plan.sign_in == "entra":
            self._secrets.pop("password", None)
            made = _entra_password()
            known = cast("Credential | None", credential)
            self.entra = (
                credential
                if isinstance(credential, made)
                else made(known, cloud=self.plan.cloud, client_id=client_id)
            )

    # The secret

    def answer(self) -> Answer:
        """Ask for the secret: once for each physical connection."""
        if self.entra is not None:
            self._answer = self._of(self.entra.token())
        elif self._callback is not None:
            try:
                given = self._callback()
            except Exception as error:  # noqa: BLE001  # the caller's code: anything may come
                raise _raised(error) from None
            self._answer = self._from_callback(given)
        elif self.plan.sign_in == "token":
            self._answer = self._from_token(self._secrets["password"])
        return self._answer

    async def answer_async(self) -> Answer:
        """Ask for the secret without blocking the loop: a sync callback runs in a thread."""
        if self.entra is not None:
            self._answer = self._of(await self.entra.token_async())
        elif self._callback is not None:
            try:
                given = await _await(self._callback)
            except Exception as error:  # noqa: BLE001  # as above
                raise _raised(error) from None
            self._answer = self._from_callback(given)
        elif self.plan.sign_in == "token":
            self._answer = self._from_token(self._secrets["password"])
        return self._answer

    def _from_callback(self, given: object) -> Answer:
        """Return a callback's answer, which may be a Microsoft Entra token."""
        password = _password(given)
        return self._from_token(password) if check_token(password, self.plan) else (password, None)

    def _from_token(self, text: str) -> Answer:
        """Return a token that was given as a password, and its role where no user was given."""
        from ._tokens.token import require_role  # noqa: PLC0415  # late: only who signs in so pays for it

        self._is_token = True
        return text, None if "user" in self.plan.params else require_role(claims(text))

    def _of(self, token: Token) -> Answer:
        if self._refused is not None and token.text == self._refused[0]:
            raise self._refused[1]  # the credential has no other
        return token.text, None if "user" in self.plan.params else token.role()

    # The way there

    def addresses(self) -> list[list[str]]:
        """Look up the hosts that are reached under the name of `server`."""
        return [_look_up(host) for host in self.plan.reach]

    async def addresses_async(self) -> list[list[str]]:
        """Look them up without blocking the loop."""
        return [await asyncio.to_thread(_look_up, host) for host in self.plan.reach]

    def params(self, answer: Answer, addresses: list[list[str]]) -> dict[str, str]:
        """Return exactly what libpq is handed."""
        params = self.shown_params(addresses)
        params |= self._secrets
        if self._hurry:
            asked = params["connect_timeout"]
            params["connect_timeout"] = self._tries().timeout(asked, time.monotonic())
        secret, user = answer
        if secret is not None:
            params["password"] = secret
        if user is not None:
            params["user"] = user
        if self._is_token:
            params.setdefault("dbname", "postgres")
        return params

    def libpq_params(self, answer: Answer, addresses: list[list[str]]) -> dict[str, str]:
        """Return every keyword of libpq's, so that it finds none in the environment."""
        params = self.plan.defaults | self.params(answer, addresses)
        if "user" not in params and (name := os_user_name()) is not None:
            params["user"] = name
        return with_native_paths(params)

    def shown_params(self, addresses: list[list[str]]) -> dict[str, str]:
        """Return what libpq is handed, but for the secrets and the user of a token."""
        params = self.plan.params.copy()
        if addresses:
            params = reached(params, addresses)
        if self.plan.roots is not None:
            params["sslrootcert"] = root_file(self.plan.roots)
        return params

    # The end

    def failed(self, error: psycopg.Error) -> None:
        """Judge a failure: set the pause before the next try, or the error it ends with."""
        self.pause = None
        if isinstance(error, ConnectError) or not isinstance(error, psycopg.OperationalError):
            self.error = clean(self._refused[1] if self._refused else error)
            return
        text = self._shown(str(error))
        pgconn = self._finished(error.pgconn)
        try:
            # late: who is let in needs no word of it
            from ._diagnosis.classify import BAD_TOKEN, diagnose  # noqa: PLC0415
            from ._diagnosis.hints import Context  # noqa: PLC0415
        except OSError:
            hint = "no file descriptor is free to read more with: close some, or raise ulimit -n"
            self.error = ConnectError(text, hint=hint, pgconn=pgconn)
            return
        # Judged as it was said: a password may be one of the words that a failure is told by
        found = diagnose(str(error), Context(**self._known()))
        if found.kind == "config":
            self.error = LibpqConfigError(text)
            return
        refusal = found.error(
            text, kind=found.kind, hint=found.hint, transient=found.transient, pgconn=pgconn
        )
        if found.transient:
            self.pause = self._tries().pause(found.kind, time.monotonic(), random.uniform)
            if self.pause is not None:
                self._hurry = True
                logger.warning("connecting again in %.1f s: %s", self.pause, refusal)
                return
        if self.entra is None or self._refused or found.kind not in BAD_TOKEN:
            self.error = refusal
            return
        # Said over verified TLS, as to every token: another one is asked for, once.
        token = cast("str", self._answer[0])
        self._refused = token, refusal
        self.entra.reject(token)

    def _tries(self) -> _retry.Retry:
        if self._pauses is None:
            self._pauses = _retry.Retry(self._budget, self._started)
        return self._pauses

    def _shown(self, text: str) -> str:
        return redact(text, self._answer[0], *self._secrets.values())

    def _finished(self, pgconn: PGconn | None) -> PGconn | None:
        """Return a copy of a finished connection without its secrets."""
        if not isinstance(pgconn, e.FinishedPGconn):
            return None
        secrets = {name.encode() for name in libpq_info().secrets}
        info = [o._replace(val=None) if o.keyword in secrets else o for o in pgconn.info]
        said = self._shown(pgconn.error_message.decode(errors="replace")).encode()
        changed = dataclasses.replace(pgconn, password=b"", info=info, error_message=said)
        return cast("PGconn", changed)

    def _known(self) -> dict[str, Any]:
        """Return what hints are written with."""
        params = self.plan.params
        return {
            "host": params.get("host") or params.get("hostaddr", "the server"),
            "port": params["port"],
            "dbname": params.get("dbname", ""),
            "user": params.get("user") or sanitized(self._answer[1] or ""),
            "entra": self.plan.sign_in in ("entra", "token"),
            "scope": self.plan.cloud.scope,
            "secret_length": len(self._answer[0] or ""),
            "root_file": params.get("sslrootcert", ""),
        }


def _connected(plan: Plan, named: Identity) -> tuple[object, str | None]:
    """Return the credential, or the client id, that Service Connector names for a plan."""
    if plan.sign_in != "entra" or not named.client_secret:
        return None, named.client_id or None
    if not (named.client_id and named.tenant_id):
        raise ConfigError(INCOMPLETE)
    from ._tokens.credentials import service_principal  # noqa: PLC0415  # late: as below

    authority = plan.cloud.authority
    made = service_principal(authority, named.tenant_id, named.client_id, named.client_secret)
    return made, None


@cache
def _entra_password() -> type[EntraPassword]:
    from ._tokens.entra import EntraPassword  # noqa: PLC0415  # late: only who signs in so pays for it

    return EntraPassword


async def _await(callback: Callable[[], object]) -> object:
    given = callback() if is_async_function(callback) else await asyncio.to_thread(callback)
    return await given if inspect.isawaitable(given) else given


def _password(given: object) -> str:
    if isinstance(given, str) and given and sendable(given):
        if not given.endswith(("\n", "\r")):
            return given
        raise _no_password("returned text that ends in a line break")
    if inspect.iscoroutine(given):
        given.close()
    what = type(given).__name__
    if isinstance(given, str):
        what = f"text with {UNSENDABLE}" if given else "an empty text"
    raise _no_password(f"returned {what}")


def _raised(error: Exception) -> CredentialError:
    return _no_password(f"raised {type(error).__name__}: {redact(str(error))}")


def _no_password(what: str) -> CredentialError:
    hint = "it must return the password, as text that is not empty"
    return CredentialError(f"the password callback {what}", kind="callback", hint=hint)


def _look_up(host: str) -> list[str]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        # In psycopg's own words, as psycopg looks up the hosts that need no other name
        raise psycopg.OperationalError(f"failed to resolve host {host!r}: {error}") from None
    return [str(address[0]) for *_, address in found]
