"""Proxies as credential or password: refused at each entry point; mocks and decorators are none."""

from __future__ import annotations

import contextvars
import functools
import gc
import re
import time
import weakref
from typing import TYPE_CHECKING, Any
from unittest import mock

import flask
import pytest
import wrapt
from azure.core.credentials import AccessToken, AccessTokenInfo
from azure.identity import ChainedTokenCredential, DefaultAzureCredential, ManagedIdentityCredential
from azure.identity import aio as identity_aio
from celery.local import Proxy  # type: ignore[import-untyped]  # it has no types
from django.core.exceptions import ImproperlyConfigured
from django.utils.functional import SimpleLazyObject
from sqlalchemy.exc import ProgrammingError
from werkzeug.local import LocalProxy

import azpg
import azpg.asyncpg
from azpg import _child_env
from azpg._doctor.checks import run_checks
from azpg._doctor.result import Step
from azpg._tokens.cache import MAX_STRONG_CREDENTIALS, TOKEN_CACHE

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_api import Api
    from fix_asyncpg import Run
    from fix_conninfo import Handed
    from fix_credentials import Credentials
    from fix_django import Databases
    from fix_sqlalchemy import Engines

    from azpg.emulator import Emulator

pytestmark = pytest.mark.compat

UNBOUND: contextvars.ContextVar[Any] = contextvars.ContextVar("unbound")
HOST = "myserver.postgres.database.azure.com"


class ZopeStyle:
    """Forward every attribute, as proxies written in C do."""

    def __init__(self, target: object) -> None:
        object.__setattr__(self, "_target", target)

    def __getattribute__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_target"), name)


class Traced(wrapt.ObjectProxy[Any]):
    """A proxy with a method of its own."""

    def get_token(self, *scopes: str, **options: Any) -> Any:
        """Ask the object behind."""
        return self.__wrapped__.get_token(*scopes, **options)


def fails() -> Any:
    """Fail, as the function behind a lazy object may."""
    raise RuntimeError("working outside of request context")


def local(target: Any) -> Any:
    """Return werkzeug's proxy, as Flask has it."""
    return LocalProxy(lambda: target)


PROXIES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "werkzeug": (local, "proxy._get_current_object()"),
    "unbound": (lambda _: LocalProxy(UNBOUND), "proxy._get_current_object()"),
    "celery": (lambda it: Proxy(lambda: it), "proxy._get_current_object()"),
    "django": (lambda it: SimpleLazyObject(lambda: it), "a function that makes it"),
    "failing": (lambda _: SimpleLazyObject(fails), "a function that makes it"),
    "wrapt": (wrapt.ObjectProxy, "proxy.__wrapped__"),
    "traced": (Traced, "proxy.__wrapped__"),
    "weak": (weakref.proxy, "the object itself"),
    "zope": (ZopeStyle, "the object itself"),
    "partial": (lambda it: functools.partial(local(lambda: it)), "proxy._get_current_object()"),
    "chained": (lambda it: ChainedTokenCredential(local(it)), "proxy._get_current_object()"),
}


@pytest.fixture(params=PROXIES)
def proxy(request: pytest.FixtureRequest, credentials: Credentials) -> Any:
    """Return a proxy of a credential that must not be asked, and what to type."""
    make, instead = PROXIES[request.param]

    def ask() -> str:
        raise AssertionError("the credential was asked")

    credential = credentials.with_get_token(ask)
    yield make(credential), instead
    del credential  # a weak reference needs it until here


# Each entry point, in one test: what is wrong is the same


def refused(error: BaseException, what: str, instead: str) -> None:
    """Check that an error names the argument, says that it is a proxy, and what to type."""
    assert re.search(rf"\b{what} is a proxy", str(error)), error
    assert instead in str(error)


def test_a_proxy_is_refused_when_connecting(api: Api, proxy: Any) -> None:
    """connect() and create_pool() refuse it before anything else happens."""
    credential, instead = proxy
    for function in (api.open, api.open_pool):
        with pytest.raises(azpg.ConfigError) as caught:
            function(server="myserver", credential=credential)
        refused(caught.value, "credential", instead)


def test_a_proxy_is_refused_by_a_pool_class(api: Api, proxy: Any) -> None:
    """A pool that is made of its class raises it where it would connect."""
    credential, instead = proxy
    pool = api.pool_class(kwargs={"server": "myserver", "credential": credential}, open=False)
    with pytest.raises(azpg.ConfigError) as caught:
        api.run(pool.open(wait=True, timeout=30))
    refused(caught.value, "credential", instead)


def test_a_proxy_is_refused_where_nothing_is_connected(proxy: Any) -> None:
    """EntraPassword, conninfo() and the environment of a command refuse it."""
    credential, instead = proxy
    calls: list[Callable[[], object]] = [
        lambda: azpg.EntraPassword(credential),
        lambda: azpg.conninfo(server="myserver", credential=credential),
        lambda: _child_env.child_environment(server="myserver", credential=credential),
    ]
    for call in calls:
        with pytest.raises(azpg.ConfigError) as caught:
            call()
        refused(caught.value, "credential", instead)


def test_a_proxy_is_refused_by_integrations(
    engines: Engines, run: Run, databases: Databases, proxy: Any
) -> None:
    """SQLAlchemy's connect_args, asyncpg and Django's OPTIONS refuse it, with a pool or without."""
    credential, instead = proxy
    engine = engines.make(connect_args={"credential": credential})
    with pytest.raises(ProgrammingError) as wrapped:
        engines.open(engine)
    refused(wrapped.value, "credential", instead)
    with pytest.raises(azpg.ConfigError) as caught:
        run(azpg.asyncpg.connect(server="myserver", credential=credential))
    refused(caught.value, "credential", instead)
    for number, pool in enumerate((False, True)):
        options = {"server": "myserver", "credential": credential, "pool": pool}
        with pytest.raises(ImproperlyConfigured) as improper:
            databases(f"number {number}", OPTIONS=options).ensure_connection()
        refused(improper.value, "credential", instead)


def test_the_doctor_names_a_proxy(proxy: Any) -> None:
    """Its first step fails with the same sentence."""
    credential, instead = proxy
    options = {"server": "myserver", "hostaddr": "127.0.0.1", "credential": credential}
    step = next(each for each in run_checks(options) if isinstance(each, Step))
    assert step.result.status == "failed"
    refused(ValueError(step.result.problem), "credential", instead)


def test_all_problems_are_reported_with_it(api: Api, proxy: Any) -> None:
    """What else is wrong with the call is in the same error."""
    credential, instead = proxy
    with pytest.raises(azpg.ConfigError) as caught:
        api.open(server="myserver", credential=credential, password=5, databse="x")
    refused(caught.value, "credential", instead)
    assert any("databse" in problem for problem in caught.value.problems)
    assert any("password is int" in problem for problem in caught.value.problems)


# Passwords and factories


@pytest.mark.parametrize("kind", ["werkzeug", "unbound", "celery", "django", "failing", "wrapt"])
def test_a_proxy_of_an_entra_password_is_refused(
    api: Api, kind: str, credentials: Credentials
) -> None:
    """Neither as password= nor as credential= is it taken for the EntraPassword behind it."""
    make, instead = PROXIES[kind]
    target = azpg.EntraPassword(credentials.with_get_token())
    for name in ("password", "credential"):
        options = {name: make(target)}
        for function in (api.open, api.open_pool):
            with pytest.raises(azpg.ConfigError) as caught:
                function(server="myserver", user="x", **options)
            refused(caught.value, name, instead)


@pytest.mark.parametrize("kind", ["werkzeug", "celery", "django", "wrapt", "zope", "partial"])
def test_a_proxy_of_a_factory_is_refused(kind: str, credentials: Credentials) -> None:
    """What is made once would be the first user's for all."""
    make, instead = PROXIES[kind]
    with pytest.raises(azpg.ConfigError) as caught:
        azpg.EntraPassword(make(credentials.with_get_token))
    refused(caught.value, "credential", instead)


def test_a_factory_that_returns_a_proxy_fails(api: Api, proxy: Any) -> None:
    """The error says what it returned, and the credential behind it is not asked."""
    credential, instead = proxy
    with pytest.raises(azpg.CredentialError) as caught:
        api.open(server="myserver", hostaddr="127.0.0.1", credential=lambda: credential)
    refused(caught.value, "what it returned", instead)


def test_lazy_text_is_a_password(handed: Handed, api: Api, free_port: int) -> None:
    """Django's lazy settings may hold the password: azpg keeps nothing of a text."""
    lazy: Any = SimpleLazyObject(lambda: "secret")
    assert handed(server="myserver", user="x", password=lazy)["user"] == "x"


# What is no proxy


def mocks(token: AccessTokenInfo) -> dict[str, Any]:
    """Return a mock of each kind that returns this token."""
    made = {
        "plain": mock.Mock(),
        "magic": mock.MagicMock(),
        "spec": mock.Mock(spec=DefaultAzureCredential),
        "instance": mock.Mock(spec=ManagedIdentityCredential()),
        "autospec": mock.create_autospec(DefaultAzureCredential, instance=True),
        "not callable": mock.NonCallableMock(spec=DefaultAzureCredential),
    }
    for each in made.values():
        each.get_token_info.return_value = token
    return made


def test_mocks_of_credentials_are_credentials(api: Api, azure: Emulator) -> None:
    """unittest.mock's objects have another __class__ too, and stand for nothing: they sign in."""
    for kind, credential in mocks(AccessTokenInfo(azure.token(), int(time.time() + 3600))).items():
        with api.connect(credential=credential) as conn:
            assert api.row(conn, "select current_user") == ("myapp",), kind
        assert credential.get_token_info.call_count == 1


def test_async_mocks_are_credentials(azure: Emulator, run: Run) -> None:
    """A mock of an async credential is awaited."""
    credential = mock.Mock(spec=identity_aio.DefaultAzureCredential)
    token = AccessTokenInfo(azure.token(), int(time.time() + 3600))
    credential.get_token_info = mock.AsyncMock(return_value=token)

    async def main() -> str:
        async with await azpg.connect_async(credential=credential) as conn:
            return conn.info.user

    assert run(main()) == "myapp"


@wrapt.decorator
def traced(wrapped: Any, _instance: Any, args: Any, kwargs: Any) -> Any:
    """Call a function, as a decorator of a tracer does."""
    return wrapped(*args, **kwargs)


def test_decorated_functions_are_functions(api: Api, azure: Emulator) -> None:
    """A wrapt decorator leaves a factory and a password callback what they were."""

    class Vault:
        @traced
        def password(self) -> str:
            return azure.token()

    factory = traced(lambda: mocks(AccessTokenInfo(azure.token(), 1 << 40))["plain"])
    for options in (
        {"credential": factory},
        {"password": Vault().password, "user": "myapp", "dbname": "postgres"},
    ):
        with api.connect(**options) as conn:
            assert api.row(conn, "select current_user") == ("myapp",)


def test_in_flask_each_request_passes_its_own_credential(
    azure: Emulator, credentials: Credentials
) -> None:
    """The proxy of a request is refused, and what the error says to type signs in each user."""
    app = flask.Flask("app")
    current: Any = LocalProxy(lambda: flask.g.credential)
    known = {name: azure.add_role(f"flask-{name}") for name in ("alice", "bob")}

    @app.route("/<name>")
    def user(name: str) -> str:
        flask.g.credential = credentials.with_get_token(lambda: azure.token(known[name]))
        with pytest.raises(azpg.ConfigError) as caught:
            azpg.connect(credential=current)
        found = re.search(r"pass proxy(\S+)\(\)", str(caught.value))
        assert found
        assert found[1] == "._get_current_object"
        with azpg.connect(credential=current._get_current_object()) as conn:
            return conn.info.user

    client = app.test_client()
    for name in ("alice", "bob", "alice"):
        assert client.get(f"/{name}").text == f"flask-{name}"


# Credentials that allow no weak reference


class Slotted:
    """A credential that allows no weak reference, and says when it goes."""

    __slots__ = ("calls", "number")

    alive = 0

    def __init__(self, number: int) -> None:
        self.number, self.calls = number, 0
        Slotted.alive += 1

    def __del__(self) -> None:
        Slotted.alive -= 1

    def get_token(self, *_scopes: str, **_options: Any) -> AccessToken:
        """Return a token with its number and that of the call."""
        self.calls += 1
        return AccessToken(f"token {self.number}.{self.calls}", 1 << 40)


def test_credentials_without_weak_references_are_bounded() -> None:
    """Of 1,000 the 100 used last are kept, and each gives its own token throughout."""
    before = Slotted.alive
    for number in range(1000):
        assert azpg.EntraPassword(Slotted(number))() == f"token {number}.1"
    gc.collect()
    assert Slotted.alive - before == MAX_STRONG_CREDENTIALS == 100
    assert len(TOKEN_CACHE.entries()) == 100


def test_a_credential_in_use_stays_cached() -> None:
    """The one used longest ago goes first; one that went is asked again, for itself alone."""
    kept, left = Slotted(-1), Slotted(-2)
    assert (azpg.EntraPassword(kept)(), azpg.EntraPassword(left)()) == ("token -1.1", "token -2.1")
    for number in range(300):
        azpg.EntraPassword(Slotted(number))()
        assert azpg.EntraPassword(kept)() == "token -1.1"
    assert azpg.EntraPassword(left)() == "token -2.2"
    assert kept.calls == 1
