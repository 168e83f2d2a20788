"""The troubleshooting page: each heading is an error message, below it azpg's kind and hint."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

import azpg
from azpg._diagnosis.classify import classify, match
from azpg._diagnosis.hints import HintContext
from azpg._diagnosis.patterns import PATTERNS, SQLSTATES, compile_pattern
from azpg._spelling import spelled
from azpg._tokens import credential_errors
from azpg._tokens.credential_errors import HINTS

PAGE = Path(__file__).parent.parent.parent / "docs" / "troubleshooting.md"
CONTEXT = {
    "host": "myserver.postgres.database.azure.com",
    "user": "alice@contoso.com",
    "dbname": "shop",
    "scope": azpg.AZURE_PUBLIC.scope,
    "entra": True,
}
# The chapters whose hints are for another context
CHAPTER_CONTEXTS: dict[str, dict[str, object]] = {
    "Authentication with a password": {"user": "app", "entra": False},
    "PgBouncer": {"port": "6432", "secret_length": 5000},
}


class Entry(NamedTuple):
    """One entry of the page."""

    chapter: str
    message: str
    hint: str
    kind: str
    transient: bool


def read_entries() -> list[Entry]:
    """Return the entries of the page."""
    found = []
    for chapter in PAGE.read_text("utf-8").split("\n## ")[1:]:
        title, *rest = re.split(r"^### `(.*)`$", chapter, flags=re.MULTILINE)
        for message, text in zip(rest[::2], rest[1::2], strict=True):
            hints = re.findall(r"```text\n(.*?)\n```", text, re.DOTALL)
            (kind,) = re.findall(r"^Kind `([\w-]+)`(, transient)?\.$", text, re.MULTILINE)
            hint = " ".join(hints).replace("\n", " ")
            found.append(Entry(title.partition("\n")[0], message, hint, kind[0], bool(kind[1])))
    return found


ENTRIES = read_entries()
FAILURES = [entry for entry in ENTRIES if entry.chapter != "No token"]
NO_TOKEN = [entry for entry in ENTRIES if entry.chapter == "No token"]


@pytest.mark.parametrize("entry", FAILURES, ids=lambda entry: entry.message[:40])
def test_an_entry_has_azpgs_kind_and_hint(entry: Entry) -> None:
    """Its kind, whether it is transient, and the whole hint."""
    context = HintContext(**CONTEXT | CHAPTER_CONTEXTS.get(entry.chapter, {}))  # type: ignore[arg-type]
    sqlstates = [sqlstate for sqlstate, kind in SQLSTATES.items() if kind == entry.kind]
    sqlstate = [*sqlstates, "0A000"][0] if entry.chapter == "Queries" else ""
    found = classify(entry.message, context, sqlstate=sqlstate)
    assert (found.kind, found.transient) == (entry.kind, entry.transient)
    assert found.hint == entry.hint


@pytest.mark.parametrize("entry", NO_TOKEN, ids=lambda entry: entry.message[:40])
def test_an_entry_of_a_credential_has_azpgs_kind_and_hint(entry: Entry) -> None:
    """They are those of a default credential that raises an error with the message."""
    _, kind, hint, *_ = credential_errors.classify(
        "DefaultAzureCredential", RuntimeError(entry.message)
    )
    assert (kind, spelled(hint)) == (entry.kind, entry.hint)


def test_the_page_has_every_pattern() -> None:
    """Each pattern of the table has an entry, and each one of the credentials."""
    matches = [match(entry.message) for entry in FAILURES]
    assert {found[0].regex for found in matches if found} == {each.regex for each in PATTERNS}
    for pattern, hint in HINTS.items():
        assert any(
            compile_pattern(pattern).search(entry.message) and entry.hint == spelled(hint)
            for entry in NO_TOKEN
        )


def test_no_chapter_has_an_entry_twice() -> None:
    """Two chapters may: a message can mean one thing with a token, another with a password."""
    headings = [(entry.chapter, entry.message) for entry in ENTRIES]
    assert len(headings) == len(set(headings))
