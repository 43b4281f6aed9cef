"""Holds breakpoints for the software CPU: the debugger's, and those of both as accesses are tested."""

import struct
from bisect import bisect_left
from collections.abc import Iterable
from operator import itemgetter

from trapgate.mapping import Mapping
from trapgate.values import dataclass
from trapgate.vcpu import Breakpoint, Kind

LAST = (1 << 64) - 1
_RANGE = 16


@dataclass(frozen=True, slots=True)
class Armed:
    """The debugger's breakpoints."""

    hardware: tuple[Breakpoint, ...] = ()
    software: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Watch:
    """A data or I/O breakpoint as accesses are tested: [first, last], and which breakpoint of `armed` it is."""

    first: int
    last: int
    kind: Kind
    index: int

    def matches(self, write: bool) -> bool:
        """Whether data accesses of this kind hit it."""
        return self.kind is Kind.ACCESS or self.kind is (Kind.WRITE if write else Kind.READ)


class WatchList:
    """What reads, or stores, hit: ranges of linear addresses where native code finds them (`isa.native.watching`)."""

    def __init__(self, what: str) -> None:
        self._what, self._memory = what, Mapping(4096, what)
        self._ranges: list[tuple[int, int]] = []

    def put(self, watches: Iterable[Watch]) -> tuple[int, int]:
        """Holds these from now on; the host addresses of the first range and behind the last. HostError."""
        self._ranges = joined((watch.first, min(watch.last, LAST)) for watch in watches)
        size = _RANGE * len(self._ranges)
        if size > len(self._memory.view):
            self._memory = Mapping(2 * size, self._what)
        self._memory.view[:size] = struct.pack(f"<{2 * len(self._ranges)}Q", *(end for one in self._ranges for end in one))
        return self._memory.address, self._memory.address + size

    def touched(self, first: int, last: int) -> bool:
        """Whether a byte of [first, last] is in a range."""
        at = bisect_left(self._ranges, first, key=itemgetter(1))
        return at < len(self._ranges) and self._ranges[at][0] <= last


def joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges (first, last) that overlap or touch as one, in ascending order."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(last, found[-1][1])
        else:
            found.append((first, last))
    return found
