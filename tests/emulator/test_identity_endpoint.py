"""The identity endpoint, with azure-identity and with plain HTTP requests."""

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
    """Run an emulator with both forms of the endpoint."""
    with Emulator(imds=True) as emulator:
        yield emulator


@pytest.fixture(params=["app-service", "imds"])
def env(
    request: pytest.FixtureRequest, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """Set the environment variables of each form in turn."""
    env = emulator.env if request.param == "app-service" else emulator.imds_env
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return env


def claims(token: str) -> dict[str, Any]:
    """Return a token's claims."""
    token_claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return token_claims


@pytest.mark.usefixtures("env")
def test_managed_identity_credential_gets_a_token(emulator: Emulator, connect: Connect) -> None:
    """ManagedIdentityCredential gets a token that authenticates, and its lifetime."""
    before = emulator.counts
    with ManagedIdentityCredential() as credential:
        token = credential.get_token_info(SCOPE)
    assert abs(token.expires_on - time.time() - 3600) < 60
    token_claims = claims(token.token)
    assert (token_claims["aud"], token_claims["oid"]) == (RESOURCE, emulator.principal.object_id)
    counts = emulator.counts - before
    assert counts.tokens_issued == 1
    assert counts.token_requests >= 1
    with connect(password=token.token):
        pass


@pytest.mark.usefixtures("env")
def test_the_client_id_selects_the_identity(emulator: Emulator) -> None:
    """A client ID selects its identity; an unknown one is an error."""
    other = emulator.add_role(f"other-{time.monotonic_ns()}", kind="user-assigned")
    with ManagedIdentityCredential(client_id=other.client_id) as credential:
        assert claims(credential.get_token(SCOPE).token)["oid"] == other.object_id
    with (
        ManagedIdentityCredential(client_id="00000000-0000-0000-0000-000000000000") as credential,
        pytest.raises((ClientAuthenticationError, CredentialUnavailableError)),
    ):
        credential.get_token(SCOPE)


def test_the_object_id_and_resource_id_select_the_identity(emulator: Emulator) -> None:
    """App Service's other parameters select their identity as well."""
    role = emulator.principal
    for selector in (f"object_id={role.object_id}", f"mi_res_id={role.resource_id}"):
        status, content = request_token(emulator, f"resource={RESOURCE}&{selector}")
        assert (status, content["client_id"]) == (200, role.client_id)


@pytest.mark.usefixtures("env")
def test_sign_in_as(emulator: Emulator, connect: Connect) -> None:
    """`sign_in_as` changes the identity that gets a token if a request names none."""
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
    """The server rejects a token for another resource."""
    with ManagedIdentityCredential() as credential:
        token = credential.get_token("https://management.azure.com/.default").token
    assert claims(token)["aud"] == "https://management.azure.com"
    with pytest.raises(psycopg.OperationalError, match="does not have a valid audience"):
        connect(password=token)


def test_token_lifetime_and_clock_skew(emulator: Emulator, connect: Connect) -> None:
    """Token lifetime and clock skew can be set, and the server uses the same clock."""
    try:
        emulator.token_lifetime = 300.0
        emulator.clock_skew = 1000.0
        _, content = request_token(emulator, f"resource={RESOURCE}")
        token = content["access_token"]
        assert int(content["expires_on"]) == claims(token)["exp"]
        assert abs(claims(token)["exp"] - time.time() - 1300) < 60
        with connect(password=token):
            pass
        emulator.clock_skew = 1301.0
        with pytest.raises(psycopg.OperationalError, match="token has expired"):
            connect(password=token)
    finally:
        emulator.token_lifetime, emulator.clock_skew = 3600.0, 0.0


def test_expire_tokens(emulator: Emulator, connect: Connect) -> None:
    """Tokens issued until now can be expired; later tokens are accepted."""
    token = emulator.token()
    emulator.expire_tokens()
    with pytest.raises(psycopg.OperationalError, match="token has expired"):
        connect(password=token)
    with connect():
        pass


def test_the_lifetime_of_a_single_token(emulator: Emulator, connect: Connect) -> None:
    """One token can be issued that has expired already."""
    with pytest.raises(psycopg.OperationalError, match="token has expired"):
        connect(password=emulator.token(lifetime=-1))


def request_token(
    emulator: Emulator, query: str, *, header: str | None = None, version: str = "2019-08-01"
) -> tuple[int, Any]:
    """Send a request in App Service's form."""
    url = f"{emulator.env['IDENTITY_ENDPOINT']}?api-version={version}&{query}"
    secret = emulator.env["IDENTITY_HEADER"] if header is None else header
    request = urllib.request.Request(url, headers={"X-IDENTITY-HEADER": secret})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.mark.parametrize(
    ("query", "options", "status", "message"),
    [
        (f"resource={RESOURCE}", {"header": "guess"}, 401, "identity header"),
        ("", {}, 400, "'resource' is missing"),
        (f"resource={RESOURCE}&client_id=nobody", {}, 400, "Identity not found"),
        (f"resource={RESOURCE}", {"version": "2001-01-01"}, 400, "api-version"),
    ],
)
def test_invalid_requests_are_rejected(
    emulator: Emulator, query: str, options: dict[str, str], status: int, message: str
) -> None:
    """A request that App Service rejects is rejected."""
    actual_status, content = request_token(emulator, query, **options)
    assert actual_status == status
    assert content["statusCode"] == status
    assert message in content["message"]


@pytest.mark.parametrize("status", [400, 429, 500])
def test_status_fault(emulator: Emulator, status: int) -> None:
    """The endpoint can return an HTTP status, and issues no token meanwhile."""
    before = emulator.counts
    with emulator.fault(identity=status):
        assert request_token(emulator, f"resource={RESOURCE}")[0] == status
    assert request_token(emulator, f"resource={RESOURCE}")[0] == 200
    counts = emulator.counts - before
    assert (counts.token_requests, counts.tokens_issued) == (2, 1)


def test_garbage_fault(emulator: Emulator) -> None:
    """The endpoint can return a body that is not JSON."""
    with emulator.fault(identity="garbage"), pytest.raises(json.JSONDecodeError):
        request_token(emulator, f"resource={RESOURCE}")


def test_down_fault(emulator: Emulator) -> None:
    """The endpoint can refuse connections, and afterwards has the same address."""
    url = emulator.env["IDENTITY_ENDPOINT"]
    with (
        emulator.fault(identity="down"),
        pytest.raises(urllib.error.URLError, match="refused"),
    ):
        request_token(emulator, f"resource={RESOURCE}")
    assert emulator.env["IDENTITY_ENDPOINT"] == url
    assert request_token(emulator, f"resource={RESOURCE}")[0] == 200


def test_hang_fault(emulator: Emulator) -> None:
    """The endpoint can leave a request unanswered."""
    request = urllib.request.Request(f"{emulator.env['IDENTITY_ENDPOINT']}?x=y")
    with emulator.fault(identity="hang"), pytest.raises(TimeoutError):
        urllib.request.urlopen(request, timeout=0.2)


def test_nested_faults(emulator: Emulator) -> None:
    """An inner fault adds to the outer one, which still applies when the inner one has ended."""
    with emulator.fault(identity=500):
        with emulator.fault(token="expired"):
            assert request_token(emulator, f"resource={RESOURCE}")[0] == 500
            assert claims(emulator.token())["exp"] < time.time()
        assert request_token(emulator, f"resource={RESOURCE}")[0] == 500
        assert claims(emulator.token())["exp"] > time.time()
    assert request_token(emulator, f"resource={RESOURCE}")[0] == 200


@pytest.mark.parametrize("kind", ["group", "native"])
def test_group_and_native_roles_have_no_tokens(emulator: Emulator, kind: Any) -> None:
    """A group or native role has no tokens, neither from `token` nor from the endpoint."""
    options = {"password": "x"} if kind == "native" else {"kind": kind}
    role = emulator.add_role(f"no-tokens-{kind}", **options)
    error = f"no tokens for a {kind} role; a group's members sign in with their own"
    with pytest.raises(EmulatorError, match=error):
        emulator.sign_in_as(role)
    with pytest.raises(EmulatorError, match=error):
        emulator.token(role)
