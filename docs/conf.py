"""How Sphinx makes the site: `nox -s docs`."""

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
default_role = "py:obj"  # `azpg.connect` in a docstring is a link, `kind` is code
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
