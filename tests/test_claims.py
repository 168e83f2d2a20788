"""The claims of a token are unverified: none reaches libpq or a terminal unsanitized."""

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
from azpg._connect import ConnectRequest
from azpg._conninfo.options import ConnectOptions
from azpg._doctor.checks import run_checks
from azpg._doctor.report import TextReport
from azpg._doctor.result import Step
from azpg._doctor.token import check_token
from azpg._redact import MAX_CLAIM_CHARACTERS, sanitized
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
"""a closed port, so that a connect fails after the claims have been read"""

MANY = 10_000
"""characters: more than any message may have"""


class Claiming:
    """A credential whose tokens have the given claims."""

    def __init__(self, claims: object) -> None:
        self._token = jwt(claims)

    def get_token(self, *_scopes: str, **_options: Any) -> AccessToken:
        """Return a token."""
        return AccessToken(self._token, int(time.time() + 3600))


def printable(text: str) -> bool:
    """Return whether a text has no control characters except line breaks."""
    return all(c.isprintable() or c == "\n" for c in text)


BAD = ["\0", "\n", "\r", "\t", "\x1b[31m", "\x7f", "\x9b", "\u200b", "\u202e", "\ud800"]


# User names


@pytest.mark.parametrize("bad", BAD, ids=ascii)
@pytest.mark.parametrize("claim", ["upn", "preferred_username", "unique_name", "xms_mirid"])
def test_a_user_name_that_is_not_printable_is_an_error(claim: str, bad: str) -> None:
    """`user()` raises an error with a reason and a hint; a NUL is named."""
    password = azpg.EntraPassword(Claiming({claim: f"/a/b/alice{bad}sslmode=disable"}))
    with pytest.raises(azpg.CredentialError) as caught:
        password.user()
    assert caught.value.kind == "no-user"
    assert ("NUL" if bad == "\0" else "cannot be printed") in str(caught.value)
    assert 'user="' in caught.value.hint
    assert printable(str(caught.value))


@pytest.mark.parametrize("bad", ["\0", "\x1b", "\ud800"], ids=ascii)
def test_no_entry_point_passes_it_to_libpq(
    api: Api, engines: Engines, run: Run, databases: Databases, bad: str
) -> None:
    """connect(), pools, asyncpg, commands, SQLAlchemy and Django raise before they connect."""
    options: Any = NOWHERE | {"credential": Claiming({"upn": f"alice{bad}host\0x"})}
    calls: list[Callable[[], object]] = [
        lambda: api.open(**options),
        lambda: api.open_pool(**options, min_size=1),
        lambda: run(azpg.asyncpg.connect(**options)),
        lambda: _child_env.child_environment(**options),
        lambda: engines.open(engines.make("postgresql+azpg://", connect_args=options)),
        lambda: databases(OPTIONS=options).ensure_connection(),
    ]
    for call in calls:
        with pytest.raises((azpg.CredentialError, OperationalError, DjangoError)) as caught:
            call()
        assert azpg.explain(caught.value).kind == "no-user", caught.value
        assert printable(str(caught.value))


def test_with_an_explicit_user_no_claim_is_read(api: Api, azure: Emulator, users: Users) -> None:
    """A token with any name is used."""
    with api.connect(user="myapp", credential=users.per_user(lambda _user: azure.token())) as conn:
        assert conn.info.user == "myapp"
    with pytest.raises(azpg.UnreachableError):
        api.open(**NOWHERE, user="x", retry_timeout=0, credential=Claiming({"upn": "a\0b"}))


# Messages


def test_a_sanitized_claim_is_one_short_printable_line() -> None:
    """Line breaks and escapes become spaces, a list its type, and a long value is cut."""
    assert sanitized("a\nHINT: b\x1b[2J\u202ec") == "a HINT: b [2J c"
    assert sanitized(["\x1b"]) == "list"
    assert sanitized(None) == "NoneType"
    assert sanitized(7) == "7"
    assert sanitized("x" * MANY) == "x" * MAX_CLAIM_CHARACTERS + "…"
    resource = f"/subscriptions/{'0' * 36}/resourcegroups/{'r' * 90}/providers/Microsoft."
    resource += f"ManagedIdentity/userAssignedIdentities/{'i' * 128}"
    assert sanitized(resource) == resource


def test_a_nameless_tokens_ids_are_sanitized() -> None:
    """Neither an escape nor a line break gets into the message."""
    message = no_role_message({"appid": "a\x1b[2J", "oid": "b\nHINT: run this"})
    assert message.endswith("(appid a [2J, oid b HINT: run this)")
    assert len(no_role_message({"appid": "x" * MANY, "oid": "y" * MANY})) < 1000


def test_times_that_are_too_large_for_a_float_are_no_error() -> None:
    """They break neither a token nor the doctor's check of it."""
    far = 10**2000
    assert lifetime({"iat": 0, "exp": far}) is None
    assert azpg.EntraPassword(Claiming({"upn": "alice", "iat": -far, "exp": far})).user() == "alice"
    found = check_token({"nbf": far}, AZURE_PUBLIC, 0.0)
    assert found.status == "warning"
    assert len(found.problem) < 2 * MAX_CLAIM_CHARACTERS


def test_the_demo_sanitizes_claims(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It prints each one on one line."""
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
    """Check that all that azpg prints or raises for a token is printable and short."""
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
    report = TextReport(stream, {})
    results = run_checks(NOWHERE | {"credential": credential})
    steps = [each for each in results if isinstance(each, Step)]
    for step in steps:
        report.print_step(step)
        printed += [step.result.problem, step.result.hint, repr(step.to_json())]
    report.print_summary(steps)
    printed += [stream.getvalue(), *logged]
    logged.clear()
    for text in printed:
        assert printable(text)
        assert len(text) < 20 * MAX_CLAIM_CHARACTERS


@settings(max_examples=30)  # each runs everything that prints a claim
@given(st.dictionaries(st.sampled_from(NAMES), VALUES) | st.dictionaries(TEXTS, VALUES))
@example({"aud": "https://x\x1b[2J", "nbf": 10**300})
@example({"upn": "x" * MANY})
def test_every_message_with_a_claim_is_printable_and_short(
    logged: list[str], claims: dict[str, Any]
) -> None:
    """Errors, hints, logs, user names and the doctor's report."""
    check(claims, logged)


def test_deeply_nested_claims_are_no_error(logged: list[str]) -> None:
    """Python reads JSON to some depth; of such a list only the type is printed."""
    deep: list[object] = ["\x1b"]
    for _ in range(800):
        deep = [deep]
    check(dict.fromkeys(NAMES, deep), logged)
    check({"appid": deep, "oid": deep}, logged)


def test_a_long_name_is_not_shown_whole() -> None:
    """The hint of a refused sign-in has the beginning of the token's user name."""
    options = ConnectOptions(server="myserver", credential=Claiming({"upn": "x" * MANY}))
    request = ConnectRequest(options, is_async=False)
    request.login()
    error = psycopg.OperationalError('password authentication failed for user "xx"')
    with pytest.raises(azpg.LoginError) as caught:
        request.handle_failure(error)
    assert "x" * MAX_CLAIM_CHARACTERS in caught.value.hint
    assert len(caught.value.hint) < 10 * MAX_CLAIM_CHARACTERS
