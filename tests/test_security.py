"""The page of the promises, held against the tests and the guards behind them."""

from __future__ import annotations

import ast
import builtins
import re
import textwrap
from pathlib import Path

import mutate_guards
import pytest
from mutate_guards import Guard

PAGE = (mutate_guards.ROOT / "docs" / "security.md").read_text()
NAMED = re.findall(r"`((?:\w+/)?test_\w+::test_\w+)`", PAGE)


def functions(path: Path) -> set[str]:
    """Return the names of a file's functions."""
    body = ast.parse(path.read_text()).body
    return {each.name for each in body if isinstance(each, ast.FunctionDef)}


@pytest.mark.parametrize("test", NAMED)
def test_a_promise_names_a_test_that_is_there(test: str) -> None:
    """Each test of the page is in its file."""
    path, _, name = mutate_guards.path_of(test).partition("::")
    assert name in functions(mutate_guards.ROOT / path)


def test_every_promise_is_held_by_a_guard_and_every_guard_by_the_page() -> None:
    """The tests of the page are those that fail when a guard breaks the promise."""
    assert sorted(NAMED) == sorted({test for guard in mutate_guards.GUARDS for test in guard.tests})


def test_no_promise_is_without_a_test() -> None:
    """Each item of the list ends with the tests that hold it."""
    promises = PAGE.partition("## The promises")[2].partition("\n## ")[0]
    items = re.split(r"^- ", promises, flags=re.MULTILINE)[1:]
    assert all(re.search(r"`\S+::\S+`\s*(?=$|###)", item) for item in items)


@pytest.mark.parametrize("guard", mutate_guards.GUARDS, ids=lambda guard: guard.promise)
def test_a_guard_names_a_function_and_another_body_for_it(guard: Guard) -> None:
    """The function exists, and with the replacement as its body the file is Python."""
    path, text = mutate_guards.replaced(guard)
    assert ast.dump(ast.parse(text)) != ast.dump(ast.parse(path.read_text()))


@pytest.mark.parametrize("guard", mutate_guards.GUARDS, ids=lambda guard: guard.promise)
def test_a_replacement_uses_only_names_that_its_file_has(guard: Guard) -> None:
    """A test must not fail for a name that is gone: it would seem to hold the promise."""
    path, _ = mutate_guards.find_function(guard.function)
    words = set(re.findall(r"\w+", path.read_text()))
    function = "async def _():\n" + textwrap.indent(textwrap.dedent(guard.replacement), " ")
    nodes = list(ast.walk(ast.parse(function)))
    names = [node for node in nodes if isinstance(node, ast.Name)]
    assigned = {name.id for name in names if isinstance(name.ctx, ast.Store)}
    used = {name.id for name in names} | {
        node.attr for node in nodes if isinstance(node, ast.Attribute)
    }
    assert not used - assigned - words - {*dir(builtins), *dir(str), *dir(dict)}


def test_a_guard_whose_function_is_gone_is_an_error() -> None:
    """A renamed function, class or module is not passed over."""
    for name in ("azpg._clouds.gone", "azpg._clouds.Gone.covers", "gone.covers", "azpg.gone.x"):
        with pytest.raises(LookupError, match=name):
            mutate_guards.find_function(name)


def test_a_word_that_no_promise_has_is_an_error() -> None:
    """A misspelled word does not report that every guard is held."""
    with pytest.raises(SystemExit, match="nonsense"):
        mutate_guards.main("nonsense")
