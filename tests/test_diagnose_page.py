"""The troubleshooting page: its headings are what is said, and it tells what azpg tells."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

import azpg
from azpg._diagnosis.classify import diagnose, telling
from azpg._diagnosis.hints import Context
from azpg._diagnosis.patterns import STATES, TABLE, compiled
from azpg._tokens.credential_errors import HINTS, classify

PAGE = Path(__file__).parent.parent / "docs" / "troubleshooting.md"
CONTEXT = {
    "host": "myserver.postgres.database.azure.com",
    "user": "alice@contoso.com",
    "dbname": "shop",
    "scope": azpg.AZURE_PUBLIC.scope,
    "entra": True,
}
# What a chapter's failures happen in, where it is not a token's ordinary sign-in
CHANGES: dict[str, dict[str, object]] = {
    "Signing in with a password": {"user": "app", "entra": False},
    "PgBouncer": {"port": "6432", "secret_length": 5000},
}


class Entry(NamedTuple):
    """One entry of the page."""

    chapter: str
    said: str
    hint: str
    kind: str
    transient: bool


def entries() -> list[Entry]:
    """Read the page."""
    found = []
    for chapter in PAGE.read_text("utf-8").split("\n## ")[1:]:
        title, *rest = re.split(r"^### `(.*)`$", chapter, flags=re.MULTILINE)
        for said, text in zip(rest[::2], rest[1::2], strict=True):
            hints = re.findall(r"```text\n(.*?)\n```", text, re.DOTALL)
            (kind,) = re.findall(r"^Kind `([\w-]+)`(, transient)?\.$", text, re.MULTILINE)
            hint = " ".join(hints).replace("\n", " ")
            found.append(Entry(title.partition("\n")[0], said, hint, kind[0], bool(kind[1])))
    return found


ENTRIES = entries()
FAILURES = [entry for entry in ENTRIES if entry.chapter != "No token"]
NO_TOKEN = [entry for entry in ENTRIES if entry.chapter == "No token"]


@pytest.mark.parametrize("entry", FAILURES, ids=lambda entry: entry.said[:40])
def test_an_entry_is_what_azpg_says(entry: Entry) -> None:
    """The kind, whether it may mend itself, and the hint, word for word."""
    context = Context(**CONTEXT | CHANGES.get(entry.chapter, {}))  # type: ignore[arg-type]
    states = [state for state, kind in STATES.items() if kind == entry.kind]
    state = states[0] if entry.chapter == "Queries" else ""
    found = diagnose(entry.said, context, state=state)
    assert (found.kind, found.transient) == (entry.kind, entry.transient)
    assert found.hint == entry.hint


@pytest.mark.parametrize("entry", NO_TOKEN, ids=lambda entry: entry.said[:40])
def test_a_credentials_entry_is_what_azpg_says(entry: Entry) -> None:
    """The kind and the hint of a default credential that says so."""
    _, kind, hint, *_ = classify("DefaultAzureCredential", RuntimeError(entry.said))
    assert (kind, hint) == (entry.kind, entry.hint)


def test_the_page_is_whole() -> None:
    """Every row of the table has an entry, and everything known of credentials."""
    told = [telling(entry.said) for entry in FAILURES]
    assert {found[0].pattern for found in told if found} == {row.pattern for row in TABLE}
    for pattern, hint in HINTS.items():
        assert any(
            compiled(pattern).search(entry.said) and entry.hint == hint for entry in NO_TOKEN
        )


def test_no_entry_is_there_twice() -> None:
    """In a chapter; a text may mean another thing with a token than with a password."""
    said = [(entry.chapter, entry.said) for entry in ENTRIES]
    assert len(said) == len(set(said))
