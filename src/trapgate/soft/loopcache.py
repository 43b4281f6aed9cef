"""Compiled loops that are met again, in this run or a later one: found by what they are made of, not by where they lie.

A run that meets only loops it knows never loads LLVM. What turned out to be no loop is kept as well.
"""

import hashlib
import marshal
from collections.abc import Callable, Sequence
from typing import Any

from trapgate.stencil.cache import Cache
from trapgate.stencil.graph import Edge, Loop, Node, NotALoop, Way
from trapgate.stencil.library import digest

MOST = 4096  # loops: past that a run starts anew
_Kept = tuple[bytes, int, list[tuple[int, int, int]], list[int]]  # as `Loop`, addresses by their number in the graph


class KnownLoops:
    """Every graph looked at so far."""

    def __init__(self) -> None:
        self._kept: dict[bytes, _Kept | None] = {}
        self.added = 0

    def loop(self, graph: Sequence[Node], compile_: Callable[[Sequence[Node]], Loop]) -> Loop:
        """The loop through block 0 of a graph, compiled where it is not known; NotALoop where there is none."""
        key, addresses = _essence(graph)
        if key not in self._kept:
            self._add(key, graph, addresses, compile_)
        kept = self._kept[key]
        if kept is None:
            raise NotALoop
        code, entry, holes, blocks = kept
        return Loop(code, entry, [(at, addresses[number], addend) for at, number, addend in holes], frozenset(blocks))

    def _add(self, key: bytes, graph: Sequence[Node], addresses: list[int], compile_: Callable[[Sequence[Node]], Loop]) -> None:
        kept: _Kept | None = None
        try:
            loop = compile_(graph)
        except NotALoop:
            pass
        else:
            numbers = {address: number for number, address in enumerate(addresses)}
            holes = [(at, numbers[address], addend) for at, address, addend in loop.holes]
            kept = loop.code, loop.entry, holes, sorted(loop.blocks)
        self._kept[key] = kept
        self.added += 1

    def load(self, cache: Cache) -> None:
        """Know what earlier runs compiled."""
        data = cache.load(_file())
        if data is not None:
            self._kept = marshal.loads(data)

    def store(self, cache: Cache) -> None:
        """Keep what this run has compiled. A disk that refuses leaves a note with the cache."""
        if self.added:
            kept = dict(self._kept)
            cache.store(_file(), marshal.dumps(kept if len(kept) <= MOST else dict(list(kept.items())[-self.added :])))
            self.added = 0


def _file() -> str:
    return f"loops-{digest()}"


def _essence(graph: Sequence[Node]) -> tuple[bytes, list[int]]:
    """A digest of everything that decides the code of a loop, and the host addresses that the code refers to by their number."""
    addresses: dict[int, int] = {}

    def plain(way: Way) -> Any:
        match way:
            case Edge(block, address):
                return block, addresses.setdefault(address, len(addresses))
            case int():
                return addresses.setdefault(way, len(addresses))
        return way

    steps = [
        [
            (step.label, step.form, step.first, sorted(step.holes.items()), [(name, plain(way)) for name, way in step.ways.items()])
            for step in node.steps
        ]
        for node in graph
    ]
    return hashlib.sha256(marshal.dumps(steps, 2)).digest(), list(addresses)
