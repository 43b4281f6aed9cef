"""Settings of Sphinx for these pages and the reference; `make docs` builds them into build/docs."""

import re
from pathlib import Path
from typing import Any

import trapgate

FOLDER = Path(__file__).resolve().parent

project = "trapgate"
copyright = "the trapgate maintainers"
version = release = trapgate.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = f"trapgate {release}"
default_role = "code"  # docstrings quote code as Markdown does
exclude_patterns = ["build"]
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
myst_heading_anchors = 3


def _pages_of_the_root(app: object, name: str, source: list[str]) -> None:
    """Files beside this folder have a page here that is nothing but them; links lead to that."""
    if found := re.fullmatch(r"```{include} (\S+)\n```\n", source[0]):
        source[0] = (FOLDER / found[1]).read_text().replace("](docs/", "](")
    source[0] = re.sub(r"\]\((?:\.\./)?([A-Z]+)\.md", lambda found: f"]({found[1].lower()}.md", source[0])


def _plain_docstring(app: object, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Docstrings are plain text with `code`: an underscore, a star or a bar outside of that means nothing."""
    for number, line in enumerate(lines):
        parts = re.split(r"(`[^`]*`)", line)
        lines[number] = "".join(part if part[:1] == "`" else re.sub(r"_\b(?!\w)|[*|]", r"\\\g<0>", part) for part in parts)


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _pages_of_the_root)
    app.connect("autodoc-process-docstring", _plain_docstring)
