"""Every page of docs/ is in the index; `make docs` checks the rest, warnings being errors."""

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_every_page_is_in_the_index() -> None:
    trees = re.findall(r"```{toctree}\n:caption: .*\n([a-z\n]+)```", (DOCS / "index.md").read_text())
    listed = [name for tree in trees for name in tree.split()]
    assert sorted(listed) == sorted(path.stem for path in DOCS.glob("*.md") if path.stem != "index")
