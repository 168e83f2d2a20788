"""Messages without secrets and control characters, and `Secret`, a text with a masked repr."""

from __future__ import annotations

import copy
import json
import pickle
import pprint
import re
import reprlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.pretty import pretty_repr
from sentry_sdk.serializer import serialize

from azpg._conninfo.options import hide_secrets
from azpg._redact import MIN_SECRET_LENGTH, Secret, redact

pytestmark = pytest.mark.compat

LONG = "correct horse battery staple " * 5

# Letters, digits and punctuation that mean something to regular expressions, and blanks
TEXTS = st.text(st.sampled_from("ab1_éß!.%$^\\[(-+|… \n\x07"), max_size=24) | st.text()
SECRETS = st.lists(TEXTS.filter(lambda text: len(text) > 0 and "…" not in text), max_size=3)


def is_word_in(secret: str, text: str) -> bool:
    """Return whether a text contains a secret with no letter, digit or underscore next to it."""
    return re.search(rf"(?<!\w){re.escape(secret)}(?!\w)", text) is not None


# Messages


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("  plain\ntext \n", "plain\ntext"),
        ("a\x1b[31mred\x07", "a [31mred"),
        ("a\rb\x00c\x7fd\x9be", "a b c d e"),
        ("a\u202eb\u2066c", "a b c"),
        ("Grüße", "Grüße"),
        ("", ""),
    ],
)
def test_control_characters_are_replaced(text: str, shown: str) -> None:
    """A server's message cannot send escape sequences to the terminal."""
    assert redact(text) == shown


def test_a_secret_in_a_message_is_masked() -> None:
    """No part of a secret that contains another one is left."""
    shown = redact("x abcdefgh y abcdef", "abcdef", None, "", "abcdefgh")
    assert shown == "x … y …"


@pytest.mark.parametrize(
    ("text", "secret", "shown"),
    [
        ("a bad password for a role", "a", "… bad password for … role"),
        ("no password for user_x1", "x1", "no password for user_x1"),
        ('role "app", password=app', "app", 'role "…", password=…'),
        ("100%% of (%%)", "%%", "100%% of (…)"),
        ("wow! what, a!", "a!", "wow! what, …"),
        ("café é.", "é", "café …."),
        (r"x.y [.] \w", r"\w", "x.y [.] …"),
        ("secret5 and secret55", "secret5", "… and …5"),
        ("two words", " ", "two words"),
    ],
)
def test_a_short_secret_is_masked_as_a_whole_word(text: str, secret: str, shown: str) -> None:
    """A secret of fewer than six characters is not masked inside of words, to not reveal it."""
    assert redact(text, secret) == shown


@given(text=TEXTS, secrets=SECRETS)
def test_no_message_contains_a_secret(text: str, secrets: list[str]) -> None:
    """No message contains a long secret at all, or a short one as a whole word."""
    message = "".join([text, *(f"{secret}{text}" for secret in secrets)])
    shown = redact(message, *secrets)
    assert all(c.isprintable() or c == "\n" for c in shown)
    for secret in secrets:
        if len(secret) >= MIN_SECRET_LENGTH and not secret.isspace():
            assert secret not in shown
        elif not secret.isspace():
            assert not is_word_in(secret, shown)


@given(text=TEXTS, secrets=SECRETS)
def test_a_message_without_a_secret_is_unchanged(text: str, secrets: list[str]) -> None:
    """Masking changes nothing in a message that has no secret."""
    plain = redact(text)
    if not any(secret in text or redact(secret) in plain for secret in secrets):
        assert redact(text, *secrets) == plain


# Secret


@pytest.mark.parametrize("text", ["§", "hunter2hunter2", LONG])
def test_no_repr_shows_a_secret(text: str) -> None:
    """Neither Python's reprs nor those of Sentry and rich, which cut a long text, show it."""
    secret = Secret(text)
    frame = {"password": secret, "options": [secret, {"password": secret}], "part": secret[:100]}
    shown = [
        repr(frame),
        f"{secret!r}",
        "%r" % (secret,),  # noqa: UP031  # logging formats in this way
        pprint.pformat(frame, width=20),
        reprlib.repr(frame),
        json.dumps(serialize(frame, is_vars=True)),
        *(pretty_repr(frame, max_string=length) for length in (None, 80)),
    ]
    assert not [each for each in shown if text[:20] in each]


def test_a_slice_of_a_secret_is_a_secret() -> None:
    """A slice and a character of a secret have a masked repr, too."""
    secret = Secret("hunter2")
    assert [type(secret[0]), type(secret[2:4]), secret[2:4]] == [Secret, Secret, "nt"]


def test_a_secret_is_the_text_to_drivers() -> None:
    """It equals its text, formats as it, and str() returns it as plain text."""
    secret = Secret("hunter2")
    assert [secret, f"{secret}", secret.encode(), json.dumps(secret)] == [
        *("hunter2", "hunter2", b"hunter2", '"hunter2"')
    ]
    assert type(str(secret)) is str
    for other in (copy.deepcopy(secret), pickle.loads(pickle.dumps(secret))):
        assert (other, type(other)) == ("hunter2", Secret)


# Options


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"password": "hunter2"}, False),
        ({"sslpassword": "hunter2"}, False),
        ({"scram_client_key": "hunter2"}, False),
        ({"conninfo": "password=hunter2"}, False),
        ({"passwrd": "hunter2"}, False),
        ({"host": "app:hunter2@myserver"}, False),
        ({"host": "myserver:5432:mydb:app:hunter2"}, False),
        ({"dbname": "mydb;Password=hunter2"}, False),
        ({"user": ["app", "postgresql://app:hunter2@/"]}, False),
        ({"pool": {"kwargs": {"password": "hunter2"}}}, False),
        ({"credential": "eyJhbGciOi.hunter2"}, False),
        ({"user": "hunter2@contoso.com", "port": 5432}, True),
        ({"host": ["hunter2", "other"], "sslrootcert": "/etc/root.pem"}, True),
        ({"name": "hunter2"}, True),
    ],
    ids=repr,
)
def test_options_show_no_text_that_may_be_a_secret(options: dict[str, Any], shown: bool) -> None:
    """A secret, a misspelled one and one inside another text are masked, and nothing else is."""
    hidden = hide_secrets(options, known={"name"})
    assert hidden == options
    assert ("hunter2" in repr(hidden)) is shown
