"""The architecture: which module may import which, what is public, what is loaded when."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import azpg

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "azpg"

# From the bottom up. A package, or a module next to the packages, imports from lower layers only;
# the packages and modules of one tuple do not import each other.
LAYERS = (
    ("base", {"_spelling"}),
    (
        "base",
        {
            "errors",
            "_jwt",
            "_redact",
            "_retry",
            "_fork",
            "_cancel",
            "_attempt",
            "_deadline",
            "_memfd",
            "_pgbouncer",
            "_version",
        },
    ),
    ("base", {"_clouds", "_libpq", "_passfile", "_psql", "abc"}),
    ("base", {"_tracebacks"}),
    ("subjects", {"_conninfo", "_tokens", "_tls", "_diagnosis"}),
    ("connections", {"_connect"}),
    ("connections", {"connection"}),
    ("pools", {"pool", "_child_env"}),
    ("public names", {"__init__"}),
    ("integrations", {"sqlalchemy", "asyncpg", "django", "_doctor"}),
    ("command", {"_cli"}),
    ("command", {"__main__", "_pyinstaller"}),
)
PURE = (
    "_clouds",
    "_jwt",
    "_passfile",
    "_psql",
    "_redact",
    "_retry",
    "_spelling",
    "_conninfo/resolve",
    "_conninfo/service_connector",
    "_conninfo/suggestions",
    "_diagnosis/classify",
    "_diagnosis/hints",
    "_diagnosis/patterns",
    "_doctor/result",
    "_doctor/token",
    "_tokens/credential_errors",
    "_tokens/refresh_policy",
    "_tokens/token",
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


def package_of(module: str) -> str:
    """Return the package of a module, or the module's own name if it is in none."""
    return module.partition("/")[0]


def imported_packages(module: str) -> set[str]:
    """Return the packages and top-level modules of the library that a module imports."""
    own = {each.removeprefix("azpg/") for each in imports(module, typing=True)}
    found = {package_of(each) for each in own if each in MODULES}
    return found - {package_of(module)}


def test_every_module_has_a_layer() -> None:
    """The layers name every package and every module next to them, and nothing else."""
    named = sorted(each for _, names in LAYERS for each in names)
    assert named == sorted({package_of(module) for module in MODULES})


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_lower_layers(module: str) -> None:
    """Imports for type checkers count; inside of a package any module may import another one."""
    layer = next(i for i, (_, names) in enumerate(LAYERS) if package_of(module) in names)
    below = set().union(*(names for _, names in LAYERS[:layer]))
    assert imported_packages(module) <= below


def test_no_two_modules_import_each_other() -> None:
    """The modules of a package import each other in one direction, so that none is a cycle."""
    graph = {
        module: {each.removeprefix("azpg/") for each in imports(module) if each.startswith("azpg/")}
        for module in MODULES
    }
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("package", sorted(path.parent for path in SOURCE.glob("_*/__init__.py")))
def test_a_package_says_what_it_is_for(package: Path) -> None:
    """The file of a package is a docstring and nothing else: others import its modules by name."""
    (only,) = ast.parse((package / "__init__.py").read_text()).body
    assert isinstance(only, ast.Expr)


def test_the_picture_shows_the_layers() -> None:
    """Each package is in the picture for contributors, in its layer."""
    picture = (ROOT / "docs" / "architecture.svg").read_text("utf-8")
    shown = [
        {
            name.rstrip("/")
            for words in re.findall(r'class="in".*?>(.*?)<', layer)
            for name in words.split()
        }
        for layer in re.findall(r'<g class="layer">(.*?)</g>', picture, re.DOTALL)
    ]
    layers: dict[str, set[str]] = {}
    for title, names in LAYERS:
        layers.setdefault(title, set()).update(names)
    assert shown[::-1] == [names - NOT_SHOWN for names in layers.values()]


NOT_SHOWN = {"__main__", "_pyinstaller"}


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
        "[n for n in azpg.__all__ if getattr(azpg, n) is None], sorted(dir(azpg)))"
    )
    seen, promised, missing, shown = map(ast.literal_eval, re.findall(r"\[.*?\]", python(code)))
    assert set(seen) - {"abc", "connection", "errors", "pool", "TYPE_CHECKING"} <= set(promised)
    assert not missing
    assert shown == sorted([*promised, "__version__", "abc"])


def test_importing_azpg_loads_nothing_slow() -> None:
    """`import azpg` loads no azure.identity, psycopg_pool, ssl nor certifi, and no integration."""
    code = (
        "import psycopg, sys; before = set(sys.modules); import azpg; "
        "print(sorted(n for n in set(sys.modules) - before if not n.startswith('azpg')))"
    )
    loaded = set(ast.literal_eval(python(code)))
    slow = ("azure", "psycopg_pool", "certifi", "ssl", "sqlalchemy", "django", "asyncpg")
    assert not {n for n in loaded if n.startswith(slow)}


def test_importing_azpg_loads_what_connect_needs() -> None:
    """The first connect imports nothing more of azpg; pools, commands and integrations do."""
    code = (
        "import sys, azpg; before = set(sys.modules); azpg.conninfo(server='x', password='y'); "
        "print(sorted(n for n in set(sys.modules) - before if n.startswith('azpg')), "
        "sorted(n for n in sys.modules if n.startswith('azpg.')))"
    )
    later, first = map(ast.literal_eval, re.findall(r"\[.*?\]", python(code)))
    assert not later
    loaded = {name.split(".")[1] for name in first}
    assert loaded.isdisjoint({"pool", "_child_env", "_doctor", "_cli", "emulator", "sqlalchemy"})


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
