"""How Sphinx builds the site: `nox -s docs`."""

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

import azpg

project = "azpg"
author = copyright = "The azpg authors"  # noqa: A001  # Sphinx's name
version = release = azpg.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build"]
suppress_warnings = ["misc.highlighting_failure"]  # a block may leave out parts: …
default_role = "code-or-link"  # `azpg.connect` in a docstring is a link, `kind` is code
smartquotes_action = "D"  # dashes only: quotation marks in docstrings are those of Python
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
highlight_language = "text"
pygments_dark_style = "github-dark"

autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 60
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_logo = "_static/icon.svg"
html_theme_options = {
    "source_repository": "https://github.com/azpg/azpg/",
    "source_branch": "main",
    "source_directory": "docs/",
}
html_title = f"azpg {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/icon.svg"
html_copy_source = html_use_index = html_domain_indices = False
html_show_sphinx = False

# Links to other documentation, without fetching its inventories
PSYCOPG = "https://www.psycopg.org/psycopg3/docs/api/{}.html#{}"
PYTHON = "https://docs.python.org/3/library/{}.html#{}"
PAGES = {
    r"psycopg_pool\.(Async)?(Null)?(ConnectionPool|Pool\w+)": (PSYCOPG, "pool"),
    r"psycopg\.rows\.(\w*RowFactory|\w+_row)": (PSYCOPG, "rows"),
    r"psycopg\.(errors\.)?\w*(Error|Timeout)": (PSYCOPG, "errors"),
    r"psycopg\.(Async)?Connection": (PSYCOPG, "connections"),
    r"psycopg\.(Async)?Cursor": (PSYCOPG, "cursors"),
    r"psycopg\.abc\.AdaptContext": (PSYCOPG, "abc"),
    r"collections\.abc\.\w+": (PYTHON, "collections.abc"),
    r"contextlib\.\w+": (PYTHON, "contextlib"),
    r"os\.\w+": (PYTHON, "os"),
    r"ssl\.\w+": (PYTHON, "ssl"),
    r"bool|float|int": (PYTHON, "functions"),
    r"dict|str|tuple": (PYTHON, "stdtypes"),
    r"(Runtime|Type|Value)Error": (PYTHON, "exceptions"),
}
# Names that psycopg and azpg import for annotations only, without their module
MODULES = {
    "AdaptContext": "psycopg.abc",
    "AsyncConnection": "psycopg",
    "AsyncCursor": "psycopg",
    "AsyncRowFactory": "psycopg.rows",
    "Connection": "psycopg",
    "Cursor": "psycopg",
    "RowFactory": "psycopg.rows",
}
OTHERS = {
    "DefaultAzureCredential": "https://learn.microsoft.com/python/api/azure-identity/"
    "azure.identity.defaultazurecredential",
    "asyncpg.Connection": "https://magicstack.github.io/asyncpg/current/api/index.html"
    "#asyncpg.connection.Connection",
}


def link_elsewhere(_app: Sphinx, _env: Any, node: Any, shown: nodes.Node) -> nodes.Node | None:
    """Return the link to a name that is documented elsewhere, or None."""
    name = node["reftarget"].replace("tls.", "ssl.")
    name = f"{MODULES[name]}.{name}" if name in MODULES else name
    url = OTHERS.get(name)
    for pattern, (site, page) in PAGES.items():
        if url is None and re.fullmatch(pattern, name):
            url = site.format(page, name)
    if url is None:
        return None
    return nodes.reference("", "", shown, refuri=url, internal=False)


def code_or_link(name: str, raw: str, text: str, line: int, inliner: Any, *options: Any) -> Any:
    """Link the name of an object, and show everything else as code.

    `py:obj` would drop a leading dot or tilde.
    """
    if re.fullmatch(r"[A-Za-z][\w.]*(\(\))?", text):
        role = inliner.document.settings.env.domains["py"].role("obj")
        return role(name, raw, text, line, inliner, *options)
    return [nodes.literal(raw, text)], []


def setup(app: Sphinx) -> None:
    """Register what is above."""
    app.add_role("code-or-link", code_or_link)
    app.connect("missing-reference", link_elsewhere)
