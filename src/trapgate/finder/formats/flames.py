"""Draws all stacks of a report as a flame graph, in SVG: the callers below, wider where more bus locks came from."""

from collections.abc import Iterator, Sequence
from dataclasses import field
from html import escape

from trapgate.finder.findings import Finding
from trapgate.finder.formats.collapsed import folded
from trapgate.values import dataclass

WIDTH, ROW = 1200, 18
CHARACTER = 6.6  # about, of a name
LEAST = 0.5  # what is narrower is not drawn
MOST_DRAWN = 20_000


@dataclass(slots=True)
class _Node:
    count: int = 0
    inside: dict[str, "_Node"] = field(default_factory=dict)

    @property
    def height(self) -> int:
        """Rows of it and what is above it."""
        rows, level = 0, [self]
        while level:
            rows += 1
            level = [node for one in level for node in one.inside.values()]
        return rows


def graph(findings: Sequence[Finding]) -> Iterator[str]:
    """The picture."""
    root = _Node()
    for names, count in folded(findings).items():
        node = root
        node.count += count
        for name in names:
            node = node.inside.setdefault(name, _Node())
            node.count += count
    height = (root.height - 1) * ROW
    yield f'<svg class=flames viewBox="0 0 {WIDTH} {height}" role=img aria-label="flame graph">'
    scale = WIDTH / max(1, root.count)
    waiting, drawn = [(root, 0.0, 0)], 0
    while waiting and drawn < MOST_DRAWN:
        node, left, depth = waiting.pop()
        for name, one in sorted(node.inside.items()):
            width = one.count * scale
            if width >= LEAST:
                yield _box(name, one.count, left, height - (depth + 1) * ROW, width)
                drawn += 1
                waiting.append((one, left, depth + 1))
            left += width
    yield "</svg>"


def _box(name: str, count: int, left: float, top: int, width: float) -> str:
    fits = int((width - 6) / CHARACTER)
    label = name if len(name) <= fits else name[: fits - 1] + "…" if fits > 3 else ""
    text = f'<text x="{left + 3:.1f}" y="{top + 13}">{escape(label)}</text>' if label else ""
    shade = sum(name.encode(errors="replace")) % 5
    return (
        f'<g><title>{escape(name)}: {count}</title><rect class="flame{shade}" x="{left:.1f}" y="{top}" '
        f'width="{max(width - 0.5, LEAST):.1f}" height="{ROW - 1}"/>{text}</g>'
    )
