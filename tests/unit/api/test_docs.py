"""The examples of docs/api.md, docs/shares.md and docs/exec.md, and those in docstrings of the library, run as they stand there."""

import doctest
import re
from pathlib import Path

import pytest

import trapgate
from system.exec_runs import needs_kernel

PAGES = [Path(__file__).parents[3] / "docs" / name for name in ("api.md", "shares.md", "exec.md")]
EXAMPLES = [
    found for page in PAGES for found in re.findall(r"^## ([^\n]*)\n|^```python\n(.*?)^```$", page.read_text(), re.M | re.S)
]


def _named() -> list[tuple[str, str]]:
    named, title = [], ""
    for heading, text in EXAMPLES:
        title = heading or title
        if text:
            named.append((title, text))
    return named


def _run(name: str, text: str) -> None:
    test = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)
    assert test.examples
    told: list[str] = []
    doctest.DocTestRunner(verbose=False).run(test, out=told.append)
    assert not told, "".join(told)


@pytest.mark.parametrize(("name", "text"), _named(), ids=[name for name, _ in _named()])
def test_example(name: str, text: str) -> None:
    if "execute(" in text:
        needs_kernel()
    _run(name, text)


def test_the_first_example_of_all() -> None:
    _run("trapgate", trapgate.__doc__ or "")


def test_a_wrong_example_is_seen() -> None:
    with pytest.raises(AssertionError, match="Expected"):
        _run("wrong", ">>> 1 + 1\n3\n")
