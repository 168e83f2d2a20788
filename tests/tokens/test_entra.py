"""EntraPassword: what it gives, whose token it keeps and for how long, and how it fails."""

from __future__ import annotations

import copy
import gc
import itertools
import re
import weakref
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from azure.core.credentials import AccessToken

import azpg
from azpg._tokens.cache import TOKEN_CACHE
from azpg._tokens.credentials import DefaultCredential

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_api import Api
    from fix_clock import Clock
    from fix_credentials import Credentials

    from azpg.emulator import Emulator

pytestmark = pytest.mark.compat


def ask(api: Api, password: azpg.EntraPassword) -> str:
    """Return a token by the API's own call."""
    token: str = password() if api.kind == "sync" else api.run(password.call_async())
    return token


# What it gives


def test_gives_a_token_of_the_real_identity(
    api: Api, azure: Emulator, credentials: Credentials
) -> None:
    """Called, it returns the text of a token that plain psycopg signs in with."""
    token = ask(api, azpg.EntraPassword(credentials.managed_identity()))
    with psycopg.connect(user="myapp", dbname="postgres", password=token) as conn:
        assert conn.execute("select current_user").fetchone() == ("myapp",)


def test_a_token_is_kept(api: Api, azure: Emulator, credentials: Credentials) -> None:
    """A valid token is fetched once, for all that share the credential."""
    credential = credentials.managed_identity()
    before = azure.counts
    tokens = {ask(api, azpg.EntraPassword(credential)) for _ in range(5)}
    assert len(tokens) == 1
    assert (azure.counts - before).token_requests == 1


@pytest.mark.parametrize("lifetime", [-60, 0, 15, 19], ids=str)
def test_a_token_about_to_expire_is_never_handed_out(
    api: Api, credentials: Credentials, lifetime: float
) -> None:
    """A token with less life left than a connect may take is an error that says so."""
    password = azpg.EntraPassword(credentials.with_get_token(lifetime=lifetime))
    with pytest.raises(azpg.CredentialError) as caught:
        ask(api, password)
    text, hint = str(caught.value).split("\nHINT: ")
    said = rf"WithGetToken gave a token with ({max(0, lifetime)}|{max(0, lifetime - 1)}) s left"
    assert re.fullmatch(f"{said}, and a connect needs 20", text)
    assert hint.startswith("check this machine's clock")
    assert password.stats() == (0, 1, None)


@pytest.mark.parametrize("lifetime", [3600, 60, 25], ids=str)
def test_a_token_with_life_enough_is_kept(
    api: Api, credentials: Credentials, lifetime: float
) -> None:
    """A token with more life left than a connect may take serves the next call too."""
    credential = credentials.with_get_token(lifetime=lifetime)
    password = azpg.EntraPassword(credential)
    assert ask(api, password) == ask(api, password)
    assert credential.calls == 1


def test_invalidate_forgets_the_token(api: Api, credentials: Credentials) -> None:
    """After invalidate() the credential is asked, by all that share it."""
    credential = credentials.with_get_token()
    one, other = azpg.EntraPassword(credential), azpg.EntraPassword(credential)
    ask(api, one)
    other.invalidate()
    ask(api, one)
    assert credential.calls == 2


def test_user_is_the_tokens_own_name(azure: Emulator, credentials: Credentials) -> None:
    """user() reads the role out of the token, and fetches one where none is held."""
    assert azpg.EntraPassword(credentials.of(azure)).user() == "myapp"
    with pytest.raises(azpg.CredentialError, match="not a readable JWT"):
        azpg.EntraPassword(credentials.with_get_token()).user()


def test_stats_count_and_tell_no_secret(api: Api, credentials: Credentials) -> None:
    """stats() counts tokens and failures and says how long the token still lives."""
    answers = iter([credentials.secret])
    password = azpg.EntraPassword(credentials.with_get_token(lambda: next(answers)))
    assert password.stats() == (0, 0, None)
    ask(api, password)
    fetched, failed, left = password.stats()
    assert (fetched, failed) == (1, 0)
    assert left is not None
    assert 3590 < left <= 3600
    password.invalidate()
    with pytest.raises(azpg.CredentialError):
        ask(api, password)
    assert password.stats() == (1, 1, None)


def test_no_repr_holds_the_token(credentials: Credentials) -> None:
    """Whatever holds the token does not show it."""
    password = azpg.EntraPassword(credentials.with_get_token())
    password()
    assert repr(password) == "<azpg.EntraPassword of WithGetToken for public>"
    shown = [vars(password), password.token(), password.stats()]
    assert credentials.secret not in repr(shown)


@pytest.mark.parametrize("cloud", ["usgov", azpg.AZURE_US_GOV], ids=["name", "cloud"])
def test_the_scope_is_the_clouds(api: Api, credentials: Credentials, cloud: Any) -> None:
    """The token is asked for the scope of the cloud, given as an object or by its name."""
    credential = credentials.with_get_token()
    ask(api, azpg.EntraPassword(credential, cloud=cloud))
    assert credential.scopes == {azpg.AZURE_US_GOV.scope}


def test_two_clouds_have_two_tokens(credentials: Credentials) -> None:
    """One credential holds a token for each scope."""
    tokens = map(str, itertools.count())
    credential = credentials.with_get_token(lambda: next(tokens))
    public, china = azpg.EntraPassword(credential), azpg.EntraPassword(credential, cloud="china")
    assert (public(), china(), public(), china()) == ("0", "1", "0", "1")


def test_what_cannot_be_meant_is_refused(credentials: Credentials) -> None:
    """An unknown cloud is refused with the known ones, client_id beside a credential as well."""
    with pytest.raises(azpg.ConfigError, match="'moon' is none of 'public', 'usgov', 'china'"):
        azpg.EntraPassword(cloud="moon")
    with pytest.raises(azpg.ConfigError, match="client_id is for the default credential"):
        azpg.EntraPassword(credentials.with_get_token(), client_id="x")


def test_the_default_credential_is_made_once(api: Api, azure: Emulator) -> None:
    """Without a credential all share the default one: one for each client_id."""
    other = azure.add_role(f"other-{api.kind}", kind="user-assigned")
    before = azure.counts
    tokens = {ask(api, azpg.EntraPassword(client_id=other.client_id)) for _ in range(3)}
    assert len(tokens) == 1
    assert (azure.counts - before).token_requests == 1
    assert azpg.EntraPassword(client_id=other.client_id).user() == other.name
    assert azpg.EntraPassword().user() == "myapp"


def test_the_default_credential_asks_the_clouds_authority(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A sovereign cloud's default credential signs in at its authority, or the environment's."""
    made = DefaultCredential(azpg.AZURE_CHINA.authority, None)
    assert made.options == {"authority": azpg.AZURE_CHINA.authority}
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", "login.example")
    assert "authority" not in DefaultCredential("login.microsoftonline.com", None).options


# Whose token


def test_two_credentials_never_share(api: Api, credentials: Credentials) -> None:
    """Each credential object has its own token, however alike the two are."""

    class Same(type(credentials.with_get_token())):  # type: ignore[misc]  # a fixture's class
        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 1

    one, other = Same(lambda: "one"), Same(lambda: "other")
    assert one == other
    assert ask(api, azpg.EntraPassword(one)) == "one"
    assert ask(api, azpg.EntraPassword(other)) == "other"
    assert ask(api, azpg.EntraPassword(one)) == "one"


def test_a_token_dies_with_its_credential(credentials: Credentials) -> None:
    """The cache keeps no credential alive, and nothing of one that is gone."""
    credential = credentials.with_get_token()
    password = azpg.EntraPassword(credential)
    password()
    alive = weakref.ref(credential)
    held = len(TOKEN_CACHE._entries)
    del credential, password
    gc.collect()
    assert alive() is None
    assert len(TOKEN_CACHE._entries) < held


def test_a_reused_id_never_serves_anothers_token(credentials: Credentials) -> None:
    """Short-lived credentials, many at the same address, each give their own."""
    ids = set()
    for number in range(1000):
        credential = credentials.with_get_token(f"token-{number}".__str__)
        ids.add(id(credential))
        assert azpg.EntraPassword(credential)() == f"token-{number}"
    assert len(ids) < 1000, "no id was used again: this test shows nothing"


def test_an_entry_of_a_dead_credential_is_never_taken(credentials: Credentials) -> None:
    """An entry left behind at an address is not the entry of who lives there now."""
    credential, other = credentials.with_get_token(lambda: "own"), credentials.with_get_token()
    azpg.EntraPassword(other)()
    slots = TOKEN_CACHE._entries
    slots[id(credential)] = slots[id(other)]
    assert azpg.EntraPassword(credential)() == "own"


def test_a_credential_without_weak_references_is_kept() -> None:
    """An object that allows no weak reference has its token too, for as long as the process."""

    class Slotted:
        __slots__ = ("calls",)

        def __init__(self) -> None:
            self.calls = 0

        def get_token(self, *_scopes: str, **_options: Any) -> AccessToken:
            self.calls += 1
            return AccessToken("slotted", 1 << 40)

    credential = Slotted()
    assert azpg.EntraPassword(credential)() == azpg.EntraPassword(credential)() == "slotted"
    assert credential.calls == 1


# How it fails


class Broken:
    """A credential that raises."""

    def __init__(self, error: Callable[[], BaseException]) -> None:
        self.error = error

    def get_token(self, *_scopes: str, **_options: Any) -> AccessToken:
        """Raise."""
        raise self.error()


@pytest.mark.parametrize(
    ("error", "said", "hint"),
    [
        (lambda: ValueError("no luck\x1b[31m"), "ValueError: no luck", "message above"),
        (lambda: KeyError("tenant"), "KeyError: 'tenant'", "message above"),
        (lambda: ImportError("No module named 'aiohttp'"), "aiohttp", "install what it names"),
        (lambda: SystemExit(3), "SystemExit: 3", "message above"),
        (RuntimeError, "RuntimeError", "message above"),
    ],
    ids=["text", "key", "import", "exit", "no-text"],
)
def test_a_credential_that_raises_is_quoted(
    api: Api, error: Callable[[], BaseException], said: str, hint: str
) -> None:
    """The credential's message is kept, without control characters; its error is the cause."""
    with pytest.raises(azpg.CredentialError) as caught:
        ask(api, azpg.EntraPassword(Broken(error)))
    assert str(caught.value).startswith("no token from Broken: ")
    assert said in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert hint in caught.value.hint
    assert caught.value.kind == "credential"
    assert type(caught.value.__cause__) is type(error())


@pytest.mark.parametrize("answer", [None, "text", object()], ids=["none", "text", "object"])
def test_an_answer_that_is_no_token_is_told(api: Api, answer: object) -> None:
    """A credential that returns something else fails as one that raised."""

    class Odd:
        def get_token(self, *_scopes: str, **_options: Any) -> Any:
            return answer

    with pytest.raises(azpg.CredentialError, match="no token from Odd: AttributeError"):
        ask(api, azpg.EntraPassword(Odd()))


@pytest.mark.parametrize("token", ["", "a\0b", "a\udcff", "a\nb", None], ids=repr)
def test_a_token_that_cannot_be_sent_is_told(
    api: Api, credentials: Credentials, token: Any
) -> None:
    """A token that is no plain text is the credential's failure, and nowhere in the error."""
    with pytest.raises(azpg.CredentialError, match="no token from WithGetToken"):
        ask(api, azpg.EntraPassword(credentials.with_get_token(lambda: token)))


def test_a_factory_that_raises_is_quoted_and_called_again(
    api: Api, clock: Clock, credentials: Credentials
) -> None:
    """A factory's failure is the credential's: it is called again a second later."""
    made: list[Any] = []

    def factory() -> Any:
        if not made:
            made.append(credentials.with_get_token())
            raise OSError("no metadata service")
        return made[0]

    password = azpg.EntraPassword(factory)
    with pytest.raises(azpg.CredentialError, match="OSError: no metadata service"):
        ask(api, password)
    clock.goes_on(1)
    assert ask(api, password) == credentials.secret


def test_a_hanging_endpoint_ends_in_time(
    api: Api, azure: Emulator, credentials: Credentials
) -> None:
    """After `timeout` seconds the caller is told."""
    password = azpg.EntraPassword(credentials.managed_identity(), timeout=0.3)
    with azure.fault(identity="hang"), pytest.raises(azpg.CredentialError) as caught:
        ask(api, password)
    assert caught.value.kind == "credential-timeout"
    assert caught.value.transient
    assert "within 0.3 s" in str(caught.value)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_is_itself(copied: Callable[[Any], Any], credentials: Credentials) -> None:
    """Frameworks copy their settings, and a password in them asks for no token of its own."""
    password = azpg.EntraPassword(credentials.with_get_token())
    assert copied({"password": password})["password"] is password
