"""Tells findings as suppressions of them, for a file of `--suppressions`."""

from collections.abc import Iterator

from trapgate.finder import suppressions
from trapgate.finder.findings import Report
from trapgate.finder.formats.text import summary


def render(report: Report) -> Iterator[str]:
    """See `registry.Renderer`."""
    for one in report.findings:
        yield f"# {summary(one)}"
        yield from suppressions.made(one)
