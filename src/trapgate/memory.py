"""Holds guest RAM: one sparse host mapping, addressed by guest-physical address, with one bounds check.

RAM below the 3 GiB mark starts at 0; the rest starts at 4 GiB, so that the PCI/APIC hole between them never is RAM. The host
mapping mirrors that layout (host = base + physical), costs only the pages that are touched, and has no host memory behind the hole.
"""

import re
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NewType

from trapgate.errors import TrapgateError
from trapgate.mapping import Mapping
from trapgate.state import U64, State, require
from trapgate.values import dataclass

GuestPhysical = NewType("GuestPhysical", int)
GuestVirtual = NewType("GuestVirtual", int)
HostAddress = NewType("HostAddress", int)

PAGE_SIZE = 4096
PAGE_MASK = PAGE_SIZE - 1
HOLE_START = 3 << 30  # RAM, if it reaches so far, is interrupted here
HOLE_END = 4 << 30  # and goes on here
_ONES, _RUN = b"\1" * 64, re.compile(b"\1+")
BLOCK = 1 << 20  # bytes that are looked at together when pages that are not zero are searched


class RamError(TrapgateError):
    """An access to guest-physical memory that is not RAM, or a size that RAM cannot have."""


@dataclass(frozen=True, slots=True)
class Extent(State):
    """Pages in a row that are not all zero."""

    address: U64
    data: bytes


@dataclass(frozen=True, slots=True)
class RamState(State):
    """All of guest RAM, less the pages that are zero."""

    size: U64
    extents: tuple[Extent, ...]


class Ram:
    """`size` bytes of guest RAM, zero at first. HostError when the host has none to give.

    Writes made through `write` (loaders, devices, the debugger) are told to `on_write`, so that a translator can drop stale code.
    Guest code itself writes through `host_base` and keeps its own account. `dirty` has a byte for each page, 1 where anybody may
    have written since it was made 0 (`take_dirty`); an engine that writes by itself and does not tell is dirty everywhere.
    """

    def __init__(self, size: int) -> None:
        if size <= 0 or size % PAGE_SIZE:
            raise RamError(f"RAM size {size:#x} is not a positive multiple of 4 KiB")
        self.size = size
        self.low_end = min(size, HOLE_START)
        self.high_end = HOLE_END + size - HOLE_START if size > HOLE_START else self.low_end
        memory = Mapping(self.high_end, "guest RAM")
        memory.prefer_large_pages()
        self._memory: Mapping | None = memory
        self._view = memory.view
        self.host_base = HostAddress(memory.address)
        dirty = Mapping(self.high_end // PAGE_SIZE, "what was written of guest RAM")
        self.dirty, self.dirty_base = dirty.view, HostAddress(dirty.address)
        self.on_write: Callable[[int, int], None] = lambda address, length: None

    def clear(self) -> None:
        """Every byte is zero, as at first. `on_write` is not told: a CPU that runs goes with what it knows of RAM. HostError."""
        assert self._memory is not None, "RAM that was given back"
        self._memory.clear()

    def save(self) -> RamState:
        """A copy of every page that is not zero."""
        return RamState(self.size, tuple(Extent(start, bytes(self._view[start:end])) for start, end in self._used()))

    def _used(self) -> Iterator[tuple[int, int]]:
        """The (start, end) ranges of pages that are not zero."""
        used: tuple[int, int] | None = None
        for address in self._used_pages():
            if used is not None and used[1] == address:
                used = used[0], address + PAGE_SIZE
                continue
            if used is not None:
                yield used
            used = address, address + PAGE_SIZE
        if used is not None:
            yield used

    def _used_pages(self) -> Iterator[int]:
        blank_block, blank_page = bytes(BLOCK), bytes(PAGE_SIZE)
        for start, end in self.regions():
            for block in range(start, end, BLOCK):
                data = bytes(self._view[block : min(block + BLOCK, end)])
                if data != blank_block[: len(data)]:
                    for at in range(0, len(data), PAGE_SIZE):
                        if data[at : at + PAGE_SIZE] != blank_page:
                            yield block + at

    def check(self, state: RamState) -> None:
        """Raise StateError where `load` would."""
        require(state.size == self.size, f"RAM of {state.size} bytes is not one of {self.size}")
        for one in state.extents:
            require(self.contains(one.address, len(one.data)), f"{one.address:#x}+{len(one.data):#x} is not RAM")

    def load(self, state: RamState) -> None:
        """Be as the one saved was. StateError: it has another size. HostError. `on_write` is told of all of it."""
        self.check(state)
        self.clear()
        for one in state.extents:
            self._view[one.address : one.address + len(one.data)] = one.data
        for start, end in self.regions():
            self.wrote(start, end - start)

    def blocks(self, size: int) -> Iterator[tuple[int, int]]:
        """The (start, end) ranges of blocks of `size` bytes that are not all zero, neighbours together."""
        blank, used = bytes(size), list[tuple[int, int]]()
        for start, end in self.regions():
            for block in range(start, end, size):
                until = min(block + size, end)
                if bytes(self._view[block:until]) == blank[: until - block]:
                    continue
                if used and used[-1][1] == block:
                    used[-1] = used[-1][0], until
                else:
                    used.append((block, until))
        return iter(used)

    def load_file(self, descriptor: int, parts: Iterable[tuple[int, int, int]]) -> None:
        """Be zero but for (address, length, offset in the file) of each part, whose pages are read when they are needed.

        All of them are RAM, and the file may not change. HostError. `on_write` is told of all of it.
        """
        self.clear()
        assert self._memory is not None, "RAM that was given back"
        for address, length, offset in parts:
            assert self.contains(address, length), f"{address:#x}+{length:#x} is not RAM"
            self._memory.copy_of(address, length, descriptor, offset)
        for start, end in self.regions():
            self.wrote(start, end - start)

    def close(self) -> None:
        """Give the memory back: nothing is RAM any more."""
        self.low_end = self.high_end = 0
        self._memory, self._view, self.on_write = None, memoryview(b""), lambda address, length: None
        self.dirty = memoryview(b"")

    def regions(self) -> Iterator[tuple[int, int]]:
        """The (start, end) ranges of guest-physical addresses that are RAM."""
        yield 0, self.low_end
        if self.high_end > HOLE_END:
            yield HOLE_END, self.high_end

    def contains(self, address: int, length: int = 1) -> bool:
        """Whether all of [address, address + length) is RAM."""
        if address < 0 or length < 0:
            return False
        end = address + length
        return end <= self.low_end or (address >= HOLE_END and end <= self.high_end)

    def overlaps(self, address: int, length: int) -> bool:
        """Whether any of [address, address + length) is RAM."""
        return any(start < address + length and address < end for start, end in self.regions())

    def host_address(self, address: int, length: int) -> HostAddress:
        """The host address of guest-physical [address, address + length); RamError when any of it is not RAM."""
        self._check(address, length)
        return HostAddress(self.host_base + address)

    def _check(self, address: int, length: int) -> None:
        if (address < 0 or length < 0 or address + length > self.low_end) and not self.contains(address, length):
            raise RamError(f"guest-physical {address:#x}+{length:#x} is not RAM")

    def read(self, address: int, length: int) -> bytes:
        """`length` bytes at a guest-physical address; RamError when any of them is not RAM."""
        self._check(address, length)
        return self._view[address : address + length].tobytes()

    def unpack(self, layout: struct.Struct, address: int) -> tuple[Any, ...]:
        """The fields of a structure at a guest-physical address; RamError when any of it is not RAM."""
        self._check(address, layout.size)
        return layout.unpack_from(self._view, address)

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Store bytes at a guest-physical address; RamError (and nothing written) when any of them would miss RAM."""
        self._check(address, len(data))
        self._view[address : address + len(data)] = data
        self.wrote(address, len(data))

    def wrote(self, address: int, length: int) -> None:
        """Bytes of RAM were changed: it is noted, and `on_write` is told."""
        first, end = address // PAGE_SIZE, (address + length + PAGE_MASK) // PAGE_SIZE
        self.dirty[first:end] = _ONES[: end - first] if end - first <= len(_ONES) else b"\1" * (end - first)
        self.on_write(address, length)

    def take_dirty(self) -> list[int]:
        """The addresses of the pages that were written since this was called last; from now on none is.

        Whoever writes without `wrote` must know that: a CPU forgets which pages it may write to (`Vcpu.forget_pages`).
        """
        data = bytes(self.dirty)
        self.dirty[:] = bytes(len(data))
        return [page * PAGE_SIZE for found in _RUN.finditer(data) for page in range(*found.span())]

    def take_page(self, address: int) -> bytes:
        """A copy of a page, by its address."""
        return bytes(self._view[address : address + PAGE_SIZE])

    def put_page(self, address: int, data: bytes) -> None:
        """Make a page what it was; `on_write` is told."""
        self._view[address : address + PAGE_SIZE] = data
        self.wrote(address, PAGE_SIZE)

    def view(self, address: int, length: int) -> memoryview:
        """The bytes at a guest-physical address themselves; who writes there tells `wrote`. RamError."""
        self._check(address, length)
        return self._view[address : address + length]

    def read_int(self, address: int, size: int) -> int:
        """A little-endian integer of `size` bytes."""
        return int.from_bytes(self.read(address, size), "little")

    def int_at(self, address: int, size: int) -> int | None:
        """The same; None where any of it is not RAM."""
        end = address + size
        if (address < 0 or end > self.low_end) and not self.contains(address, size):
            return None
        return int.from_bytes(self._view[address:end], "little")

    def write_int(self, address: int, size: int, value: int) -> None:
        """Store a little-endian integer of `size` bytes."""
        self.write(address, value.to_bytes(size, "little"))


def virtual_parts(ram: Ram, translate: Callable[[int], int | None], address: int, length: int) -> Iterator[tuple[int, int]]:
    """(guest-physical address, size) of guest-virtual [address, address + length), page by page, up to one that is not RAM."""
    end = address + length
    while address < end:
        size, physical = min(end - address, PAGE_SIZE - address % PAGE_SIZE), translate(address)
        if physical is None or not ram.contains(physical, size):
            return
        yield physical, size
        address += size
