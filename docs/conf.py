"""Sphinx's settings: the pages of this folder, and the API reference from docstrings."""

import re
from typing import Any

import earmark

project = "earmark"
release = earmark.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_argparse_cli"]

# The source folder is the repository's root, so that pages link to each other as on a code host.
root_doc = "docs/index"
include_patterns = ["*.md", "benchmarks/**.md", "csrc/*.md", "docs/**", "plugins/*.md"]

# Anchors as code hosts make them of headings.
myst_heading_anchors = 3
# Docstrings with single backticks mean code.
default_role = "literal"

autodoc_default_options = {
    "members": True,
    "special-members": "__call__",
    "member-order": "bysource",
}
autoclass_content = "both"
autodoc_preserve_defaults = True
autodoc_type_aliases = {
    name: name
    for name in ("Array", "Arrays", "ArrayLike", "Embeddings", "NDArray", "Scores", "Wave")
}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80

# Every name in a docstring or signature is in the reference, but for other packages' and these.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(?!earmark\.).*"),
    (r"py:.*", r"earmark\.(_C|runner|nn\.replace|nn\.softmax|storage)\..*"),
]

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_title = f"earmark {release}"
html_copy_source = False
html_show_copyright = False


def link_pages(
    app: Any, what: str, name: str, documented: Any, options: Any, lines: list[str]
) -> None:
    """Pages that a docstring names become links; of torch's constructor nothing is said."""
    kept = [line for line in lines if not line.startswith("Initialize internal Module state")]
    lines[:] = [re.sub(r"\bdocs/([\w-]+)\.md\b", r":doc:`/docs/\1`", line) for line in kept]


def name_aliases(app: Any, what: str, name: str, documented: Any, options: Any, *texts: Any) -> Any:
    """Aliases inside of other types by their names alone."""
    alias = re.compile(r"TypeAliasForwardRef\('(\w+)'\)")
    return tuple(text and alias.sub(r"\1", text) for text in texts)


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", link_pages)
    app.connect("autodoc-process-signature", name_aliases)
