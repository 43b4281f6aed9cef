"""Guest RAM as devices reach it: by addresses and lengths that a guest has chosen, each checked."""

import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from trapgate.memory import Ram


class Dma:
    """Reads and writes guest RAM. RamError, and nothing done, where any of the bytes is not RAM.

    What is written is code at once, if it is executed: the translator is told, and `wrote` has the vCPUs look at it.
    """

    def __init__(self, ram: Ram, wrote: Callable[[], None] = lambda: None) -> None:
        self._ram, self._wrote = ram, wrote

    def regions(self) -> list[tuple[int, int]]:
        """The (start, end) ranges of guest-physical addresses that are RAM."""
        return list(self._ram.regions())

    def contains(self, address: int, length: int) -> bool:
        """Whether all of [address, address + length) is RAM."""
        return self._ram.contains(address, length)

    def overlaps(self, address: int, length: int) -> bool:
        """Whether any of [address, address + length) is RAM."""
        return self._ram.overlaps(address, length)

    def read(self, address: int, length: int) -> bytes:
        """A copy of `length` bytes at a guest-physical address."""
        return self._ram.read(address, length)

    def unpack(self, layout: struct.Struct, address: int) -> tuple[Any, ...]:
        """The fields of a structure at a guest-physical address."""
        return self._ram.unpack(layout, address)

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Store bytes at a guest-physical address."""
        self._ram.write(address, data)
        self._wrote()

    def write_all(self, places: Iterable[tuple[int, int]], data: bytes) -> int:
        """Store bytes at some (address, length), one after the other; how many had room."""
        done = 0
        for address, size in places:
            self._ram.write(address, data[done : done + size])
            done += size
        self._wrote()
        return done

    @contextmanager
    def look(self, address: int, length: int) -> Iterator[memoryview]:
        """The bytes themselves, for reading, without a copy: what the host writes from there, say. Not to be kept."""
        with self.look_all([(address, length)]) as (view,):
            yield view

    @contextmanager
    def fill(self, address: int, length: int) -> Iterator[memoryview]:
        """The bytes themselves, for writing, without a copy: where the host reads to, say. Not to be kept."""
        with self.fill_all([(address, length)]) as (view,):
            yield view

    @contextmanager
    def look_all(self, places: Iterable[tuple[int, int]]) -> Iterator[list[memoryview]]:
        """As `look`, for each (address, length)."""
        views = [self._ram.view(*place).toreadonly() for place in _joined(places)]
        try:
            yield views
        finally:
            for view in views:
                view.release()

    @contextmanager
    def fill_all(self, places: Iterable[tuple[int, int]]) -> Iterator[list[memoryview]]:
        """As `fill`, for each (address, length)."""
        places = _joined(places)
        views = [self._ram.view(*place) for place in places]
        try:
            yield views
        finally:
            for view in views:
                view.release()
            for address, length in places:
                self._ram.wrote(address, length)
            self._wrote()


def _joined(places: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same bytes, what follows each other as one."""
    joined: list[tuple[int, int]] = []
    end = -1
    for address, length in places:
        if address == end:
            start, before = joined[-1]
            joined[-1] = start, before + length
        else:
            joined.append((address, length))
        end = address + length
    return joined
