"""What a token says of itself is unverified: nothing of it reaches libpq or a terminal as it is."""

from __future__ import annotations

import io
import logging
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from azure.core.credentials import AccessToken
from django.db import OperationalError as DjangoError
from fix_users import jwt
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError

import azpg
import azpg.asyncpg
from azpg import _child_env
from azpg._cli import demo
from azpg._clouds import AZURE_PUBLIC
from azpg._connect import Call
from azpg._doctor.checks import examine
from azpg._doctor.report import Report
from azpg._doctor.result import Step
from azpg._doctor.token import judged
from azpg._redact import CLAIM_CHARACTERS, sanitized
from azpg._tokens.token import lifetime, no_role_message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fix_api import Api
    from fix_asyncpg import Run
    from fix_django import Databases
    from fix_sqlalchemy import Engines
    from fix_users import Users

    from azpg.emulator import Emulator

NOWHERE: dict[str, Any] = {"server": "myserver", "hostaddr": "127.0.0.1", "port": 1}
"""where nobody listens, so that a call ends with its claims already read"""

MANY = 10_000
"""characters, far more than any message may have"""


class Claiming:
    """A credential whose tokens say what they are told."""

    def __init__(self, claims: object) -> None:
        self._token = jwt(claims)

    def get_token(self, *_scopes: str, **_options: Any) -> AccessToken:
        """Return a token."""
        return AccessToken(self._token, int(time.time() + 3600))


def printable(text: str) -> bool:
    """Tell whether a terminal shows a text as it is."""
    return all(c.isprintable() or c == "\n" for c in text)


BAD = ["\0", "\n", "\r", "\t", "\x1b[31m", "\x7f", "\x9b", "\u200b", "\u202e", "\ud800"]


# Names that libpq must not be given


@pytest.mark.parametrize("bad", BAD, ids=ascii)
@pytest.mark.parametrize("claim", ["upn", "preferred_username", "unique_name", "xms_mirid"])
def test_a_user_name_that_is_not_printable_is_an_error(claim: str, bad: str) -> None:
    """user() raises, and says why and what to type; a NUL is called by its name."""
    password = azpg.EntraPassword(Claiming({claim: f"/a/b/alice{bad}sslmode=disable"}))
    with pytest.raises(azpg.CredentialError) as caught:
        password.user()
    assert caught.value.kind == "no-user"
    assert ("NUL" if bad == "\0" else "cannot be printed") in str(caught.value)
    assert 'user="' in caught.value.hint
    assert printable(str(caught.value))


@pytest.mark.parametrize("bad", ["\0", "\x1b", "\ud800"], ids=ascii)
def test_no_entry_point_hands_it_over(
    api: Api, engines: Engines, run: Run, databases: Databases, bad: str
) -> None:
    """connect(), pools, asyncpg, commands, SQLAlchemy and Django raise before they connect."""
    options: Any = NOWHERE | {"credential": Claiming({"upn": f"alice{bad}host\0x"})}
    calls: list[Callable[[], object]] = [
        lambda: api.open(**options),
        lambda: api.open_pool(**options, min_size=1),
        lambda: run(azpg.asyncpg.connect(**options)),
        lambda: _child_env.environment(**options),
        lambda: engines.open(engines.make("postgresql+azpg://", connect_args=options)),
        lambda: databases(OPTIONS=options).ensure_connection(),
    ]
    for call in calls:
        with pytest.raises((azpg.CredentialError, OperationalError, DjangoError)) as caught:
            call()
        assert azpg.explain(caught.value).kind == "no-user", caught.value
        assert printable(str(caught.value))


def test_an_explicit_user_reads_no_claim(api: Api, azure: Emulator, users: Users) -> None:
    """With user= a token signs in whatever name it has."""
    with api.connect(user="myapp", credential=users.per_user(lambda _user: azure.token())) as conn:
        assert conn.info.user == "myapp"
    with pytest.raises(azpg.UnreachableError):
        api.open(**NOWHERE, user="x", retry_timeout=0, credential=Claiming({"upn": "a\0b"}))


# What is printed


def test_a_claim_is_shown_as_one_short_printable_line() -> None:
    """Line breaks and escapes become spaces, lists their type, and a long value its beginning."""
    assert sanitized("a\nHINT: b\x1b[2J\u202ec") == "a HINT: b [2J c"
    assert sanitized(["\x1b"]) == "list"
    assert sanitized(None) == "NoneType"
    assert sanitized(7) == "7"
    assert sanitized("x" * MANY) == "x" * CLAIM_CHARACTERS + "…"
    resource = f"/subscriptions/{'0' * 36}/resourcegroups/{'r' * 90}/providers/Microsoft."
    resource += f"ManagedIdentity/userAssignedIdentities/{'i' * 128}"
    assert sanitized(resource) == resource


def test_a_nameless_tokens_ids_are_sanitized() -> None:
    """Neither an escape nor a hint of their own gets into the sentence."""
    said = no_role_message({"appid": "a\x1b[2J", "oid": "b\nHINT: run this"})
    assert said.endswith("(appid a [2J, oid b HINT: run this)")
    assert len(no_role_message({"appid": "x" * MANY, "oid": "y" * MANY})) < 1000


def test_numbers_beyond_any_clock_are_borne() -> None:
    """Times too large for a float neither break a token nor the doctor's look at it."""
    far = 10**2000
    assert lifetime({"iat": 0, "exp": far}) is None
    assert azpg.EntraPassword(Claiming({"upn": "alice", "iat": -far, "exp": far})).user() == "alice"
    found = judged({"nbf": far}, AZURE_PUBLIC, 0.0)
    assert found.status == "warning"
    assert len(found.problem) < 2 * CLAIM_CHARACTERS


def test_the_demo_prints_no_claim_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its line for each claim is sanitized."""
    claims = {"aud": "\x1b[2J", "oid": "a\nb", "xms_mirid": "/a/b/myapp", "tid": "x"}
    password = azpg.EntraPassword(Claiming(claims))
    monkeypatch.setattr(azpg, "EntraPassword", lambda: password)
    demo._token_step()
    shown = capsys.readouterr().out
    assert printable(shown)
    assert "oid       a b\n" in shown


NAMES = (
    *("aud", "tid", "oid", "sub", "appid", "azp", "upn", "preferred_username", "unique_name"),
    *("xms_mirid", "iat", "nbf", "exp"),
)
TEXTS = (
    st.text()
    | st.sampled_from(BAD).map(lambda bad: f"/a/b/{bad}c")
    | st.sampled_from(BAD).map(lambda bad: f"https://{bad * MANY}")
)
VALUES = (
    TEXTS
    | st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.lists(TEXTS, max_size=2)
    | st.dictionaries(TEXTS, TEXTS, max_size=2)
)


@pytest.fixture(scope="module")
def logged() -> Iterator[list[str]]:
    """Record what azpg logs, at any level, while the examples run."""
    texts: list[str] = []

    class Recording(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            texts.append(record.getMessage())

    logger, handler, level = logging.getLogger("azpg"), Recording(), logging.getLogger("azpg").level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield texts
    logger.removeHandler(handler)
    logger.setLevel(level)


def check(claims: object, logged: list[str]) -> None:
    """See that all that azpg prints or raises for a token is printable, and not long."""
    credential = Claiming(claims)
    printed: list[str] = []
    try:
        assert azpg.EntraPassword(credential).user().isprintable()
    except azpg.CredentialError as error:
        printed.append(str(error))
    with pytest.raises(azpg.ConnectError) as caught:
        azpg.connect(**NOWHERE, credential=credential, retry_timeout=0)
    printed += [str(caught.value), caught.value.hint, azpg.explain(caught.value).hint]
    stream = io.StringIO()
    report = Report(stream, {})
    walked = examine(NOWHERE | {"credential": credential})
    steps = [each for each in walked if isinstance(each, Step)]
    for step in steps:
        report.step(step)
        printed += [step.found.problem, step.found.hint, repr(step.as_data())]
    report.end(steps)
    printed += [stream.getvalue(), *logged]
    logged.clear()
    for text in printed:
        assert printable(text)
        assert len(text) < 20 * CLAIM_CHARACTERS


@settings(max_examples=30)  # each looks at every place that prints a claim
@given(st.dictionaries(st.sampled_from(NAMES), VALUES) | st.dictionaries(TEXTS, VALUES))
@example({"aud": "https://x\x1b[2J", "nbf": 10**300})
@example({"upn": "x" * MANY})
def test_nothing_of_a_claim_reaches_a_terminal_as_it_is(
    logged: list[str], claims: dict[str, Any]
) -> None:
    """Errors, hints, logs, user names and the doctor's report are printable, and not long."""
    check(claims, logged)


def test_deeply_nested_claims_are_no_recursion(logged: list[str]) -> None:
    """Lists in lists, as deep as JSON is read, are shown by their type."""
    deep: list[object] = ["\x1b"]
    for _ in range(800):
        deep = [deep]
    check(dict.fromkeys(NAMES, deep), logged)
    check({"appid": deep, "oid": deep}, logged)


def test_a_long_name_is_not_shown_whole() -> None:
    """The hint of a refused sign-in has the beginning of the token's user name."""
    own = {"client_id": None, "password": None, "pgbouncer": None, "cloud": None}
    credential = Claiming({"upn": "x" * MANY})
    call = Call("", {}, server="myserver", credential=credential, **own, is_async=False)
    call.answer()
    call.failed(psycopg.OperationalError('password authentication failed for user "xx"'))
    assert isinstance(call.error, azpg.LoginError)
    assert "x" * CLAIM_CHARACTERS in call.error.hint
    assert len(call.error.hint) < 10 * CLAIM_CHARACTERS
