"""A function that returns a token's text as the credential, as notebooks of Fabric have one."""

from __future__ import annotations

import base64
import functools
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from azure.core.credentials import AccessToken

import azpg
import azpg.asyncpg

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_api import Api
    from fix_asyncpg import Run
    from fix_clock import Clock
    from fix_credentials import Credentials
    from fix_django import Databases
    from fix_leaks import Leaks
    from fix_refresh import Background
    from fix_sqlalchemy import Engines
    from fix_subprocess import Program

    from azpg.emulator import Emulator

WHO = "select current_user"
DATABASE = "https://ossrdbms-aad.database.windows.net"


def jwt(**claims: object) -> str:
    """Return an unsigned token with these claims."""
    head, body = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in ({"alg": "none"}, claims)
    )
    return f"{head}.{body}.c2lnbmF0dXJl"


class Function:
    """A function that counts its calls, and returns what `answer` does."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        self.calls = 0
        self._answer = answer

    def __call__(self) -> Any:
        self.calls += 1
        return self._answer()


class AsyncFunction(Function):
    """Is awaited."""

    async def __call__(self) -> Any:
        return super().__call__()


class Lambda(Function):
    """Returns what must be awaited, as a lambda around an async function does."""

    def __call__(self) -> Any:
        async def answer() -> Any:
            return super(Lambda, self).__call__()

        return answer()


forms = pytest.mark.parametrize(
    ("api", "form"),
    [("sync", Function), ("async", Function), ("async", AsyncFunction), ("async", Lambda)],
    indirect=["api"],
)


def ask(api: Api, password: azpg.EntraPassword) -> str:
    """Return a token."""
    return str(api.run(password.call_async()) if api.kind == "async" else password())


# Tokens


@forms
def test_a_function_that_returns_text_signs_in(
    api: Api, azure: Emulator, form: type[Function]
) -> None:
    """Its token is cached, and its user is read from the claims."""
    function = form(azure.token)
    for _ in range(3):
        with api.connect(credential=function) as conn:
            assert api.row(conn, WHO) == ("myapp",)
    with api.pool(credential=function, min_size=1) as pool:
        assert api.row_of_pool(pool, WHO) == ("myapp",)
    assert function.calls == 1


@forms
def test_the_function_is_called_for_each_new_token(
    api: Api, azure: Emulator, form: type[Function]
) -> None:
    """What it returned first decides that it is called again."""
    function = form(azure.token)
    password = azpg.EntraPassword(function)
    tokens = set()
    for _ in range(3):
        tokens.add(ask(api, password))
        password.invalidate()
    assert (function.calls, len(tokens)) == (3, 3)


def test_the_token_is_refreshed_before_it_expires(
    api: Api, azure: Emulator, clock: Clock, background: Background
) -> None:
    """Its lifetime is that of the claims: near its end the function is called in the background."""
    clock.of(azure)
    function = Function(lambda: azure.token(lifetime=3600))
    password = azpg.EntraPassword(function)
    first = ask(api, password)
    assert 3500 < (password.stats().seconds_to_expiry or 0) <= 3600
    clock.goes_on(3370)
    assert ask(api, password) == first
    background.landed()
    assert function.calls == 2
    assert ask(api, password) != first


def test_a_rejected_token_is_replaced_once(api: Api, azure: Emulator) -> None:
    """If the server rejects the token, the function is called for another one."""
    tokens = iter([azure.token(lifetime=-60), azure.token()])
    claims = {"exp": int(time.time()) + 3600}
    function = Function(lambda: next(tokens))
    with pytest.raises(azpg.CredentialError, match="with 0 s left"):  # not even sent
        api.open(credential=function, retry_timeout=0)
    wrong = iter([jwt(aud=DATABASE, **claims), azure.token()])
    function = Function(lambda: next(wrong))
    with api.connect(credential=function, user="myapp") as conn:
        assert api.row(conn, WHO) == ("myapp",)
    assert function.calls == 2


def test_the_integrations_take_it(
    azure: Emulator, engines: Engines, databases: Databases, run: Run
) -> None:
    """SQLAlchemy, Django and asyncpg hand the function on."""
    function = Function(azure.token)
    engine = engines.make(connect_args={"credential": function})
    assert engines.scalar(engine, WHO) == "myapp"
    if engines.api.kind == "async":

        async def who() -> Any:
            conn = await azpg.asyncpg.connect(server="myserver", credential=function)
            try:
                return await conn.fetchval(WHO)
            finally:
                await conn.close()

        assert run(who()) == "myapp"
    else:
        with databases(OPTIONS={"credential": function}).cursor() as cursor:
            assert cursor.execute(WHO).fetchone() == ("myapp",)
    assert function.calls == 1


def test_a_partial_is_a_function(api: Api, azure: Emulator) -> None:
    """As notebookutils.credentials.getToken with its audience."""
    with api.connect(credential=functools.partial(azure.token, resource=DATABASE)) as conn:
        assert api.row(conn, WHO) == ("myapp",)


# What is not a token


EXPIRES = int(time.time()) + 3600
INVALID: dict[str, tuple[Any, str]] = {
    "no exp": (jwt(aud=DATABASE), "does not say when it expires"),
    "exp is text": (jwt(aud=DATABASE, exp="soon"), "does not say when it expires"),
    "exp is infinite": (jwt(aud=DATABASE, exp=float("inf")), "does not say when it expires"),
    "exp is no number": (jwt(aud=DATABASE, exp=float("nan")), "does not say when it expires"),
    "exp is huge": (jwt(aud=DATABASE, exp=10**400), "does not say when it expires"),
    "exp is negative": (jwt(aud=DATABASE, exp=-1), "does not say when it expires"),
    "no claims": ("eyJhbGciOiJub25lIn0.bm90IGpzb24.c2ln", "does not say when it expires"),
    "empty": ("", "is not a token"),
    "a password": ("hunter2hunter2", "is not a token"),
    "a line break": (jwt(exp=EXPIRES) + "\n", "without Bearer, quotes, spaces or line breaks"),
    "a header": ("Bearer " + jwt(exp=EXPIRES), "without Bearer"),
    "quoted": (f'"{jwt(exp=EXPIRES)}"', "quotes"),
    "management": (jwt(aud="https://management.azure.com", exp=EXPIRES), "management.azure.com"),
    "None": (None, "NoneType, which is neither a credential nor the text"),
    "bytes": (jwt(exp=EXPIRES).encode(), "bytes, which is neither"),
    "an AccessToken": (AccessToken(jwt(exp=EXPIRES), EXPIRES), "return its .token"),
}


@forms
@pytest.mark.parametrize(("returned", "message"), INVALID.values(), ids=INVALID)
def test_what_is_no_token_is_an_error(
    api: Api, azure: Emulator, leaks: Leaks, form: type[Function], returned: Any, message: str
) -> None:
    """The error says what is wrong with it, names what to return, and does not show it."""
    before = azure.counts
    with pytest.raises(azpg.CredentialError) as caught:
        api.open(credential=form(lambda: returned), retry_timeout=0)
    assert message in str(caught.value)
    assert DATABASE in caught.value.hint
    assert not caught.value.transient
    assert (azure.counts - before).connections == 0
    if isinstance(returned, str) and returned:
        leaks.none_shown(caught.value, returned.strip())


@forms
@pytest.mark.parametrize("first", ["text", "credential"])
def test_a_function_that_changes_its_mind_is_an_error(
    api: Api, azure: Emulator, credentials: Credentials, form: type[Function], first: str
) -> None:
    """What it returns first decides; the other one is refused from then on."""
    answers: list[Any] = [azure.token(), credentials.with_get_token(azure.token)]
    function = form(answers.pop if first == "credential" else lambda: answers.pop(0))
    password = azpg.EntraPassword(function)
    ask(api, password)
    password.invalidate()
    if first == "credential":  # it is kept, until azpg has to make it again
        ask(api, password)
        assert function.calls == 1
        password._entry.holder.made = None
        password.invalidate()
    with pytest.raises(azpg.CredentialError, match=f"returned a {first} at first and now a"):
        ask(api, password)


def test_a_forked_child_keeps_what_was_decided(program: Program) -> None:
    """There the function is called again, and must return the same kind."""

    def main() -> None:
        import base64
        import json

        import pytest
        from azure.core.credentials import AccessToken

        import azpg

        class Credential:
            def get_token(self, *_scopes: str, **_options: object) -> AccessToken:
                return AccessToken("token", 1 << 40)

        claims = base64.b64encode(json.dumps({"exp": 1 << 39}).encode()).decode().rstrip("=")
        answers: list[object] = [f"e30.{claims}.x", Credential()]
        password = azpg.EntraPassword(answers.pop)  # type: ignore[arg-type]
        password()
        password.invalidate()

        def work() -> None:
            with pytest.raises(azpg.CredentialError, match="returned a credential at first"):
                password()

        ended_well(forked(work))

    from fix_fork import ended_well, forked

    program(main, forked, ended_well)


# Where the token may go, and who sees it


@pytest.mark.parametrize(
    "place",
    [{"host": "db.evil.example"}, {"host": "localhost"}, {"hostaddr": "127.0.0.1"}],
    ids=str,
)
def test_its_token_goes_only_to_azure(api: Api, place: dict[str, str]) -> None:
    """Any other host is refused before the function is called."""
    function = Function(lambda: jwt(exp=EXPIRES))
    with pytest.raises(azpg.ConfigError):
        api.open(credential=function, **place)
    assert function.calls == 0


@pytest.mark.parametrize("function", [AsyncFunction(str), AsyncFunction(str).__call__])
def test_the_sync_api_takes_no_async_function(function: Any) -> None:
    """The error says so before anything is called."""
    with pytest.raises(azpg.ConfigError, match="async function: use connect_async"):
        azpg.connect(server="myserver", credential=function)


def test_the_sync_api_cannot_await_what_a_function_returns() -> None:
    """If only the call shows it, the error says what to use."""
    function: Any = Lambda(lambda: jwt(exp=EXPIRES))
    with pytest.raises(azpg.CredentialError, match="a plain function") as caught:
        azpg.connect(server="myserver", credential=function, retry_timeout=0)
    assert "connect_async()" in str(caught.value)


@forms
@pytest.mark.parametrize("failure", ["role", "raised", "quoted"])
def test_its_token_is_not_shown(
    api: Api, azure: Emulator, leaks: Leaks, form: type[Function], failure: str
) -> None:
    """Whatever goes wrong, the text is in no error, repr or log; the function's own line stays."""
    token = azure.token()

    def answer() -> str:
        if failure == "raised":
            raise ConnectionError("the notebook has no session")
        if failure == "quoted":
            raise ConnectionError(f"cannot use {token}")
        return token

    function = form(answer)
    with pytest.raises(azpg.ConnectError) as caught:
        api.open(credential=function, user="nobody", retry_timeout=0)
    leaks.none_shown(caught.value, token)
    if failure == "raised":
        assert isinstance(caught.value.__cause__, ConnectionError)


def test_its_token_is_not_logged(api: Api, azure: Emulator, leaks: Leaks) -> None:
    """A connect that succeeds logs none of it."""
    token = azure.token()
    with api.connect(credential=lambda: token) as conn:
        leaks.none_in_logs(token)
        assert token not in repr(conn) + conn.info.dsn
    assert token not in repr(azpg.EntraPassword(lambda: token))
