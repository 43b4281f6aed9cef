"""Names the formats of reports. A new one is a module here with a `render`, and a line in the table."""

from collections.abc import Iterator
from importlib import import_module
from typing import Protocol

from trapgate.finder.findings import Report

FORMATS = ("text", "json", "jsonl", "sarif", "html", "junit", "github", "collapsed", "valgrind-xml", "suppressions")
"""By their names; the module's is the same."""


class Renderer(Protocol):
    """A module of this package."""

    @staticmethod
    def render(report: Report) -> Iterator[str]:
        """The report in that format, in lines without their ends. It does no I/O, and what it is given may hold any characters."""
        ...


def renderer(name: str) -> Renderer:
    """The renderer of a format of `FORMATS`, which is loaded now."""
    assert name in FORMATS, name
    found: Renderer = import_module(f"{__package__}.{name.replace('-', '_')}")  # type: ignore[assignment]
    return found
