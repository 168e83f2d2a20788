"""The page of the promises, held against the tests and the guards behind them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import mutate_guards as guards
import pytest

PAGE = (guards.ROOT / "docs" / "security.md").read_text()
NAMED = re.findall(r"`((?:\w+/)?test_\w+::test_\w+)`", PAGE)


def functions(path: Path) -> set[str]:
    """Return the tests of a file."""
    body = ast.parse(path.read_text()).body
    return {each.name for each in body if isinstance(each, ast.FunctionDef)}


@pytest.mark.parametrize("test", NAMED)
def test_a_promise_names_a_test_that_is_there(test: str) -> None:
    """Each test of the page is in its file."""
    path, _, name = guards.path_of(test).partition("::")
    assert name in functions(guards.ROOT / path)


def test_every_promise_is_held_by_a_guard_and_every_guard_by_the_page() -> None:
    """The tests of the page are those that fail when their guard is taken out."""
    assert sorted(NAMED) == sorted({test for guard in guards.GUARDS for test in guard.tests})


def test_no_promise_is_without_a_test() -> None:
    """Each item of the list ends with the tests that hold it."""
    promises = PAGE.partition("## The promises")[2].partition("\n## ")[0]
    items = re.split(r"^- ", promises, flags=re.MULTILINE)[1:]
    assert all(re.search(r"`\S+::\S+`\s*(?=$|###)", item) for item in items)


@pytest.mark.parametrize("guard", guards.GUARDS, ids=lambda guard: guard.promise)
def test_a_guard_is_where_it_is_taken_out(guard: guards.Guard) -> None:
    """Its source is there once, and what is left without it is Python."""
    text = (guards.ROOT / "azpg" / f"{guard.module}.py").read_text()
    assert text.count(guard.source) == 1
    ast.parse(text.replace(guard.source, guard.without))
