"""The identity endpoint, through the real azure-identity and by hand."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import psycopg
import pytest
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import CredentialUnavailableError, ManagedIdentityCredential

from azpg.emulator import Emulator, EmulatorError

Connect = Callable[..., psycopg.Connection[Any]]

RESOURCE = "https://ossrdbms-aad.database.windows.net"
SCOPE = f"{RESOURCE}/.default"


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """Run an emulator that has both forms."""
    with Emulator(imds=True) as emulator:
        yield emulator


@pytest.fixture(params=["app-service", "imds"])
def env(
    request: pytest.FixtureRequest, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """Export the endpoint in each of its two forms in turn."""
    env = emulator.env if request.param == "app-service" else emulator.imds_env
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return env


def claims(token: str) -> dict[str, Any]:
    """Read a token's claims."""
    said: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return said


@pytest.mark.usefixtures("env")
def test_managed_identity_credential_gets_a_token(emulator: Emulator, connect: Connect) -> None:
    """A managed identity's credential gets a token that signs in, and its true lifetime."""
    before = emulator.counts
    with ManagedIdentityCredential() as credential:
        token = credential.get_token_info(SCOPE)
    assert abs(token.expires_on - time.time() - 3600) < 60
    said = claims(token.token)
    assert (said["aud"], said["oid"]) == (RESOURCE, emulator.principal.object_id)
    seen = emulator.counts - before
    assert seen.tokens_issued == 1
    assert seen.token_requests >= 1
    with connect(password=token.token):
        pass


@pytest.mark.usefixtures("env")
def test_the_client_id_selects_the_identity(emulator: Emulator) -> None:
    """A client id asks for that identity; one that nobody has is refused."""
    other = emulator.add_role(f"other-{time.monotonic_ns()}", kind="user-assigned")
    with ManagedIdentityCredential(client_id=other.client_id) as credential:
        assert claims(credential.get_token(SCOPE).token)["oid"] == other.object_id
    with (
        ManagedIdentityCredential(client_id="00000000-0000-0000-0000-000000000000") as credential,
        pytest.raises((ClientAuthenticationError, CredentialUnavailableError)),
    ):
        credential.get_token(SCOPE)


def test_the_object_id_and_resource_id_select_the_identity(emulator: Emulator) -> None:
    """The other selectors of App Service find their identity as well."""
    role = emulator.principal
    for selector in (f"object_id={role.object_id}", f"mi_res_id={role.resource_id}"):
        status, answer = get(emulator, f"resource={RESOURCE}&{selector}")
        assert (status, answer["client_id"]) == (200, role.client_id)


@pytest.mark.usefixtures("env")
def test_sign_in_as(emulator: Emulator, connect: Connect) -> None:
    """The identity that is signed in can be changed."""
    alice = emulator.add_role(f"alice-{time.monotonic_ns()}@contoso.com")
    emulator.sign_in_as(alice)
    try:
        with ManagedIdentityCredential() as credential:
            token = credential.get_token(SCOPE).token
    finally:
        emulator.sign_in_as(emulator.principal)
    assert claims(token)["upn"] == alice.name
    with connect(alice.name, token):
        pass


@pytest.mark.usefixtures("env")
def test_a_token_for_another_resource_is_rejected(connect: Connect) -> None:
    """A token is for the resource that was asked for, and the server looks."""
    with ManagedIdentityCredential() as credential:
        token = credential.get_token("https://management.azure.com/.default").token
    assert claims(token)["aud"] == "https://management.azure.com"
    with pytest.raises(psycopg.OperationalError, match="does not have a valid audience"):
        connect(password=token)


def test_token_lifetime_and_clock_skew(emulator: Emulator, connect: Connect) -> None:
    """Tokens live as long as they are told to, by a clock that can differ from this machine's."""
    try:
        emulator.token_lifetime = 300.0
        emulator.clock_skew = 1000.0
        _, answer = get(emulator, f"resource={RESOURCE}")
        token = answer["access_token"]
        assert int(answer["expires_on"]) == claims(token)["exp"]
        assert abs(claims(token)["exp"] - time.time() - 1300) < 60
        with connect(password=token):
            pass
        emulator.clock_skew = 1301.0
        with pytest.raises(psycopg.OperationalError, match="token has expired"):
            connect(password=token)
    finally:
        emulator.token_lifetime, emulator.clock_skew = 3600.0, 0.0


def test_expire_tokens(emulator: Emulator, connect: Connect) -> None:
    """All tokens handed out until now can be made to expire; later ones are good."""
    token = emulator.token()
    emulator.expire_tokens()
    with pytest.raises(psycopg.OperationalError, match="token has expired"):
        connect(password=token)
    with connect():
        pass


def test_the_lifetime_of_a_single_token(emulator: Emulator, connect: Connect) -> None:
    """One token can be made that has run out already."""
    with pytest.raises(psycopg.OperationalError, match="token has expired"):
        connect(password=emulator.token(lifetime=-1))


def get(
    emulator: Emulator, query: str, *, header: str | None = None, version: str = "2019-08-01"
) -> tuple[int, Any]:
    """Ask the App Service form by hand."""
    url = f"{emulator.env['IDENTITY_ENDPOINT']}?api-version={version}&{query}"
    secret = emulator.env["IDENTITY_HEADER"] if header is None else header
    request = urllib.request.Request(url, headers={"X-IDENTITY-HEADER": secret})
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as problem:
        with problem:
            return problem.code, json.load(problem)


@pytest.mark.parametrize(
    ("query", "options", "status", "words"),
    [
        (f"resource={RESOURCE}", {"header": "guess"}, 401, "identity header"),
        (f"resource={RESOURCE}", {"header": "ünïcode"}, 401, "identity header"),
        ("", {}, 400, "'resource' is missing"),
        (f"resource={RESOURCE}&client_id=nobody", {}, 400, "Identity not found"),
        (f"resource={RESOURCE}", {"version": "2001-01-01"}, 400, "api-version"),
    ],
)
def test_invalid_requests_are_rejected(
    emulator: Emulator, query: str, options: dict[str, str], status: int, words: str
) -> None:
    """A request that App Service would refuse is refused."""
    code, answer = get(emulator, query, **options)
    assert code == status
    assert answer["statusCode"] == status
    assert words in answer["message"]


@pytest.mark.parametrize("status", [400, 429, 500])
def test_status_fault(emulator: Emulator, status: int) -> None:
    """The endpoint can be told to answer with a status, and nothing is issued meanwhile."""
    before = emulator.counts
    with emulator.fault(identity=status):
        assert get(emulator, f"resource={RESOURCE}")[0] == status
    assert get(emulator, f"resource={RESOURCE}")[0] == 200
    seen = emulator.counts - before
    assert (seen.token_requests, seen.tokens_issued) == (2, 1)


def test_garbage_fault(emulator: Emulator) -> None:
    """The endpoint can answer with what is no token and no JSON."""
    with emulator.fault(identity="garbage"), pytest.raises(json.JSONDecodeError):
        get(emulator, f"resource={RESOURCE}")


def test_down_fault(emulator: Emulator) -> None:
    """The endpoint can be down, and comes back at the same place."""
    place = emulator.env["IDENTITY_ENDPOINT"]
    with (
        emulator.fault(identity="down"),
        pytest.raises(urllib.error.URLError, match="refused"),
    ):
        get(emulator, f"resource={RESOURCE}")
    assert emulator.env["IDENTITY_ENDPOINT"] == place
    assert get(emulator, f"resource={RESOURCE}")[0] == 200


def test_hang_fault(emulator: Emulator) -> None:
    """The endpoint can leave a request without an answer."""
    request = urllib.request.Request(f"{emulator.env['IDENTITY_ENDPOINT']}?x=y")
    with emulator.fault(identity="hang"), pytest.raises(TimeoutError):
        urllib.request.urlopen(request, timeout=0.2)


def test_nested_faults(emulator: Emulator) -> None:
    """An inner fault adds to the outer one, and its end leaves the outer one in force."""
    with emulator.fault(identity=500):
        with emulator.fault(token="expired"):
            assert get(emulator, f"resource={RESOURCE}")[0] == 500
            assert claims(emulator.token())["exp"] < time.time()
        assert get(emulator, f"resource={RESOURCE}")[0] == 500
        assert claims(emulator.token())["exp"] > time.time()
    assert get(emulator, f"resource={RESOURCE}")[0] == 200


@pytest.mark.parametrize("kind", ["group", "native"])
def test_group_and_native_roles_have_no_tokens(emulator: Emulator, kind: Any) -> None:
    """A group or a native role cannot be whom the endpoint speaks for."""
    options = {"password": "x"} if kind == "native" else {"kind": kind}
    role = emulator.add_role(f"no-tokens-{kind}", **options)
    with pytest.raises(EmulatorError, match="no tokens for a"):
        emulator.sign_in_as(role)
