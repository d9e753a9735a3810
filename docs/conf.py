"""How Sphinx makes the site; `python -m course site` calls it (see `course/book.py`)."""

import re

project = "Hands-on Vision Transformers"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]

# Notebooks: their saved outputs, never a kernel.
nb_execution_mode = "off"
nb_code_prompt_show = "Show the cell that fetches the course where it is missing"
nb_render_markdown_format = "myst"
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True  # as written, not the value that it has on this machine
napoleon_use_ivar = True
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 70

html_theme = "furo"
html_title = "Hands-on Vision Transformers"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_use_index = False  # the search finds every function
html_domain_indices = False
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False


def markdown_to_rst(app, what, name, obj, options, lines: list[str]) -> None:
    """Docstrings have `code` and tables as Markdown: they are read in notebooks too."""
    text = re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", "\n".join(lines))
    lines[:] = re.sub(r"(?:^\|.*\|$\n?)+", list_table, text, flags=re.M).split("\n")


def list_table(table: re.Match) -> str:
    """A table of Markdown, `| a | b |`, as the directive that Sphinx knows."""
    head, _, *rows = [[c.strip() for c in line[1:-1].split("|")] for line in table[0].splitlines()]
    cells = ["\n     - ".join(row) for row in (head, *rows)]
    return ".. list-table::\n   :header-rows: 1\n\n   * - " + "\n   * - ".join(cells) + "\n\n"


def setup(app) -> None:
    """Called by Sphinx. Before napoleon, which reads the sections and comes at 500."""
    app.connect("autodoc-process-docstring", markdown_to_rst, priority=400)
