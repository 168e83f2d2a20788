"""A Microsoft Entra token is a token whatever entry point it comes through."""

from __future__ import annotations

import base64
import functools
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import azpg
from azpg import _jwt

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fix_api import Api
    from fix_conninfo import Planned
    from fix_credentials import Credentials
    from fix_leaks import Leaks, Tokens

    from azpg.emulator import Emulator

pytestmark = pytest.mark.compat

HOST = "myserver.postgres.database.azure.com"
RESOURCES = {cloud.scope.removesuffix("/.default") for cloud in (azpg.AZURE_PUBLIC,)}
DATABASE = "https://ossrdbms-aad.database.windows.net"


def jwt(**claims: object) -> str:
    """Return an unsigned token with these claims."""
    head, body = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in ({"alg": "none"}, claims)
    )
    return f"{head}.{body}.c2lnbmF0dXJl"


ENTRA = {
    "resource": jwt(aud=DATABASE),
    "resource with a slash": jwt(aud=DATABASE + "/"),
    "application": jwt(aud=_jwt.APPLICATION_ID),
    "several audiences": jwt(aud=[DATABASE]),
    "another cloud": jwt(aud="https://ossrdbms-aad.database.chinacloudapi.cn"),
    "issuer v1": jwt(aud="api://x", iss="https://sts.windows.net/72f988bf/"),
    "issuer v2": jwt(aud="api://x", iss="https://login.microsoftonline.com/72f988bf/v2.0"),
    "management": jwt(aud="https://management.azure.com/", iss="https://sts.windows.net/72f988bf/"),
}
OTHERS = {
    "another issuer": jwt(aud="db", iss="https://accounts.example.com"),
    "no claims": jwt(),
    "not JSON": "eyJhbGciOiJub25lIn0.bm90IGpzb24.c2ln",
    "a password": "hunter2hunter2",
    "a look-alike issuer": jwt(iss="https://sts.windows.net.evil.example/"),
}
ENTRY_POINTS = ["text", "conninfo", "environment", "callback", "async callback", "lambda"]


def signing_in(
    entry: str, api: Api, secret: str, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """Return the options of a call whose password comes through an entry point."""
    if entry == "text":
        return {"password": secret}
    if entry == "conninfo":
        return {"conninfo": f"password={secret}"}
    if entry == "environment":
        monkeypatch.setenv("PGPASSWORD", secret)
        return {}
    return {"password": api.callback(lambda: secret) if "async" in entry else lambda: secret}


# What a token is


@pytest.mark.parametrize("text", ENTRA.values(), ids=ENTRA)
@pytest.mark.parametrize("form", ["{}", " {}", "{}\n", "Bearer {}", '"{}"'])
def test_a_token_is_known_by_its_claims(text: str, form: str) -> None:
    """By its audience or its issuer, also with what a shell or a header leaves around it."""
    assert _jwt.entra_claims(form.format(text), {*RESOURCES, *map(resource, CHINA)}) is not None


CHINA = [azpg.AZURE_CHINA]


def resource(cloud: azpg.Cloud) -> str:
    """Return what a cloud's token is for."""
    return cloud.scope.removesuffix("/.default")


@pytest.mark.parametrize("text", OTHERS.values(), ids=OTHERS)
def test_another_text_is_a_password(text: str) -> None:
    """Other JWTs, and whatever only looks like one, are passwords."""
    assert _jwt.entra_claims(text, RESOURCES) is None


@given(st.text(max_size=60) | st.builds(lambda t: f"eyJ{t}.{t}.x", st.text(max_size=40)))
def test_any_text_is_a_token_or_not(text: str) -> None:
    """Whatever a password holds, looking at it raises nothing."""
    assert _jwt.entra_claims(text, RESOURCES) in (None, {}) or text.startswith("eyJ")


# Where it may go


@pytest.mark.parametrize("entry", ENTRY_POINTS)
@pytest.mark.parametrize(
    "place",
    [
        {"host": "db.evil.example", "sslmode": "disable"},
        {"host": "db.evil.example"},
        {"host": "localhost"},
        {"hostaddr": "127.0.0.1"},
        {"host": "/tmp"},
        {"host": f"{HOST},db.evil.example"},
        {"host": f"{HOST},a.postgres.database.chinacloudapi.cn"},
        {"host": "c.postgres.cosmos.chinacloudapi.cn"},
    ],
    ids=str,
)
def test_a_token_goes_only_to_verified_azure_hosts(
    api: Api,
    monkeypatch: pytest.MonkeyPatch,
    leaks: Leaks,
    entry: str,
    place: dict[str, str],
) -> None:
    """A token that is given as a password goes where azpg's own tokens go, and nowhere else."""
    secret = ENTRA["issuer v1"]
    options = signing_in(entry, api, secret, monkeypatch)
    with pytest.raises(azpg.ConfigError) as caught:
        api.open(**options, **place, user="me", port=1, retry_timeout=0)
    leaks.none_shown(caught.value, secret)
    with pytest.raises(azpg.ConfigError):
        api.open_pool(**options, **place, user="me", port=1, timeout=5)


@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_a_token_is_never_sent_with_verify_ca(
    api: Api, planned: Planned, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    """sslmode=verify-ca is raised for a token that is known, and refused for a callback's."""
    options = signing_in(entry, api, ENTRA["resource"], monkeypatch)
    options |= {"host": HOST, "sslmode": "verify-ca", "user": "me"}
    if callable(options.get("password")):
        with pytest.raises(azpg.ConfigError, match="sslmode=verify-ca"):
            api.open(**options)
    else:
        assert planned(**options).params["sslmode"] == "verify-full"
        assert "require_auth" not in planned(**options).params


@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_a_token_for_another_service_goes_nowhere(
    api: Api, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    """A token for Azure's management opens more than a database: the error says how to get one."""
    options = signing_in(entry, api, ENTRA["management"], monkeypatch)
    with pytest.raises(azpg.ConfigError, match="oss-rdbms"):
        api.open(**options, host=HOST, user="me")


@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_another_jwt_goes_where_a_password_goes(
    api: Api, monkeypatch: pytest.MonkeyPatch, entry: str, free_port: int
) -> None:
    """A JWT of another issuer is a password, for a server of one's own too."""
    options = signing_in(entry, api, OTHERS["another issuer"], monkeypatch)
    with pytest.raises(azpg.UnreachableError):
        api.open(
            **options,
            host="127.0.0.1",
            port=free_port,
            user="me",
            sslmode="disable",
            retry_timeout=0,
        )


def through(name: str) -> Callable[[azpg.EntraPassword], Any]:
    """Return a way to hand over an EntraPassword as a callback."""
    ways: dict[str, Callable[[azpg.EntraPassword], Any]] = {
        "object": lambda entra: entra,
        "__call__": lambda entra: entra.__call__,
        "call_async": lambda entra: entra.call_async,
        "partial": functools.partial,
        "partial of a method": lambda entra: functools.partial(entra.call_async),
        "partial of a partial": lambda entra: functools.partial(functools.partial(entra)),
        "wraps": lambda entra: functools.wraps(entra.call_async)(entra),
        "cache": lambda entra: functools.lru_cache(entra.__call__),
    }
    return ways[name]


WRAPPERS = [
    *("object", "__call__", "call_async", "partial", "partial of a method"),
    *("partial of a partial", "wraps", "cache"),
]


@pytest.mark.parametrize("name", WRAPPERS)
def test_an_entra_password_is_known_through_its_wrappers(
    api: Api, credentials: Credentials, name: str
) -> None:
    """Its methods, functools.partial and decorators: a foreign host is refused, no token asked."""
    credential = credentials.with_get_token(lambda: pytest.fail("a token was asked for"))
    password = through(name)(azpg.EntraPassword(credential))
    with pytest.raises(azpg.ConfigError, match=r"evil\.example"):
        api.open(host="db.evil.example", sslmode="disable", user="me", password=password)


@pytest.mark.parametrize("name", WRAPPERS)
def test_an_entra_password_signs_in_through_its_wrappers(
    api: Api, azure: Emulator, tokens: Tokens, name: str
) -> None:
    """The sign-in is the same as with credential=, the role's name too."""
    password = through(name)(azpg.EntraPassword(tokens.credential))
    with api.connect(password=password) as conn:
        assert api.row(conn, "select current_user, current_database()") == ("myapp", "postgres")


@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_a_token_as_password_signs_in_as_its_owner(
    api: Api, azure: Emulator, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    """To an Azure host it goes over verify-full; user and database are those of a token."""
    options = signing_in(entry, api, azure.token(), monkeypatch)
    with api.connect(**options) as conn:
        assert api.row(conn, "select current_user, current_database()") == ("myapp", "postgres")
        assert "sslmode=verify-full" in conn.info.dsn


@pytest.mark.parametrize("entry", ["text", "environment"])
def test_a_token_that_names_nobody_needs_a_user(
    api: Api, azure: Emulator, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    """A service principal's token holds no name: user= is asked for."""
    options = signing_in(entry, api, jwt(aud=DATABASE, appid="an-id"), monkeypatch)
    with pytest.raises(azpg.CredentialError) as caught:
        api.open(**options)
    assert caught.value.kind == "no-user"


def test_a_token_kept_in_the_environment_is_one_warning(
    planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It expires, so the warning names its variable, and that azpg acquires tokens itself."""
    monkeypatch.setenv("PGPASSWORD", ENTRA["resource"])
    (warning,) = planned(host=HOST, user="me").warnings
    assert "PGPASSWORD" in warning
    assert "azpg acquires tokens itself" in warning
    assert not planned(host=HOST, user="me", password=ENTRA["resource"]).warnings


def test_a_token_in_a_service_file_is_a_token(
    planned: Planned, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A password of a service file is looked at as well."""
    (tmp_path / "s").write_text(f"[s]\nhost=db.evil.example\npassword={ENTRA['resource']}\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "s"))
    with pytest.raises(azpg.ConfigError, match=r"evil\.example"):
        planned("service=s", user="me")


def test_a_token_as_text_needs_no_azure_identity(azure: Emulator) -> None:
    """A token that is there already is used without importing azure-identity."""
    code = (
        "import os, sys, azpg; azpg.connect(password=os.environ['TOKEN']).close(); "
        "print([name for name in sys.modules if name.startswith('azure')])"
    )
    env = {**os.environ, "TOKEN": azure.token()}
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout == (
        "[]\n"
    )
