"""What a driver's text means: every row of the table is hit by a text that was really seen."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest

import azpg
from azpg._diagnosis.classify import diagnose, telling
from azpg._diagnosis.hints import Context
from azpg._diagnosis.patterns import TABLE

HOST = "myserver.postgres.database.azure.com"
AT = 'connection failed: connection to server at "192.0.2.1", port 5432 failed: '
FATAL = AT + "FATAL:  "
CONTEXT = Context(
    host=HOST,
    port="5432",
    user="alice",
    dbname="shop",
    entra=True,
    scope=azpg.AZURE_PUBLIC.scope,
    secret_length=5000,
)


class Seen(NamedTuple):
    """What one kind of `seen_failures.txt` is."""

    error: str
    transient: bool
    texts: list[str]


def seen() -> dict[str, Seen]:
    """Return Azure's, PostgreSQL's, PgBouncer's, libpq's and psycopg's texts by their kind."""
    kinds: dict[str, Seen] = {}
    for line in (Path(__file__).parent / "seen_failures.txt").read_text("utf-8").splitlines():
        if head := re.fullmatch(r"\[([\w-]+) (\w+)( transient)?\]", line):
            kind = head[1]
            kinds[kind] = Seen(head[2], bool(head[3]), [])
        elif line and not line.startswith("#"):
            text = re.sub("^FATAL:", "@ FATAL:", line)
            text = re.sub("^@ ", AT, text).replace("\\n", "\n").replace("\\t", "\t")
            kinds[kind].texts.append(text)
    return kinds


SEEN = seen()
TEXTS = [(kind, text) for kind, found in SEEN.items() for text in found.texts]


@pytest.mark.parametrize(("kind", "text"), TEXTS)
def test_a_text_that_was_seen_is_known(kind: str, text: str) -> None:
    """Its kind, its class and whether it may mend itself, in capitals or not."""
    for said in (text, text.upper(), text.lower()):
        found = diagnose(said, CONTEXT)
        meant = (kind, SEEN[kind].error, SEEN[kind].transient)
        assert (found.kind, found.error.__name__, found.transient) == meant


def test_every_row_of_the_table_has_been_seen() -> None:
    """No row stands there on a guess, and every one says what to type."""
    told = [telling(text) for _, text in TEXTS]
    assert {found[0].pattern for found in told if found} == {row.pattern for row in TABLE}
    assert list(dict.fromkeys(row.kind for row in TABLE)) == list(SEEN)
    assert all(row.hint for row in TABLE if row.kind != "config")


def test_a_kinds_rows_agree() -> None:
    """They differ in the hint alone: a kind has one error, and may mend itself or not."""
    for kind, (error, transient, _) in SEEN.items():
        rows = [row for row in TABLE if row.kind == kind]
        assert {(row.error.__name__, row.transient) for row in rows} == {(error, transient)}


@pytest.mark.parametrize("text", ["", "something new", FATAL + "bouncer config error"])
def test_a_text_that_none_knows_passes(text: str) -> None:
    """No guess: a ConnectError without a hint, and not tried again."""
    found = diagnose(text, CONTEXT)
    assert (found.kind, found.error, found.hint) == ("unknown", azpg.ConnectError, "")
    assert not found.transient


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["Connection refused", "SSL error: certificate verify failed"], "certificate"),
        (["Network is unreachable", 'FATAL:  role "x" does not exist'], "no-role"),
        (["timeout expired", "Connection refused"], "timeout"),
        (["FATAL:  the database system is starting up", "Connection refused"], "starting"),
        (["Connection refused", "FATAL:  The access token has expired."], "token-expired"),
    ],
)
def test_the_telling_one_of_several_attempts_counts(texts: list[str], kind: str) -> None:
    """In whichever order psycopg joins them: the last does not hide the first."""
    for said in (texts, texts[::-1]):
        joined = f"{AT}{said[-1]}\nMultiple connection attempts failed. All failures were:\n"
        joined += "".join(f"- host: 'a', port: '5432', hostaddr: '192.0.2.1': {t}\n" for t in said)
        assert diagnose(joined, CONTEXT).kind == kind


def test_a_servers_own_words_are_no_config_error() -> None:
    """Only libpq's text, which stands first, means the call: not what a server says."""
    assert diagnose(FATAL + 'invalid foo value: "x"', CONTEXT).kind == "unknown"


@pytest.mark.parametrize(
    "words",
    [
        {"ssl_min_protocol_version": "x"},
        {"keepalives_idle": "x"},
        {"load_balance_hosts": "x"},
        {"sslmode": "require", "sslrootcert": "system"},
        {"sslnegotiation": "direct", "sslmode": "prefer"},
        {"hostaddr": "x"},
    ],
)
def test_what_libpq_refuses_is_a_config_error(words: dict[str, Any]) -> None:
    """A value that azpg passes on untouched and libpq does not take, in libpq's own words."""
    with pytest.raises(psycopg.OperationalError) as theirs:
        psycopg.connect(host="localhost", password="s3cret", **words)
    with pytest.raises(azpg.ConfigError) as ours:
        azpg.connect(host="localhost", password="s3cret", **({"sslmode": "disable"} | words))
    assert str(ours.value).split(":")[-1].strip() == str(theirs.value).split(":")[-1].strip()


@pytest.mark.parametrize(("kind", "text"), TEXTS)
def test_a_hint_is_filled_in(kind: str, text: str) -> None:
    """No template shows through."""
    told = diagnose(text, CONTEXT).hint
    assert "{" not in told
    assert "None" not in told.replace("prepare_threshold=None", "")


@pytest.mark.parametrize(("kind", "text"), TEXTS)
def test_a_secret_thrown_back_is_in_no_hint(kind: str, text: str) -> None:
    """A server knows the password, and may name anything by it."""
    for secret in ("s3cret-s3cret", "deadbeef.12:34"):
        thrown = re.sub(r"""(["'\[])[^"'\]\n]*(["'\]])""", rf"\g<1>{secret}\2", text)
        for said in (f"{thrown} {secret}", f"{text}: {secret}", text.replace("x", secret)):
            assert secret not in diagnose(said, CONTEXT).hint, kind
