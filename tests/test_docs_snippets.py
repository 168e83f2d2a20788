"""What stands on pages beside the code that runs: links, commands, configuration."""

from __future__ import annotations

import ast
import calendar
import configparser
import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [
    *ROOT.glob("*.md"),
    *(page for page in DOCS.rglob("*.md") if DOCS / "_build" not in page.parents),
]
FENCED = re.compile(r"^( *)(```+)([^\n` ]+)[^\n`]*\n(.*?)^\1\2 *$", re.DOTALL | re.MULTILINE)


def named(page: Path) -> str:
    """Return a page's path as it is written in the repository."""
    return str(page.relative_to(ROOT))


def shell(code: str) -> None:
    """Read commands as a shell does, and run none."""
    subprocess.run(["bash", "-n"], input=code, text=True, check=True)


def python(code: str) -> None:
    """Compile Python that leaves out what only its reader has."""
    compile(code.replace("…", "..."), "page", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


READERS: dict[str, Callable[[str], object]] = {
    "ini": lambda code: configparser.ConfigParser().read_string(code),
    "json": json.loads,
    "py": python,
    "python": python,  # and run: tests/test_docs.py, tests/test_readme.py
    "sh": shell,
    "toml": tomllib.loads,
    "yaml": yaml.safe_load,
}
BLOCKS = [
    pytest.param(language, code, id=f"{named(page)}-{number}-{language}")
    for page in PAGES
    for number, (_, _, language, code) in enumerate(FENCED.findall(page.read_text()))
    if language not in {"none", "sql", "text"} and language[0] != "{"  # that is Sphinx's
]


@pytest.mark.parametrize(("language", "code"), BLOCKS)
def test_a_block_is_what_it_says_it_is(language: str, code: str) -> None:
    """A block of code can be read in the language that it is marked with."""
    READERS[language](code)


def places(page: Path) -> set[str]:
    """Return what a link may name on a page: its headings, as GitHub and MyST spell them."""
    found: list[str] = []
    for heading in re.findall(r"^#+ +(.*?) *$", FENCED.sub("", page.read_text()), re.MULTILINE):
        shown = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).lower()
        place = re.sub(r"[^\w\- ]", "", shown).replace(" ", "-")
        found.append(f"{place}-{found.count(place)}" if place in found else place)
    return set(found)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_link_leads_somewhere(page: Path) -> None:
    """A link to a page has its file and heading here, one to elsewhere goes over https."""
    text = re.sub(r"`[^`\n]*`", "", FENCED.sub("", page.read_text()))
    for link in re.findall(r"\]\(\s*([^)\s]+)", text) + re.findall(
        r"^\[.*?\]: (\S+)", text, re.MULTILINE
    ):
        parts = urlsplit(link)
        if parts.scheme:
            assert parts.scheme in {"https", "mailto"}, link
            continue
        target = page.parent / parts.path if parts.path else page
        assert target.exists(), link
        assert not parts.fragment or parts.fragment in places(target), link


# Claims about Azure


MONTHS = "|".join(calendar.month_name[1:])
DATED = re.compile(rf"\b20\d\d-\d\d-\d\d\b|\b\d\d/20\d\d\b|\b({MONTHS})\s+(#\s+)?20\d\d\b")
MICROSOFTS = re.compile(r"MicrosoftDocs|learn\.microsoft\.com|azure-cli-core|azure-mgmt-")


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_sources_of_a_page_have_a_date(page: Path) -> None:
    """What Microsoft documents changes: the page says when it was read."""
    sources = re.findall(r"^Source.*?(?=\n\n|\Z)", page.read_text(), re.DOTALL | re.MULTILINE)
    for source in sources:
        assert DATED.search(source) or not MICROSOFTS.search(source), source


def test_the_sources_in_the_code_have_a_date() -> None:
    """Within a few lines of the source."""
    undated = []
    for path in sorted((ROOT / "azpg").rglob("*.py")):
        lines = path.read_text().splitlines()
        undated += [
            f"{path.name}:{number + 1}"
            for number, line in enumerate(lines)
            if MICROSOFTS.search(line)
            and not DATED.search("\n".join(lines[max(0, number - 3) : number + 4]))
        ]
    assert undated == []
