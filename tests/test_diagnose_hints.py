"""What to type next, and words that are fit to print."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import azpg
from azpg import _diagnose

HOST = "myserver.postgres.database.azure.com"
FATAL = 'connection failed: connection to server at "192.0.2.1", port 5432 failed: FATAL:  '
CONTEXT = _diagnose.Context(
    host=HOST,
    port="5432",
    user="alice",
    entra=True,
    scope=azpg.AZURE_PUBLIC.scope,
    secret_length=5000,
)


def hint(text: str, **changes: object) -> str:
    """Return the hint for a text."""
    fields = {name: getattr(CONTEXT, name) for name in CONTEXT.__slots__} | changes
    return _diagnose.diagnose(text, _diagnose.Context(**fields)).hint


def test_an_unknown_role_is_told_how_to_make_it() -> None:
    """The statement for its administrator, with the name quoted as SQL."""
    text = FATAL + "password authentication failed"
    assert "pgaadauth_create_principal('o''brien@x', false, false)" in hint(text, user="o'brien@x")
    assert hint(text, entra=False) == "check user='alice' and its password"


def test_a_refused_pgbouncer_is_told_how_to_turn_on() -> None:
    """PgBouncer's ports say which parameter; any other port names the server."""
    text = "Connection refused"
    for port in ("6432", "8432"):
        assert "pgbouncer.enabled" in hint(text, port=port)
    assert hint(text) == f"nothing listens on port 5432 of {HOST}"


def test_a_wrong_audience_tells_the_scope() -> None:
    """What was asked for, as the server would name it."""
    told = hint(FATAL + "no valid audience claim")
    assert "https://ossrdbms-aad.database.windows.net:" in told
    assert "cloud=" in told


def test_a_long_token_is_told_by_its_bytes() -> None:
    """And by the way round PgBouncer."""
    told = hint(FATAL + "packet too long")
    assert "5000 bytes" in told
    assert "pgbouncer=False" in told


@pytest.mark.parametrize("text", ["SSL error: certificate verify failed", "does not support SSL"])
def test_tls_may_be_left_out_on_ones_own_machine_only(text: str) -> None:
    """The way out is told for a password, never for a token."""
    assert "sslmode=disable" in hint(text, entra=False)
    assert "sslmode=disable" not in hint(text)


def test_an_unknown_root_tells_of_certifi() -> None:
    """A new root of Azure's needs no release of azpg."""
    assert "PGSSLROOTCERT=$(python -m certifi)" in hint("unable to get local issuer certificate")


def test_an_unknown_root_names_the_file_of_the_caller() -> None:
    """A file of roots that was set long ago may lack today's."""
    told = hint("certificate verify failed", root_file="/etc/BaltimoreCyberTrustRoot.crt")
    assert "/etc/BaltimoreCyberTrustRoot.crt (sslrootcert or PGSSLROOTCERT)" in told


# Words fit to print


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
def test_control_characters_are_blanked(text: str, shown: str) -> None:
    """A server's text is not trusted with the terminal."""
    assert _diagnose.shown(text) == shown


def test_a_secret_thrown_back_is_cut_out() -> None:
    """The longest first, so that of one inside another nothing is left; nothing for none."""
    assert _diagnose.shown("x abcd y abc", "abc", None, "", "abcd") == "x … y …"


@given(
    text=st.text(),
    secret=st.text(min_size=1).filter(lambda s: s.isprintable() and not set(s) & set(" …")),
)
def test_no_control_character_and_no_secret_is_shown(text: str, secret: str) -> None:
    """Whatever the server says."""
    shown = _diagnose.shown(f"{text}{secret}{text}", secret)
    assert all(c.isprintable() or c == "\n" for c in shown)
    assert secret not in shown


# Credentials and callbacks


def test_a_credentials_words_are_kept() -> None:
    """What it said, its name, and what to do."""
    text, kind, hint = _diagnose.credential("AzureCliCredential", RuntimeError("no\x1b login"))
    assert text == "no token from AzureCliCredential: RuntimeError: no  login"
    assert (kind, hint) == (
        "credential",
        "AzureCliCredential could not sign in: its own words above say why",
    )


def test_the_default_credential_is_told_az_login() -> None:
    """And the managed identity."""
    _, _, hint = _diagnose.credential("DefaultAzureCredential", RuntimeError())
    assert "az login" in hint
    assert "client_id=" in hint


def test_a_credential_that_says_nothing_is_told_by_its_error() -> None:
    """An empty message leaves the type."""
    assert _diagnose.credential("X", KeyError())[0].endswith("KeyError: KeyError")


def test_a_missing_package_is_told_as_such() -> None:
    """A credential of azure.identity.aio without aiohttp, say."""
    assert _diagnose.credential("X", ImportError("aiohttp"))[2].startswith("install what it names")


def test_a_late_credential_is_told_by_its_time() -> None:
    """With the way to name one credential of the chain."""
    text, kind, hint = _diagnose.credential_late("X", 1.5)
    assert (text, kind) == ("no token from X within 1.5 s", "credential-timeout")
    assert "AZURE_TOKEN_CREDENTIALS" in hint


def test_a_callbacks_failure_is_a_credential_error() -> None:
    """It raised, or gave no password."""
    raised = _diagnose.callback(RuntimeError("no vault"))
    assert isinstance(raised, azpg.CredentialError)
    assert str(raised).startswith("the password callback raised RuntimeError: no vault")
    assert str(_diagnose.callback(None, "int")).startswith("the password callback returned int")
    assert raised.kind == "callback"
