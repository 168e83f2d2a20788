"""Failed token requests: which are transient, and for how long callers are told without another."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import types
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from azure.identity._credentials import imds
from fix_users import CURRENT

import azpg
from azpg._tokens import credentials as credentials_module
from azpg._tokens.credentials import retry_after
from azpg._tokens.refresh_policy import RequestBackoff, after_failed_request
from azpg._tokens.token import ClockReading

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fix_api import Api
    from fix_authority import Authority, Cli
    from fix_clock import Clock
    from fix_credentials import Credentials
    from fix_users import Users

    from azpg.emulator import Emulator

pytestmark = pytest.mark.compat

TENANT = "11111111-2222-4333-8444-555555555555"


def ask(api: Api, password: azpg.EntraPassword) -> str:
    """Return a token by the API's own call."""
    token: str = password() if api.kind == "sync" else api.run(password.call_async())
    return token


def failure(api: Api, password: azpg.EntraPassword) -> azpg.CredentialError:
    """Return the error of a call that fails."""
    with pytest.raises(azpg.CredentialError) as caught:
        ask(api, password)
    return caught.value


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make credentials as azpg does, but without azure-core's own retries and their delays."""
    options = credentials_module._http_options()
    monkeypatch.setattr(credentials_module, "_http_options", lambda: options | {"retry_total": 0})


# Transient or not


@pytest.mark.parametrize(
    ("fault", "transient"),
    [
        (429, True),
        (500, True),
        (503, True),
        (408, True),
        ("down", True),
        (400, False),
        (403, False),
        (404, False),
        ("garbage", False),
    ],
    ids=str,
)
def test_an_endpoint_that_is_away_is_transient(
    api: Api, azure: Emulator, at_once: None, fault: Any, transient: bool
) -> None:
    """The status decides for the default credential: the exceptions are the same for all."""
    with azure.fault(identity=fault):
        assert failure(api, azpg.EntraPassword()).transient is transient


@pytest.mark.parametrize("fault", [404, 410, "down"])
def test_a_virtual_machine_that_starts_has_no_endpoint_yet(
    api: Api, azure_vm: Emulator, at_once: None, fault: Any
) -> None:
    """IMDS answers 404 and 410 while it is updated: transient, unlike App Service's 404."""
    with azure_vm.fault(identity=fault):
        assert failure(api, azpg.EntraPassword()).transient


@pytest.mark.parametrize(("fault", "transient"), [("down", True), (503, False), (400, False)])
def test_a_credential_of_ones_own_tells_less(
    api: Api, azure: Emulator, credentials: Credentials, fault: Any, transient: bool
) -> None:
    """Without the status only an endpoint that does not answer is known to be transient."""
    with azure.fault(identity=fault):
        error = failure(api, azpg.EntraPassword(credentials.managed_identity()))
    assert error.transient is transient


def test_an_endpoint_that_worked_is_transient(
    api: Api, azure: Emulator, at_once: None, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chain whose member has given a token asks that one, whose error has a cause."""
    monkeypatch.delenv("AZURE_TOKEN_CREDENTIALS")
    clock.of(azure)
    password = azpg.EntraPassword()
    ask(api, password)
    clock.goes_on(4000)
    with azure.fault(identity="down"):
        assert failure(api, password).transient


def test_a_developer_without_az_login_is_told_at_once(
    api: Api, az: Cli, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a laptop, where no endpoint answers either, the error is permanent."""
    for name in ("IDENTITY_ENDPOINT", "IDENTITY_HEADER", "AZURE_TOKEN_CREDENTIALS"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(imds, "IMDS_AUTHORITY", f"http://127.0.0.1:{free_port}")
    az.refuse("ERROR: Please run 'az login' to setup account.")
    begun = time.monotonic()
    with pytest.raises(azpg.CredentialError, match="az login") as caught:
        api.open(server="myserver", hostaddr="127.0.0.1", retry_timeout=60)
    assert not caught.value.transient
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize("chain", ["AzureCliCredential", "dev"])
def test_a_chain_without_an_endpoint_fails_at_once(
    api: Api, az: Cli, azure: Emulator, monkeypatch: pytest.MonkeyPatch, chain: str
) -> None:
    """On Azure too: no identity endpoint can help a chain that asks none."""
    monkeypatch.setenv("IDENTITY_ENDPOINT", azure.env["IDENTITY_ENDPOINT"])
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", chain)
    az.refuse("ERROR: Please run 'az login' to setup account.")
    with pytest.raises(azpg.CredentialError, match="az login") as caught:
        api.open(server="myserver", retry_timeout=60)
    assert not caught.value.transient


@pytest.mark.parametrize(
    ("error", "description", "transient"),
    [
        ("temporarily_unavailable", "AADSTS90033: A transient error has occurred.", True),
        ("invalid_client", "AADSTS7000215: Invalid client secret provided.", False),
        ("unauthorized_client", "AADSTS700016: Application not found in the directory.", False),
        ("interaction_required", "AADSTS50076: multi-factor authentication.", False),
    ],
)
def test_microsoft_entra_says_what_is_transient(
    api: Api,
    authority: Authority,
    at_once: None,
    error: str,
    description: str,
    transient: bool,
) -> None:
    """By its own message: the status is 400 for all of them."""

    def refuse(_form: dict[str, str]) -> str:
        raise authority.refusal(error, description)

    authority.give = refuse
    made: Any = credentials_module.service_principal(
        azpg.AZURE_PUBLIC.authority, TENANT, "app", "secret"
    )
    error_ = failure(api, azpg.EntraPassword(made))
    assert description in str(error_)
    assert error_.transient is transient


def test_a_proxy_that_breaks_tls_is_permanent(
    api: Api, authority: Authority, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate that cannot be verified will not be better in a second."""
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    made: Any = credentials_module.service_principal(
        azpg.AZURE_PUBLIC.authority, TENANT, "another", "secret"
    )
    error = failure(api, azpg.EntraPassword(made))
    assert "REQUESTS_CA_BUNDLE" in error.hint
    assert not error.transient


# Kept


def test_a_failure_answers_the_next_callers(api: Api, clock: Clock, azure: Emulator) -> None:
    """For 0.5 to 1 s nobody asks again; the error says when, and connect() can sleep until then."""
    password = azpg.EntraPassword()
    before = azure.counts
    with azure.fault(identity=400):
        first = failure(api, password)
        clock.goes_on(0.2)
        second = failure(api, password)
        assert (azure.counts - before).token_requests == 1
        assert str(second).split("\nHINT")[0].startswith(str(first).split("\nHINT")[0])
        assert "(asked 0 s ago, again in " in str(second)
        now = clock.look().monotonic
        for error in (first, second):
            assert error._retry_at is not None
            assert 0.25 < error._retry_at - now <= 0.85
        clock.goes_on(0.85)
        failure(api, password)
    assert (azure.counts - before).token_requests == 2
    assert password.stats() == (0, 2, None)


def test_a_token_ends_the_failures(api: Api, clock: Clock, azure: Emulator) -> None:
    """Once the endpoint is back the next request brings a token, and the delay is short again."""
    clock.of(azure)
    password = azpg.EntraPassword()
    with azure.fault(identity=400):
        for _ in range(6):
            failure(api, password)
            clock.goes_on(31)
    assert ask(api, password)
    clock.goes_on(4000)
    with azure.fault(identity=400):
        error = failure(api, password)
    assert error._retry_at is not None
    assert error._retry_at - clock.look().monotonic <= 1


def test_invalidate_forgets_a_failure(api: Api, azure: Emulator) -> None:
    """After invalidate() the credential is asked at once."""
    password = azpg.EntraPassword()
    with azure.fault(identity=400):
        failure(api, password)
    password.invalidate()
    assert ask(api, password)


def test_a_failure_of_another_context_is_not_told(api: Api, users: Users) -> None:
    """A credential of one's own may fail for one user alone: the next one asks for himself."""

    def answer(user: str) -> str:
        if user == "alice":
            raise ConnectionError("alice has to sign in")
        return users.unsigned(user)

    credential = users.per_user(answer)
    password = azpg.EntraPassword(credential)
    for _ in range(2):
        with pytest.raises(azpg.CredentialError, match="alice has to sign in"):
            users.ask(api, "alice", password)
    assert users.ask(api, "bob", password) == users.unsigned("bob")
    assert CURRENT.get("nobody") == "nobody"


def test_no_loop_is_no_failure_of_the_next_caller(credentials: Credentials) -> None:
    """An async credential that the sync API cannot await serves the async API at once."""
    password = azpg.EntraPassword(credentials.async_with_get_token())
    with pytest.raises(azpg.CredentialError, match="no event loop"):
        password()

    assert asyncio.run(password.call_async()) == credentials.secret


# Retry-After


class _Throttled(BaseHTTPRequestHandler):
    requests = 0

    def log_message(self, *_args: object) -> None:
        """Write nothing to stderr."""

    def do_GET(self) -> None:
        """Answer that there are too many requests."""
        type(self).requests += 1
        self.send_response(429)
        self.send_header("Retry-After", "7")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")


@pytest.fixture
def throttled(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Throttled]]:
    """Have an identity endpoint that takes no more requests for 7 s."""
    _Throttled.requests = 0
    with HTTPServer(("127.0.0.1", 0), _Throttled) as server:
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"http://127.0.0.1:{server.server_port}/msi")
        monkeypatch.setenv("IDENTITY_HEADER", "header")
        monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="throttled")
        thread.start()
        try:
            yield _Throttled
        finally:
            server.shutdown()
            thread.join()


def test_retry_after_is_kept(
    api: Api, clock: Clock, at_once: None, throttled: type[_Throttled]
) -> None:
    """An endpoint that names a time is not asked before."""
    password = azpg.EntraPassword()
    for seconds, requests in ((0, 1), (3, 1), (3.9, 1), (1, 2), (6, 2)):
        clock.goes_on(seconds)
        error = failure(api, password)
        assert error.transient
        assert throttled.requests == requests
    assert error._retry_at is not None
    assert error._retry_at > clock.look().monotonic + 0.5


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7),
        ("0.5", 0.5),
        (" 30 ", 30),
        (None, None),
        ("", None),
        ("-1", None),
        ("nan", None),
        ("9" * 400, None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
    ],
)
def test_a_retry_after_header_is_a_number(header: str | None, seconds: float | None) -> None:
    """Anything else is ignored."""
    assert retry_after(header) == seconds


# The delay


def at(seconds: float) -> ClockReading:
    """Return both clocks."""
    return ClockReading(seconds, 1_800_000_000.0 + seconds)


def lowest(low: float, _high: float) -> float:
    """Draw no jitter."""
    return low


def highest(_low: float, high: float) -> float:
    """Draw all the jitter there may be."""
    return high


def failed(
    before: RequestBackoff | None, seconds: float, jitter: Any = highest, asked: float | None = None
) -> RequestBackoff:
    """Return the state after a request that took no time failed."""
    return after_failed_request(before, seconds, at(seconds), jitter, retry_after=asked)


def test_the_delay_doubles() -> None:
    """From a second to half a minute, half of it by jitter."""
    for jitter, share in ((lowest, 0.5), (highest, 1.0)):
        state, now, delays = None, 0.0, []
        for _ in range(7):
            state = failed(state, now, jitter)
            delays.append(state.delay)
            now += state.delay
        assert delays == [share * delay for delay in (1, 2, 4, 8, 16, 30, 30)]


def test_failures_are_forgotten() -> None:
    """After 60 s without a request the next failure is the first again."""
    state = failed(failed(failed(None, 0), 1), 3)
    assert state.delay == 4
    assert failed(state, 63).delay == 8
    assert failed(state, 63.1).delay == 1


def test_a_long_request_is_no_pause() -> None:
    """A request that takes a minute to fail is not a minute without a request."""
    state = failed(None, 0)
    assert after_failed_request(state, 1, at(100), highest, retry_after=None).delay == 2


@pytest.mark.parametrize(
    ("asked", "delay"), [(0, 1), (0.5, 1), (7, 7.7), (10**6, 660), (None, 1)], ids=str
)
def test_a_longer_retry_after_wins(asked: float | None, delay: float) -> None:
    """Not all processes ask at the very moment, and no header silences them for hours."""
    assert failed(None, 0, highest, asked).delay == pytest.approx(delay)


def test_what_remains_of_the_delay() -> None:
    """By the clock that advanced further, as for a token."""
    state = failed(None, 0)
    assert state.remaining(at(0.25)) == 0.75
    assert state.remaining(ClockReading(0.25, 1_800_000_000.0 + 100)) < 0


@pytest.mark.parametrize(
    ("where", "hint"),
    [
        ("DEFAULT_IDENTITY_CLIENT_ID", 'client_id=os.environ["DEFAULT_IDENTITY_CLIENT_ID"]'),
        ("DATABRICKS_RUNTIME_VERSION", "getServiceCredentialsProvider"),
        ("notebookutils", "credential=lambda: notebookutils.credentials.getToken"),
        ("mssparkutils", "credential=lambda: notebookutils.credentials.getToken"),
    ],
)
def test_the_hint_is_for_the_environment(
    api: Api, azure: Emulator, monkeypatch: pytest.MonkeyPatch, where: str, hint: str
) -> None:
    """If the default credential fails there, the hint names the credential of that service."""
    if where.isupper():
        monkeypatch.setenv(where, "x")
    else:
        monkeypatch.setitem(sys.modules, where, types.ModuleType(where))
    with azure.fault(identity=400), pytest.raises(azpg.CredentialError) as caught:
        api.open(retry_timeout=0)
    assert hint in caught.value.hint
