"""How Sphinx makes these pages, from a checkout with the `docs` extra installed:

    sphinx-build -W -q docs SITE

Nothing in them is fetched from anywhere: system fonts, no CDN, formulas as plain text, a search that runs in the page.
"""

from __future__ import annotations

import inspect
import pkgutil
import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout's own code, whatever else is installed

project = html_title = "private_distdd"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
smartquotes_action = "D"  # the dashes of parameters; quotes stay, because "cosine" is a value to type

nb_execution_mode = "off"  # the notebook shows what `jupyter execute --inplace` left in it
nb_merge_streams = True
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4

default_role = "code"
add_module_names = False
autodoc_default_options = {"members": True}
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints = "both"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

html_theme = "furo"
pygments_dark_style = "github-dark"  # furo's own underlines what is no link
html_static_path = ["_static"]
html_css_files = ["pictures.css"]
html_copy_source = html_show_sourcelink = False
html_domain_indices = html_use_index = False
html_show_copyright = html_show_sphinx = False


def document(line: re.Match[str]) -> str:
    """What Sphinx reads instead of a line `::: private_distdd.ROOM.NAME`: a heading, and the docstrings below it."""
    thing = pkgutil.resolve_name(line[1])
    kind = "module" if inspect.ismodule(thing) else "class" if inspect.isclass(thing) else "function"
    title = line[1].removeprefix("private_distdd.")
    return f"### `{title}`\n\n```{{eval-rst}}\n.. auto{kind}:: {line[1]}\n```\n"


def read_page(_app: Sphinx, _name: str, source: list[str]) -> None:
    """Put the docstrings where a page asks for them."""
    source[0] = re.sub(r"^::: (\S+)$", document, source[0], flags=re.MULTILINE)


def plain(line: str) -> str:
    """A line of a docstring with `code` as its only mark: what RST takes for one in [n, *shape] is none."""
    return re.sub(r"`[^`]*`|[*|]", lambda found: found[0] if len(found[0]) > 1 else "\\" + found[0], line)


def read_docstring(_app: Sphinx, _kind: str, _name: str, _thing: object, _options: object, lines: list[str]) -> None:
    """Docstrings are plain text."""
    lines[:] = map(plain, lines)


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", read_page)
    app.connect("autodoc-process-docstring", read_docstring, priority=400)  # before napoleon writes marks of its own
