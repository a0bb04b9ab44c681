"""The documentation site.

pip install -e '.[docs]' && sphinx-build -W docs build/site  # then open build/site/index.html
"""

import pathlib
import re
import urllib.request

from sphinx.application import Sphinx
from sphinx.util import logging

import mtan_jax

ROOT = pathlib.Path(__file__).parents[1]
SOURCE = "https://github.com/mtan-jax/mtan_jax/blob/main"

project = "mtan_jax"
author = copyright = "The mtan_jax authors"  # noqa: A001  # Sphinx's name
version = release = mtan_jax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["images", "deploy"]
highlight_language = "bash"  # of indented blocks, which hold commands

html_theme = "sphinx_book_theme"
html_title = "mtan_jax"
html_theme_options = {
    "repository_url": "https://github.com/mtan-jax/mtan_jax",
    "path_to_docs": "docs",
    "use_repository_button": True,
    "show_toc_level": 2,
    "navbar_persistent": [],  # by default a second field for the search, beside that of the sidebar
}

myst_heading_anchors = 4

# The notebooks and the cells of other pages run when the site is built, and are stored without outputs.
nb_execution_mode = "cache"
nb_execution_cache_path = str(ROOT / "build" / "notebooks")
nb_execution_timeout = 1800
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_merge_streams = True
nb_render_markdown_format = "myst"  # with tables

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # shapes and units are in the descriptions
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False


def _reachable(site: str) -> bool:
    """Whether the index of another site can be read. Without a network the site builds, without links to others."""
    try:
        with urllib.request.urlopen(f"{site}/objects.inv", timeout=5):
            return True
    except OSError:
        logging.getLogger(__name__).info("%s cannot be reached; names do not link to it", site)
        return False


intersphinx_mapping = {
    name: (site, None)
    for name, site in {
        "flax": "https://flax-linen.readthedocs.io/en/latest",
        "jax": "https://docs.jax.dev/en/latest",
        "optax": "https://optax.readthedocs.io/en/latest",
        "python": "https://docs.python.org/3",
    }.items()
    if _reachable(site)
}


def _link_to_source(app: Sphinx, name: str, text: list[str]) -> None:
    """Links to files that are not pages lead to the repository."""
    folder = pathlib.Path(app.srcdir, name).parent

    def target(match: re.Match[str]) -> str:
        file = (folder / match["file"]).resolve()
        if file.is_relative_to(ROOT) and not (file.is_relative_to(app.srcdir) and file.suffix in (".md", ".png")):
            return f"]({SOURCE}/{file.relative_to(ROOT)}{match['anchor'] or ''})"
        return match[0]

    link = re.compile(r"\]\((?!https?:)(?P<file>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
    parts = re.split(r"(^ *```.*?^ *```$)", text[0], flags=re.MULTILINE | re.DOTALL)  # text and code, in turns
    parts[::2] = [link.sub(target, part) for part in parts[::2]]
    text[0] = "".join(parts)


def _to_rst(app: Sphinx, kind: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Docstrings are plain text: `*` and `|` are no markup, and `names` are code."""
    section = ""
    for i, line in enumerate(lines):
        if section in ("Returns:", "Yields:"):
            lines[i] = line = re.sub(r"\S", r": \g<0>", line, count=1)  # else napoleon takes text before ":" for a type
        section = line.strip()
        if section.startswith((">>>", "...")):
            continue
        parts = line.split("`")
        parts[::2] = [re.sub(r"[*|\\]", r"\\\g<0>", part) for part in parts[::2]]
        lines[i] = "``".join(parts)


def _skip(app: Sphinx, kind: str, name: str, obj: object, skip: bool, options: object) -> bool | None:
    """Leaves out the fields of named tuples, which are described as attributes."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") else None


def setup(app: Sphinx) -> None:
    """Sphinx calls this."""
    app.connect("source-read", _link_to_source)
    app.connect("autodoc-process-docstring", _to_rst, priority=100)  # before napoleon
    app.connect("autodoc-skip-member", _skip)
