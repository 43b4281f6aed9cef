"""Keeps compiled loops for when they are met again, in this run or a later one: found by what they are made of, not where they lie.

A run that meets only loops it knows never loads LLVM. What turned out to be no loop is kept as well.
"""

import hashlib
import marshal
import re
from collections.abc import Callable, Sequence
from typing import Any

from trapgate.stencil import identity
from trapgate.stencil.cache import Cache, WrongContent, pack, unpack
from trapgate.stencil.graph import Edge, Loop, Node, NotALoop, Way

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
        if key not in self._kept or not _fits(self._kept[key], len(graph), len(addresses)):
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
        self._kept = cache.read(_file(), _unpacked) or {}

    def store(self, cache: Cache) -> None:
        """Keep what this run has compiled. A disk that refuses leaves a note with the cache."""
        if self.added:
            kept = dict(self._kept)
            cache.store(_file(), _packed(kept if len(kept) <= MOST else dict(list(kept.items())[-self.added :])))
            self.added = 0


def _fits(kept: _Kept | None, blocks: int, addresses: int) -> bool:
    """Whether what is kept speaks of no other blocks and addresses than a graph has."""
    return kept is None or (all(0 <= n < blocks for n in kept[3]) and all(number < addresses for _, number, _ in kept[2]))


def _file() -> str:
    return f"loops-{identity.digest(identity.BLOCKS)}"


def _packed(kept: dict[bytes, _Kept | None]) -> bytes:
    head, body = dict[str, object](), bytearray()
    for key, one in kept.items():
        if one is None:
            head[key.hex()] = None
        else:
            code, *rest = one
            head[key.hex()] = len(body), len(code), *rest
            body += code
    return pack(head, bytes(body))


def _unpacked(data: memoryview) -> dict[bytes, _Kept | None]:
    """What `_packed` was given; WrongContent when these bytes are no such thing."""
    head, body = unpack(data)
    match head:
        case dict() if all(re.fullmatch("([0-9a-f]{2})+", key) for key in head):
            return {bytes.fromhex(key): None if one is None else _kept(one, body) for key, one in head.items()}
    raise WrongContent


def _kept(one: object, body: memoryview) -> _Kept:
    match one:
        case [int() as at, int() as length, int() as entry, list() as holes, list() as blocks]:
            sound = at >= 0 and 0 <= entry < length <= len(body) - at and all(isinstance(block, int) for block in blocks)
            if sound and all(_is_hole(hole, length) for hole in holes):
                return bytes(body[at : at + length]), entry, [(at, number, addend) for at, number, addend in holes], blocks
    raise WrongContent


def _is_hole(hole: object, room: int) -> bool:
    match hole:
        case [int() as at, int() as number, int()]:
            return 0 <= at <= room - 4 and number >= 0
    return False


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
