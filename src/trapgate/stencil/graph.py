"""Describes what `stencil.loop` compiles: blocks as graphs of micro-ops, each with its holes filled and its ways known."""

from collections.abc import Iterable, Mapping, Sequence

from trapgate.values import dataclass


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
    """One micro-op. `first`: of its instruction. What its stencil has no jump or hole for makes no difference."""

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


def around(ahead: Sequence[Sequence[int]]) -> frozenset[int]:
    """The places on some way from place 0 back to it, by where each leads; none where there is no such way."""
    behind: list[list[int]] = [[] for _ in ahead]
    for place, targets in enumerate(ahead):
        for to in targets:
            behind[to].append(place)
    return _reached(ahead) & _reached(behind) if behind[0] else frozenset()


def _reached(ways: Sequence[Sequence[int]]) -> frozenset[int]:
    seen, todo = {0}, [0]
    while todo:
        for to in ways[todo.pop()]:
            if to not in seen:
                seen.add(to)
                todo.append(to)
    return frozenset(seen)
