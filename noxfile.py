# /// script
# dependencies = ["nox[uv]"]
# ///
"""Everything that is checked: `nox` runs it all, `nox -s NAME` one part."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_external_run = True
os.environ["UV_PYTHON_DOWNLOADS"] = "never"

PROJECT = nox.project.load_toml("pyproject.toml")
TESTS = nox.project.dependency_groups(PROJECT, "tests")


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


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and form."""
    session.install(*nox.project.dependency_groups(PROJECT, "lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check all types with mypy, and the public API as a caller sees it with pyright too."""
    session.install(
        ".[emulator]", *TESTS, *nox.project.dependency_groups(PROJECT, "types"), "nox[uv]"
    )
    session.run("mypy", "azpg", "tests", "noxfile.py")
    session.run("pyright", "tests/typing", env={"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"})


@nox.session(python=PRESENT)
def tests(session: nox.Session) -> None:
    """Test the built package against real servers, on each Python that is here."""
    session.install(".[emulator]", *TESTS)
    _pytest(session, everything=session.python == PRESENT[0])


@nox.session(python=PRESENT[:1])
def minimums(session: nox.Session) -> None:
    """Test with the lowest version of every dependency that is allowed."""
    lowest = [name.replace(">=", "==") for name in PROJECT["project"]["dependencies"]]
    session.install(".[emulator]", *lowest, "psycopg-pool==3.3.0", *TESTS)
    _pytest(session, everything=False)


def _pytest(session: nox.Session, *, everything: bool) -> None:
    # Two for each core: much of a test's time is a server's
    workers = 2 * (os.cpu_count() or 1)
    left_out = () if everything else ("--ignore=tests/emulator", "-m", "not once")
    session.run("pytest", f"--numprocesses={workers}", *left_out, *session.posargs)


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
    session.run("python", "tests/dialect_suite.py", str(source), str(postgres))


@nox.session(python=PRESENT[:1], default=False)
def torture(session: nox.Session) -> None:
    """Break everything for minutes: `nox -s torture -- --minutes 10 --connections 10000`."""
    session.install(".[emulator]")
    session.run("python", "tests/torture.py", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site into docs/_build."""
    session.install(".[emulator]", *nox.project.dependency_groups(PROJECT, "docs"))
    _sphinx(session)


def _sphinx(session: nox.Session) -> None:
    built = ("-d", session.create_tmp(), "docs", "docs/_build")
    session.run("sphinx-build", "--fail-on-warning", "--keep-going", "--quiet", *built)


@nox.session
def wheel(session: nox.Session) -> None:
    """Install the built wheel alone and import it from elsewhere."""
    session.install("build", *PROJECT["build-system"]["requires"])
    built = Path(session.create_tmp()) / "dist"
    shutil.rmtree(built, ignore_errors=True)
    session.run("python", "-m", "build", "--no-isolation", f"--outdir={built}", silent=True)
    session.install("--force-reinstall", str(next(built.glob("*.whl"))))
    session.chdir(built)
    session.run("python", "-W", "error", "-c", _IMPORT)


_IMPORT = """
from importlib import metadata, resources
import azpg, azpg.__main__
assert metadata.version("azpg") == azpg.__version__
assert all(getattr(azpg, name) is not None for name in azpg.__all__)
held = resources.files("azpg")
assert held.joinpath("py.typed").is_file() and held.joinpath("roots.pem").is_file()
print(azpg.conninfo(server="myserver", dbname="mydb"))
"""


if __name__ == "__main__":
    nox.main()
