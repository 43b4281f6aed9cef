"""What `stencil.loop` compiles: blocks as graphs of micro-ops, each with its holes filled and its ways known."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


class NotALoop(Exception):
    """These blocks make no function: what they hold cannot be lowered together, or there is no way back to the first."""


@dataclass(frozen=True, slots=True)
class Edge:
    """A way out of a block: to another one of the graph, where that is part of the loop, else to a host address."""

    block: int
    address: int


Way = int | Edge | str
"""Where a jump of a body leads: to a host address, along an edge, or to another step (its label)."""


@dataclass(frozen=True, slots=True)
class Step:
    """One micro-op. `first`: of its instruction. A jump that has no way was found unreachable when its stencil was made."""

    label: str
    form: str
    first: bool
    holes: Mapping[str, int]
    ways: Mapping[str, Way]


@dataclass(frozen=True, slots=True)
class Node:
    """A block: its micro-ops. The label of the first is where other blocks enter it."""

    steps: Sequence[Step]

    def edges(self) -> Iterable[int]:
        """The blocks that it leads to."""
        return (way.block for step in self.steps for way in step.ways.values() if isinstance(way, Edge))


@dataclass(frozen=True, slots=True)
class Loop:
    """A compiled loop. `holes`: (offset, symbol or host address, addend) of 32-bit relative references."""

    code: bytes
    entry: int
    holes: Sequence[tuple[int, int, int]]
    blocks: frozenset[int]
