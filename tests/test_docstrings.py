"""The examples in docstrings, run as they stand."""

from __future__ import annotations

import ast
import contextlib
import doctest
import importlib
import inspect
import io
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from azure import identity
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

import azpg

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fix_asyncpg import Run

    from azpg.emulator import Emulator

ROOT = Path(__file__).parent.parent
COMPARED = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL


def documented() -> Iterator[Any]:
    """Yield each docstring with an example, and the module that it stands in."""
    for path in sorted((ROOT / "azpg").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                doc = ast.get_docstring(node) or ""
                if ">>>" in doc:
                    yield pytest.param(module, doc, id=f"{module}.{node.name}")


@pytest.mark.parametrize(("module", "doc"), [*documented()])
def test_an_example_does_what_its_docstring_says(
    azure: Emulator, mydb: None, run: Run, module: str, doc: str
) -> None:
    """Each line typed gives the answer that stands below it."""
    names = {
        **vars(importlib.import_module(module)),
        "azpg": azpg,
        "azure": SimpleNamespace(identity=identity),
        "create_async_engine": create_async_engine,
        "create_engine": create_engine,
        "psycopg": psycopg,
    }
    run(typed(doc, names))


async def typed(doc: str, names: dict[str, Any]) -> None:
    """Type an example line by line, as `python -m asyncio` takes it, and close its engine."""
    for example in doctest.DocTestParser().get_examples(doc):
        answer = await answered(example.source, names)
        expected = example.want if example.exc_msg is None else example.exc_msg
        assert doctest.OutputChecker().check_output(expected, answer, COMPARED), answer
    if inspect.isawaitable(closing := getattr(names.get("engine"), "dispose", lambda: None)()):
        await closing


async def answered(source: str, names: dict[str, Any]) -> str:
    """Return what is printed, or the last line of what is raised."""
    code = compile(source, "docstring", "single", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            if inspect.isawaitable(waiting := eval(code, names)):
                await waiting
        except azpg.ConfigError as error:
            return traceback.format_exception_only(error)[-1]
    return printed.getvalue()
