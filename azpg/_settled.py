"""What a call's words come to: merged, judged once, and kept for the calls that say the same."""

from __future__ import annotations

import logging
import os
import sys
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from . import _jwt, _passfile, _retry
from ._clouds import CLOUDS, Cloud
from ._conninfo import options, sources
from ._conninfo.resolve import Machine, Plan, Wishes, judge
from ._conninfo.service_connector import CONNECTION_STRING, VARIABLES, identity
from ._libpq import libpq_info, validation_error
from ._tls.roots import replaceable_by, user_root_crt
from .errors import ConfigError, LibpqConfigError

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from ._conninfo.service_connector import Identity
    from ._conninfo.sources import Said

logger = logging.getLogger("azpg")

MOST = 256
"""Calls that are kept: a program has a handful, and one that makes up its words is not to grow."""


class Settled:
    """One call's plan, and what beside it was said."""

    def __init__(
        self,
        plan: Plan,
        secrets: Mapping[str, str],
        budget: float,
        connector: Identity | None,
    ) -> None:
        self.plan = plan
        self.secrets = secrets
        """keyword -> value, of those never shown; not a password that was an argument"""
        self.budget = budget
        """seconds that a failed connect is tried again, where the call itself does not say"""
        self.connector = connector
        """whom Service Connector's variables name, where they lead there"""


_KEPT: dict[Hashable, Settled] = {}


def settle(
    conninfo: str,
    keywords: Mapping[str, object],
    *,
    server: str | None,
    credential: object,
    client_id: str | None,
    password: object,
    pgbouncer: bool | None,
    cloud: Cloud | str | None,
    is_async: bool,
) -> Settled:
    """Return what the words come to, or raise `ConfigError` with all that is wrong with them."""
    wrong: list[str] = []
    if credential is not None or not issubclass(type(password), str | None):
        wrong, credential, password = options.without_proxies(credential, password)
    text = password if isinstance(password, str) else ""
    resources = _resources(cloud)
    token = _jwt.entra_claims(text, resources) if text else None
    kind = type(credential)
    # No second look at what is as it should be by its class alone
    if password is not None or (credential is not None and not options.serves_all(kind)):  # type: ignore[arg-type]  # to mypy a class has its objects' hash
        wrong += options.misfits(credential, password, cloud, is_async=is_async)
    around = sources.surroundings()
    words = (
        conninfo,
        server,
        cloud,
        pgbouncer,
        # Of these only whether they were given: no object of the caller's is kept, and no secret
        credential is None,
        client_id is None,
        password if password is None else options.kind(password),
        token is not None,
        *[(name, value if value is None else str(value)) for name, value in keywords.items()],
        around,
    )
    if not wrong and (settled := _KEPT.get(words)) is not None:
        return settled
    environ = sources.environment() if around else {}
    said, problems = sources.merge(conninfo, keywords, environ, server=server)
    misread = sources.misread(said, conninfo)
    for keyword in misread.keys() & said.keys():
        if keyword not in libpq_info().secrets:
            del said[keyword]
    problems += dict.fromkeys(misread.values())
    asked = said["connect_timeout"].value if "connect_timeout" in said else None
    # Then "no host is given" would be one problem too many
    unread = bool(problems) and bool(conninfo or CONNECTION_STRING in environ)
    unread = unread and all(v.by != "conninfo" for v in said.values())
    unread = unread or not misread.keys().isdisjoint(("host", "hostaddr"))
    by = said["password"].by if "password" in said and said["password"].value else None
    hidden = libpq_info().secrets & said.keys()
    secrets = {name: said.pop(name).value for name in hidden}
    if isinstance(password, str):
        secrets.pop("password", None)
    elif password is None and credential is client_id is None:
        token = _jwt.entra_claims(secrets.get("password", ""), resources)
    if token is not None and (problem := _wrong_service(token)):
        problems.append(problem)
    root_file = "sslrootcert" in said and said["sslrootcert"].value
    wishes = Wishes(
        server=server,
        cloud=cloud,
        pgbouncer=pgbouncer,
        credential=credential is not None,
        client_id=client_id is not None,
        password=options.kind(password),
        password_by=by,
        token=token is not None,
        unread=unread,
        replaceable=replaceable_by(said["sslrootcert"].value) if root_file else None,
        wrong=(*problems, *wrong, *options.placeholders(secrets)),
    )
    if credential is client_id is password is by is None and (
        found := _command_password(said, wishes, environ)
    ):
        secrets["password"] = found
        token = _jwt.entra_claims(found, resources)
        service = _wrong_service(token) if token else None
        wishes = wishes.replace(
            password_by="azpg exec",
            token=token is not None,
            wrong=(*wishes.wrong, *([service] if service else [])),
        )
    plan = _plan(frozenset(said.items()), wishes)
    connected = sources.by(said, "host") == "Service Connector"
    named = identity(environ) if connected else None
    settled = Settled(plan, secrets, _retry.default_retry_timeout(asked), named)
    # A secret may be among the words also where another outdoes it
    secret = secrets or hidden or not environ.keys().isdisjoint(VARIABLES)
    passing = sources.may_name_a_service(conninfo, keywords, environ)
    if not (secret or passing or root_file) and around == sources.surroundings():
        if len(_KEPT) >= MOST:
            _KEPT.clear()
        _KEPT[words] = settled
    return settled


def _resources(cloud: object) -> set[str]:
    """Return what a token for a database is for, in every cloud and in one of the caller's own."""
    clouds = (*CLOUDS, cloud) if isinstance(cloud, Cloud) else CLOUDS
    return {each.scope.removesuffix("/.default") for each in clouds}


def _wrong_service(token: _jwt.Claims) -> str | None:
    """Return the problem with a token that is for another service of Azure's."""
    if (service := _jwt.other_service(token)) is None:
        return None
    return (
        f"the password is a Microsoft Entra token for {service}, which no database accepts and "
        f"which opens more than a database: leave out the password, azpg fetches tokens itself "
        f"(or: az account get-access-token --resource-type oss-rdbms)"
    )


def check_token(text: str, plan: Plan) -> bool:
    """Return whether a password that is known only now is a Microsoft Entra token.

    Raise `ConfigError` if it is one and must not go to the servers of this plan.
    """
    token = _jwt.entra_claims(text, _resources(plan.cloud))
    if token is None:
        return False
    service = _wrong_service(token)
    if problems := [*plan.token_problems, *([service] if service else [])]:
        raise ConfigError(problems)
    return True


def _command_password(
    said: sources.Merged, wishes: Wishes, environ: Mapping[str, str]
) -> str | None:
    """Return the password that `azpg exec` handed over, if it is for these hosts and this user."""
    if sources.by(said, "passfile") != "environment":
        return None
    if not (known := sources.command_passwords(environ)):
        return None
    # The rules decide which hosts and ports these are, so they are applied for a password first
    plan, problems = judge(dict(said), wishes.replace(password_by="azpg exec"), _machine())
    if problems:
        return None
    found = {known.get(place) for place in _passfile.places(plan.params)}
    return found.pop() if len(found) == 1 else None


@cache
def _machine() -> Machine:
    libpq = libpq_info()
    return Machine(
        keywords=frozenset(libpq.variables),
        libpq=libpq.version,
        defaults=libpq.defaults,
        linux=sys.platform == "linux",
        root_crt=os.path.exists(user_root_crt()),
    )


@lru_cache(maxsize=MOST)
def _plan(said: frozenset[tuple[str, Said]], wishes: Wishes) -> Plan:
    # Here no secret is left among the words, so these are kept where the whole call is not.
    plan, problems = judge(dict(sorted(said)), wishes, _machine())
    if problems:
        raise ConfigError(problems)
    # azpg never uses GSS encryption, but a value that libpq does not have is a mistake all the same
    given = {keyword: each.value for keyword, each in said if keyword == "gssencmode"}
    if message := validation_error(plan.params | given):
        raise LibpqConfigError(message)
    for warning in plan.warnings:
        _warn_once(warning)
    for decision in plan.decisions:
        logger.debug("%s", decision)
    return plan


@lru_cache(maxsize=MOST)
def _warn_once(warning: str) -> None:
    logger.warning("%s", warning)
