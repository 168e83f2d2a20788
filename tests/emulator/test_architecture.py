"""The emulator's layers: which module may import which."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EMULATOR = ROOT / "azpg" / "emulator"

# From the bottom up. A name that ends in "/" is a package.
LAYERS = (
    {"_errors"},
    {
        *(
            "_azure_extensions",
            "_azure_host",
            "_azure_messages",
            "_counters",
            "_entra_role",
            "_faults",
        ),
        *("_os_user", "_protocol"),
    },
    {"_os_processes"},
    {"_entra/", "_postgres/", "_proxy/"},
    {"_server"},
    {"_process/"},
    {"_emulator"},
    {"__init__", "_command", "pytest"},
)
MODULES = sorted(
    path.relative_to(EMULATOR).with_suffix("").as_posix() for path in EMULATOR.rglob("*.py")
)
PACKAGES = sorted(path.parent.name for path in EMULATOR.glob("*/__init__.py"))


def imported_modules(module: str) -> set[str]:
    """Return the dotted names of what a module imports, also for type checkers only."""
    path = EMULATOR / f"{module}.py"
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            source = ".".join([*parents, *filter(None, [node.module])])
            names.update(f"{source}.{alias.name}" for alias in node.names)
    return names


def emulator_imports(module: str) -> set[str]:
    """Return the paths of the emulator's modules that a module imports."""
    found: set[str] = set()
    for name in imported_modules(module):
        if name.startswith("azpg.emulator."):
            parts = name.split(".")[2:]
            while parts and "/".join(parts) not in MODULES:
                parts.pop()
            found.add("/".join(parts) or "__init__")
    return found


def unit_of(module: str) -> str:
    """Return a module's package, or the module itself if it is in none."""
    package, slash, _ = module.partition("/")
    return package + slash


def layer_of(module: str) -> int:
    """Return the number of a module's layer."""
    return next(number for number, units in enumerate(LAYERS) if unit_of(module) in units)


def test_every_module_is_in_one_layer() -> None:
    """The layers list every module and package of the emulator once, and no other."""
    listed = [unit for layer in LAYERS for unit in layer]
    assert sorted(listed) == sorted({unit_of(module) for module in MODULES})


@pytest.mark.parametrize("module", MODULES)
def test_modules_import_lower_layers_and_their_own_package(module: str) -> None:
    """A module imports only from lower layers and within its own package."""
    wrong = {
        name
        for name in emulator_imports(module)
        if unit_of(name) != unit_of(module) and layer_of(name) >= layer_of(module)
    }
    assert not wrong, f"{module} imports {wrong}"


@pytest.mark.parametrize("module", MODULES)
def test_modules_import_nothing_of_azpg_outside_the_emulator(module: str) -> None:
    """The emulator shares no code with the library, so it cannot repeat the library's mistakes."""
    azpg_names = {name for name in imported_modules(module) if name.split(".")[0] == "azpg"}
    assert all(name.startswith("azpg.emulator.") for name in azpg_names)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_holds_nothing_but_a_docstring(package: str) -> None:
    """The `__init__.py` of a private package says what the package is for and has no code."""
    module = ast.parse((EMULATOR / package / "__init__.py").read_text())
    assert ast.get_docstring(module)
    assert len(module.body) == 1
