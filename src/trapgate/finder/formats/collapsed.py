"""Tells stacks folded to a line each, with how often: what flame graphs are drawn from (flamegraph.pl, speedscope, inferno)."""

from collections import Counter
from collections.abc import Iterator, Sequence

from trapgate.finder.findings import Finding, Report
from trapgate.finder.formats.words import frame_name, shown


def render(report: Report) -> Iterator[str]:
    """See `registry.Renderer`."""
    for names, count in sorted(folded(report.findings).items()):
        yield f"{';'.join(_name(one) for one in names)} {count}"


def folded(findings: Sequence[Finding]) -> Counter[tuple[str, ...]]:
    """How often bus locks came from each stack, by its names, the outermost first.

    All of a finding's are divided among its stacks as the first of them were.
    """
    found: Counter[tuple[str, ...]] = Counter()
    for one in findings:
        whole, left = sum(stack.count for stack in one.stacks), one.count
        for stack in reversed(one.stacks):
            share = left if stack is one.stacks[0] else one.count * stack.count // whole
            left -= share
            found[tuple(shown(frame_name(frame)) for frame in reversed(stack.frames))] += share
        if not one.stacks:
            found[(shown(one.site.function) or f"{one.site.address:#x}",)] += one.count
    return +found


def _name(text: str) -> str:
    """A name in which nothing parts frames."""
    return text.replace(";", ":").replace(" ", "_")
