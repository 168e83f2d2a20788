"""The house itself: which module may import which, what is public, what loads when."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import azpg

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "azpg"

# From the bottom up; a module may import what stands on a lower floor.
FLOORS = (
    {
        "errors",
        "_jwt",
        "_redact",
        "_record",
        "_retry",
        "_spelling",
        "_credentials",
        "_fork",
        "_cancel",
        "_connect_steps",
    }
    | {"pool/_liveness", "_doctor/finding", "_doctor/handshake", "_doctor/vitals"},
    {"_clouds", "_libpq", "_token", "_connector", "_passfile", "_psql", "_refusals"},
    {"_failures", "_doctor/way"},
    {"_sources", "_diagnose", "_flight"},
    {"_conninfo", "_tls/__init__", "_tls/roots", "_entra", "_explain", "pool/_causes"},
    {"_options"},
    {"_settled"},
    {"_call"},
    {"connection", "_child_env", "_tls/ssl_context"},
    {"pool/_options"},
    {"pool/_base"},
    {"pool/_classes"},
    {"pool/__init__"},
    {"__init__"},
    {"sqlalchemy", "asyncpg"},
    {"django/__init__", "django/base"},
    {"_doctor/__init__", "_doctor/identity"},
    {"_doctor/examine"},
    {"_doctor/report", "_demo"},
    {"__main__"},
)
PURE = (
    "_jwt",
    "_redact",
    "_record",
    "_clouds",
    "_token",
    "_retry",
    "_spelling",
    "_connector",
    "_passfile",
    "_psql",
    "_conninfo",
    "_diagnose",
    "_failures",
    "_refusals",
    "_doctor/finding",
    "_doctor/identity",
)
CLOCKS_AND_DOORS = {"asyncio", "os", "random", "socket", "subprocess", "threading", "time"}


def imports(module: str, *, typing: bool = False) -> set[str]:
    """Return what a module imports when it runs (`typing`: or only for type checkers)."""
    path = SOURCE / f"{module}.py"
    names: set[str] = set()
    skipped: set[ast.AST] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not typing:
            skipped |= {inner for statement in node.body for inner in ast.walk(statement)}
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {located(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            source = ".".join([*package, *filter(None, [node.module])])
            names |= {located(source, alias.name) for alias in node.names}
    return names


def located(*dotted: str) -> str:
    """Return azpg's own modules as "azpg/" and their paths, others by their dotted names."""
    parts = ".".join(dotted).split(".")
    if parts[0] != "azpg":
        return dotted[0]
    folder = "/".join(parts[1:])
    if (SOURCE / f"{folder}.py").is_file():
        return f"azpg/{folder}"
    if (SOURCE / folder / "__init__.py").is_file():
        return "/".join(filter(None, ["azpg", folder, "__init__"]))
    return located(".".join(parts[:-1]))


MODULES = sorted(
    str(path.relative_to(SOURCE).with_suffix(""))
    for path in SOURCE.rglob("*.py")
    if "emulator" not in path.parts
)


def test_every_module_has_its_floor() -> None:
    """The floors name every module of the library, and no other."""
    assert sorted(set().union(*FLOORS)) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module: str) -> None:
    """A module imports only from floors below its own."""
    floor = next(i for i, names in enumerate(FLOORS) if module in names)
    below = set().union(*FLOORS[:floor])
    own = {name.removeprefix("azpg/") for name in imports(module) if name.startswith("azpg/")}
    own -= {"emulator/__init__", "emulator/_command"} if floor >= len(FLOORS) - 2 else set()
    assert own <= below, f"{module} imports {own - below}"


def test_the_picture_is_the_house() -> None:
    """Each module stands on one floor of the picture for contributors, above all it imports."""
    picture = (ROOT / "docs" / "house.svg").read_text("utf-8")
    floors = re.findall(r'<g class="floor">(.*?)</g>', picture, re.DOTALL)
    height = {
        name: -number
        for number, floor in enumerate(floors)
        for words in re.findall(r'class="in".*?>(.*?)<', floor)
        for name in words.split()
    }

    def stands(module: str) -> int:
        return height[module if module in height else module.partition("/")[0] + "/"]

    for module in MODULES:
        own = {name.removeprefix("azpg/") for name in imports(module) if name.startswith("azpg/")}
        own = {name for name in own if not name.startswith("emulator/")}
        assert all(stands(name) <= stands(module) for name in own), module
    assert len(height) == len({name.partition("/")[0] for name in MODULES})


def test_what_contributors_are_told_to_touch_is_there() -> None:
    """Every file that CONTRIBUTING.md names exists."""
    page = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    named = set(re.findall(r"\b(?:azpg|docs|tests)/[\w./-]+\.\w+", page))
    assert named
    assert not [name for name in named if not (ROOT / name).is_file()]


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_read_no_clock_and_open_nothing(module: str) -> None:
    """A pure module is handed clocks, chance and files; it fetches none."""
    assert not imports(module) & CLOCKS_AND_DOORS


def test_the_emulator_shares_nothing_with_the_library() -> None:
    """The emulator imports nothing of the library, so a mistake there is not mirrored here."""
    for path in (SOURCE / "emulator").glob("*.py"):
        found = imports(f"emulator/{path.stem}", typing=True)
        own = {name for name in found if name.startswith("azpg/")}
        assert all(name.startswith("azpg/emulator/") for name in own), path.name


def test_all_is_what_is_there() -> None:
    """__all__ names every public name of the package, each of which exists."""
    code = (
        "import azpg; print(sorted(n for n in vars(azpg) if n[0] != '_'), sorted(azpg.__all__), "
        "[n for n in azpg.__all__ if getattr(azpg, n) is None])"
    )
    seen, promised, missing = map(ast.literal_eval, re.findall(r"\[.*?\]", python(code)))
    assert set(seen) - {"errors", "import_module", "TYPE_CHECKING"} <= set(promised)
    assert not missing


def test_importing_azpg_loads_psycopg_and_nothing_slower() -> None:
    """`import azpg` loads no azure.identity, psycopg_pool, ssl nor certifi, and no integration."""
    code = (
        "import psycopg, sys; before = set(sys.modules); import azpg; "
        "print(sorted(n for n in set(sys.modules) - before if not n.startswith('azpg')))"
    )
    loaded = set(ast.literal_eval(python(code)))
    slow = ("azure", "psycopg_pool", "certifi", "ssl", "sqlalchemy", "django", "asyncpg")
    assert not {n for n in loaded if n.startswith(slow)}


def test_importing_azpg_loads_what_programs_name_at_once() -> None:
    """Its errors and clouds; what connects is loaded by the first name of it."""
    code = "import sys, azpg; print(sorted(n for n in sys.modules if n.startswith('azpg.')))"
    loaded = ast.literal_eval(python(code))
    assert loaded == ["azpg._clouds", "azpg._record", "azpg.errors"]


def test_a_password_sign_in_loads_nothing_of_entra_or_of_failures() -> None:
    """Who signs in with a password pays neither for azure-identity nor for what goes wrong."""
    code = (
        "import sys, azpg; azpg.conninfo(server='x', password='y'); "
        "print([n for n in sys.modules if n.startswith(('azure', 'azpg.'))])"
    )
    loaded = {name.removeprefix("azpg.") for name in ast.literal_eval(python(code))}
    assert "_call" in loaded
    late = {"_credentials", "_entra", "_flight", "_token", "_diagnose", "_failures", "_explain"}
    assert not loaded & late
    assert not {name for name in loaded if name.startswith("azure")}


def test_public_names_are_documented() -> None:
    """Every public name says what it does, and every function and class with an example."""
    for name in azpg.__all__:
        thing = getattr(azpg, name)
        if isinstance(thing, azpg.Cloud):
            continue
        doc = inspect.getdoc(thing)
        assert doc, name
        if inspect.isfunction(thing) or inspect.ismethod(thing):
            assert ">>>" in doc, name


def test_public_classes_show_the_public_module() -> None:
    """Tracebacks and reprs name azpg, from where the classes are imported."""
    for name in azpg.__all__:
        thing = getattr(azpg, name)
        if isinstance(thing, type) and name != "Cloud":
            assert thing.__module__ == "azpg", name


def test_runtime_dependencies_are_three() -> None:
    """Nothing but psycopg with its pool, azure-identity and certifi is needed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[>\[]", dependency)[0] for dependency in project["dependencies"]}
    assert names == {"psycopg", "psycopg-pool", "azure-identity", "certifi"}


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: path.stem)
def test_each_file_says_its_purpose(path: Path) -> None:
    """The first line of a file says what it is for."""
    assert ast.get_docstring(ast.parse(path.read_text()))


def python(code: str) -> str:
    """Return what a fresh Python prints."""
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
