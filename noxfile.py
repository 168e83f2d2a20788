# /// script
# dependencies = ["nox[uv]", "packaging"]
# ///
"""Everything that is checked: `nox` runs it all, `nox -s NAME` one part."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from ctypes.util import find_library
from pathlib import Path

import nox
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_external_run = True
os.environ["UV_PYTHON_DOWNLOADS"] = "never"
# Without bytecode files, each test process and each program that a test starts compiles all again
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Behind a proxy that inspects TLS, its certificate is among the system's alone
os.environ.setdefault("UV_SYSTEM_CERTS", "1")

PROJECT = nox.project.load_toml("pyproject.toml")
TESTS = nox.project.dependency_groups(PROJECT, "tests")
CONSTRAINTS = Path("constraints.txt").absolute()


def _runs(version: str) -> bool:
    """Tell whether this Python is here (a version manager's launcher alone does not run)."""
    found = shutil.which(f"python{version}")
    return (
        found is not None
        and not subprocess.run(  # noqa: S603
            [found, "-c", ""], check=False, capture_output=True
        ).returncode
    )


SUPPORTED = nox.project.python_versions(PROJECT)
PRESENT = [version for version in SUPPORTED if _runs(version)]


def _install(session: nox.Session, *requirements: str) -> None:
    """Install with the versions that constraints.txt pins."""
    session.install(f"--constraint={CONSTRAINTS}", *requirements)


def _install_from_debian(session: nox.Session, *packages: str) -> None:
    """Install Debian's packages if the machine has apt-get."""
    if packages and shutil.which("apt-get"):
        as_root = () if os.geteuid() == 0 else ("sudo",)
        install = ("apt-get", "install", "--yes", "--no-install-recommends")
        session.run(*as_root, *install, *packages, external=True, silent=True)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and form."""
    _check_constraints(session)
    _install(session, *nox.project.dependency_groups(PROJECT, "lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("codespell")
    session.run("zizmor", "--offline", "--quiet", "--persona=auditor", ".github")
    templates = Path(".github/ISSUE_TEMPLATE")
    config = templates / "config.yml"
    for schema, files in (
        ("dependabot", [Path(".github/dependabot.yml")]),
        ("github-issue-config", [config]),
        ("github-issue-forms", sorted({*templates.glob("*.yml")} - {config})),
        ("github-workflows", sorted(Path(".github/workflows").glob("*.yml"))),
        ("readthedocs", [Path(".readthedocs.yaml")]),
    ):
        session.run("check-jsonschema", f"--builtin-schema=vendor.{schema}", *map(str, files))


@nox.session(default=False)
def fix(session: nox.Session) -> None:
    """Apply the fixes of ruff and format the code."""
    _install(session, *nox.project.dependency_groups(PROJECT, "lint"))
    session.run("ruff", "check", "--fix-only", ".")
    session.run("ruff", "format", ".")


def _check_constraints(session: nox.Session) -> None:
    """Fail unless constraints.txt has one valid pin of each direct dependency, on each Python."""
    lines = CONSTRAINTS.read_text("utf-8").splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    groups = nox.project.dependency_groups(PROJECT, *PROJECT["dependency-groups"])
    extras = PROJECT["project"]["optional-dependencies"].values()
    direct = map(
        Requirement,
        (
            *PROJECT["build-system"]["requires"],
            *PROJECT["project"]["dependencies"],
            *itertools.chain(*extras),
            *groups,
        ),
    )
    for requirement, version in itertools.product(direct, SUPPORTED):
        python = {"python_version": version, "python_full_version": f"{version}.0"}
        if requirement.marker is not None and not requirement.marker.evaluate(python):
            continue
        found = [
            next(iter(pin.specifier)).version
            for pin in pins
            if canonicalize_name(pin.name) == canonicalize_name(requirement.name)
            if pin.marker is None or pin.marker.evaluate(python)
        ]
        if len(found) != 1 or found[0] not in requirement.specifier:
            pinned = ", ".join(found) or "nothing"
            session.error(
                f"constraints.txt pins {pinned} for {requirement} on Python {version}:"
                " run nox -s constraints"
            )


@nox.session(default=False)
def constraints(session: nox.Session) -> None:
    """Pin the newest version of everything that the sessions install, in constraints.txt."""
    _install(session, "uv")
    build = Path(session.create_tmp(), "build-system.txt")
    build.write_text("\n".join(PROJECT["build-system"]["requires"]), "utf-8")
    session.run(
        *("uv", "pip", "compile", "--quiet", "--upgrade", "--universal"),
        *(f"--python-version={SUPPORTED[0]}", "--all-extras"),
        *(f"--group={group}" for group in PROJECT["dependency-groups"]),
        *("--no-annotate", "--custom-compile-command=nox -s constraints"),
        f"--output-file={CONSTRAINTS}",
        *("pyproject.toml", "noxfile.py", str(build)),
    )


@nox.session
def types(session: nox.Session) -> None:
    """Check all types with mypy, and the public API as a caller sees it with pyright too."""
    groups = nox.project.dependency_groups(PROJECT, "types", "site", "bench")
    _install(session, ".[emulator]", *TESTS, *groups, "nox[uv]")
    session.run("mypy", "azpg", "tests", "noxfile.py", "docs/scaling.py")
    session.run("python", "tests/tools/docs_types.py", env={"PYTHONPATH": "tests"})
    session.run("pyright", "tests/typing", env={"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"})


@nox.session(python=PRESENT)
def tests(session: nox.Session) -> None:
    """Test the built package against real servers.

    The newest Python runs everything, the others what is marked `compat`, the oldest of several
    with the lowest allowed version of every dependency.
    """
    if session.python == PRESENT[0] != PRESENT[-1]:
        _test_lowest_versions(session)
    else:
        _install(session, ".[emulator]", *TESTS)
        _pytest(session, everything=session.python == PRESENT[-1])


@nox.session(python=PRESENT[:1], default=len(PRESENT) == 1)
def minimums(session: nox.Session) -> None:
    """Run the tests marked `compat` with the lowest allowed version of every dependency."""
    _test_lowest_versions(session)


def _test_lowest_versions(session: nox.Session) -> None:
    extras = PROJECT["project"]["optional-dependencies"].values()
    allowed = (*PROJECT["project"]["dependencies"], *itertools.chain(*extras))
    session.install(".", *(name.replace(">=", "==") for name in allowed), *TESTS)
    _pytest(session, everything=False)


def _pytest(session: nox.Session, *, everything: bool) -> None:
    # Three for each core: much of a test's time is a wait, or a server's
    workers = 3 * (os.cpu_count() or 1)
    selected = session.posargs or (() if everything else ("-m", "compat"))
    session.run("pytest", f"--numprocesses={workers}", "--dist=worksteal", *selected)


@nox.session(python=PRESENT[:1], default=False)
@nox.parametrize("series", ["2.0", "2.1"])
def sqlalchemy(session: nox.Session, series: str) -> None:
    """Compare psycopg and azpg by SQLAlchemy's own dialect suite: minutes, so not by default."""
    wanted = f"sqlalchemy~={series}.0"
    session.install(".[emulator,sqlalchemy]", wanted, "pip", "pytest")
    sdist = Path(session.create_tmp()) / series
    shutil.rmtree(sdist, ignore_errors=True)
    sources = ("--no-binary=sqlalchemy", "--no-deps", f"--dest={sdist}")
    session.run("python", "-m", "pip", "download", *sources, wanted)
    session.run("python", "-m", "tarfile", "-e", str(next(sdist.glob("*.tar.gz"))), str(sdist))
    (source,) = (path.parent for path in sdist.glob("*/test"))
    postgres = max(Path("/usr/lib/postgresql").glob("*"))
    session.run("python", "tests/tools/dialect_suite.py", str(source), str(postgres))


FRAMEWORKS = {
    "LangGraph": ["langgraph-checkpoint-postgres"],
    "LangChain with langchain-postgres": ["langchain-postgres"],
    "LangChain with langchain-azure-postgresql": ["langchain-azure-postgresql"],
    "pgvector": ["pgvector"],
    "procrastinate": ["procrastinate"],
    "MLflow": ["mlflow"],
}
"""Sections of the pages on AI frameworks and MLflow, and the packages that their code needs"""


@nox.session(python=PRESENT[:1], default=False)
@nox.parametrize("framework", [*FRAMEWORKS])
def frameworks(session: nox.Session, framework: str) -> None:
    """Run the code of the pages on AI frameworks, job queues and MLflow, with newest versions."""
    session.install(".[emulator,sqlalchemy]", *FRAMEWORKS[framework])
    program = ("python", "tests/tools/frameworks.py", framework, *FRAMEWORKS[framework])
    env = {"MLFLOW_DISABLE_TELEMETRY": "true", "LANGCHAIN_TRACING_V2": "false"}
    session.run("azpg", "emulator", "--", *program, env=env)


@nox.session(python=PRESENT[:1], default=False)
def torture(session: nox.Session) -> None:
    """Break everything: `nox -s torture -- --minutes 10 --connections 10000`, or `--compare`."""
    _install(session, ".[emulator]")
    session.run("python", "tests/tools/torture.py", *session.posargs)


@nox.session(python=PRESENT[:1], default=False)
def mutation(session: nox.Session) -> None:
    """Break each security promise and change each line that decides, to see what tests notice."""
    _install(session, ".[emulator]", *TESTS, *nox.project.dependency_groups(PROJECT, "mutation"))
    session.run("python", "tests/tools/mutate_guards.py", *session.posargs)
    copy = Path(session.create_tmp(), "copy").absolute()
    for name in ("azpg", "tests"):
        shutil.copytree(name, copy / name, dirs_exist_ok=True)
    shutil.copy("pyproject.toml", copy)
    session.chdir(copy)
    session.run("mutmut", "run", env={"PYTHONPATH": str(copy / "mutants")})
    session.run("mutmut", "results")


@nox.session(python=PRESENT[:1], default=False)
def fuzz(session: nox.Session) -> None:
    """Hold azpg against libpq with more and more words: `nox -s fuzz -- --minutes 5`."""
    _install(session, ".[emulator]", *TESTS)
    session.run("python", "tests/tools/fuzz.py", *session.posargs)


@nox.session(python=PRESENT[:1])
def frozen(session: nox.Session) -> None:
    """Freeze a program with PyInstaller, and run it."""
    # What PyInstaller needs with Debian's Python
    needed = {"binutils": shutil.which("objdump")}
    if Path(f"/usr/bin/python{session.python}").exists():
        needed[f"libpython{session.python}"] = find_library(f"python{session.python}")
    _install_from_debian(session, *(name for name, found in needed.items() if found is None))
    wanted = nox.project.dependency_groups(PROJECT, "frozen")
    _install(session, ".[emulator,sqlalchemy]", *wanted)
    session.run("python", "tests/tools/frozen.py", session.create_tmp())


@nox.session(default=False)
def debian13(session: nox.Session) -> None:
    """Run the tests marked `compat` on Debian 13, in a chroot that debootstrap makes as root."""
    _in_chroot(session)


@nox.session(default=False)
def sid(session: nox.Session) -> None:
    """Run the tests marked `compat` on Debian sid with Python 3.14 and 3.15, in such a chroot."""
    _in_chroot(session)


@nox.session(default=False)
def windows(session: nox.Session) -> None:
    """Run the checks for Windows with its CPython under sid's Wine, in the chroot of `sid`."""
    _in_chroot(session)


def _in_chroot(session: nox.Session) -> None:
    _install(session, "uv")
    session.run("python", "tests/tools/chroot.py", session.name, *session.posargs)


@nox.session(default=False)
def roots(session: nox.Session) -> None:
    """Show the pinned roots, and what the newest certifi has changed about them."""
    session.install("--upgrade", ".", "certifi")
    session.run("azpg", "roots")
    session.run("python", "-W", "ignore", "tests/tools/check_root_pins.py")


@nox.session(default=False)
def live(session: nox.Session) -> None:
    """Record what a real server does, without names and secrets: `-- --server NAME`."""
    session.install(".")
    file = Path(session.create_tmp(), "record.json")
    session.run("azpg", "doctor", "--record", str(file), *session.posargs)


@nox.session(python=PRESENT[-1:], default=False)
def bench(session: nox.Session) -> None:
    """Compare azpg with psycopg; `-- --write docs` renews the benchmarks page."""
    _install(session, ".[emulator]", *nox.project.dependency_groups(PROJECT, "bench"))
    session.run("python", "-m", "benchmarks", *session.posargs, env={"PYTHONPATH": "tests"})


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site into docs/_build."""
    integrations = ".[asyncpg,emulator,sqlalchemy]"
    _install(session, integrations, *nox.project.dependency_groups(PROJECT, "docs"))
    shutil.rmtree("docs/_build", ignore_errors=True)
    strictly = ("--fail-on-warning", "--keep-going", "--quiet", "--fresh-env")
    session.run("sphinx-build", *strictly, "-d", session.create_tmp(), "docs", "docs/_build")


@nox.session(requires=["docs"])
def site(session: nox.Session) -> None:
    """Look at the site with Chromium, as it is on a phone, in the dark and without scripts."""
    if not any(map(shutil.which, ("chromium", "google-chrome"))):
        _install_from_debian(session, "chromium", "chromium-driver")
    _install(session, *nox.project.dependency_groups(PROJECT, "site"))
    session.run(
        "pytest", "--noconftest", "-q", "tests/tools/test_site_browser.py", *session.posargs
    )


@nox.session(default=False)
def scaling(session: nox.Session) -> None:
    """Print the tables of docs/scaling.md and draw its plot."""
    _install(session, ".", *nox.project.dependency_groups(PROJECT, "plots"))
    session.run("python", "docs/scaling.py", "docs/scaling.svg")


@nox.session
def release(session: nox.Session) -> None:
    """Build what is released into dist/, twice, and install it in each way that is promised."""
    wanted = nox.project.dependency_groups(PROJECT, "release")
    _install(session, *wanted, *PROJECT["build-system"]["requires"])
    built, source = _built_twice(session)
    session.run("twine", "check", "--strict", *map(str, built))
    wheel = next(str(path) for path in built if path.suffix == ".whl")
    extras = (None, *PROJECT["project"]["optional-dependencies"])
    resolutions = ("lowest-direct", "highest")
    # The corners; before a release all: `nox -s release -- everywhere`
    pairs = [*zip((PRESENT[0], PRESENT[-1]), resolutions, strict=True)]
    if "everywhere" in session.posargs:
        pairs = [*itertools.product(PRESENT, resolutions)]
    ways = [(*pair, extra) for pair in pairs for extra in extras]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(lambda way: _installed(session, wheel, *way), ways))
    _installed_without_binary(session, wheel)
    # With its types, for whoever imports it
    _install(session, f"{wheel}[emulator]", *TESTS)
    with session.chdir("tests/typing"):
        session.run("mypy", "--strict", "--config-file=", "api.py", "classes.py")
    # With its tests, for whoever packages it
    session.chdir(source)
    # Not nox's own temporary folder: servers run as others than root, who may not enter it
    usual = {"TMPDIR": tempfile.gettempdir()}
    session.run("pytest", "-q", "tests/test_connection.py", "tests/test_architecture.py", env=usual)


def _built_twice(session: nox.Session) -> tuple[list[Path], Path]:
    """Build from here, and again from the sdist elsewhere; return both files and that place."""
    dist, again = Path("dist").absolute(), Path(session.create_tmp(), "again").absolute()
    for folder in (dist, again):
        shutil.rmtree(folder, ignore_errors=True)
    build = ("python", "-m", "build", "--no-isolation")
    commit = _last_commit()
    session.run(*build, f"--outdir={dist}", env=commit, silent=True)
    (sdist,) = dist.glob("*.tar.gz")
    usual = os.umask(0o077)
    try:
        session.run("python", "-m", "tarfile", "-e", str(sdist), str(again), silent=True)
        (source,) = again.iterdir()
        elsewhere = {"TZ": "Pacific/Kiritimati", "PYTHONHASHSEED": "1", "LC_ALL": "C"}
        with session.chdir(source):
            session.run(*build, f"--outdir={again}", env=commit | elsewhere, silent=True)
    finally:
        os.umask(usual)
    built = sorted(dist.iterdir())
    for path in built:
        first, second = (
            hashlib.sha256(folder.joinpath(path.name).read_bytes()).hexdigest()
            for folder in (dist, again)
        )
        if first != second:
            session.error(f"{path.name} is another when it is built again: compare {again}")
        session.log(f"{first}  {path.name}, built twice")
    return built, source


def _last_commit() -> dict[str, str]:
    """Return the time that a build dates its files by; without git its backend has one."""
    if (git := shutil.which("git")) is None:
        return {}
    asked = (git, "log", "-1", "--format=%ct")
    told = subprocess.run(asked, check=False, capture_output=True, text=True)  # noqa: S603
    return {} if told.returncode else {"SOURCE_DATE_EPOCH": told.stdout.strip()}


def _installed(
    session: nox.Session, wheel: str, version: str, resolution: str, extra: str | None
) -> None:
    """Check the wheel where nothing else is installed."""
    name = f"{version}-{resolution}-{extra or 'bare'}"
    place = Path(session.create_tmp(), name).absolute()
    python, extras = str(place / "bin" / "python"), () if extra is None else (extra,)
    session.run("uv", "venv", "--quiet", "--clear", f"--python={version}", str(place), log=False)
    install = ("uv", "pip", "install", "--quiet", f"--python={python}")
    wanted = ("--requirements=pyproject.toml", *(f"--extra={name}" for name in extras))
    session.run(*install, f"--resolution={resolution}", *wanted, log=False)
    session.run(*install, "--no-deps", wheel, log=False)
    session.run("uv", "pip", "check", "--quiet", f"--python={python}", log=False)
    check = (python, "-W", "error", "tests/tools/installed.py", *extras)
    session.run(*check, external=True, silent=True, log=False)
    session.log(f"works: {name}")


def _installed_without_binary(session: nox.Session, wheel: str) -> None:
    """Check the wheel on the system's libpq, with psycopg in pure Python and without its binary."""
    place = Path(session.create_tmp(), "without-binary").absolute()
    python = str(place / "bin" / "python")
    session.run("uv", "venv", "--quiet", "--clear", f"--python={PRESENT[0]}", str(place), log=False)
    install = ("uv", "pip", "install", "--quiet", f"--python={python}")
    others = (name for name in PROJECT["project"]["dependencies"] if "[binary" not in name)
    (psycopg,) = (name for name in PROJECT["project"]["dependencies"] if "[binary" in name)
    wanted = (*others, psycopg.replace("[binary,pool]", "[pool]"))
    session.run(*install, f"--constraint={CONSTRAINTS}", *wanted, log=False)
    session.run(*install, "--no-deps", wheel, log=False)
    implementation = "from psycopg import pq; assert pq.__impl__ == 'python', pq.__impl__"
    session.run(python, "-c", implementation, external=True, log=False)
    session.run(python, "-W", "error", "tests/tools/installed.py", external=True, log=False)
    session.log(f"works: {PRESENT[0]} without psycopg's binary")


if __name__ == "__main__":
    nox.main()
