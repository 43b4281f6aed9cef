"""Guest RAM: one sparse host mapping, addressed by guest-physical address, with one bounds check.

RAM below the 3 GiB mark starts at 0; the rest starts at 4 GiB, so that the PCI/APIC hole between them never is RAM. The host
mapping mirrors that layout (host = base + physical), costs only the pages that are touched, and has no host memory behind the hole.
"""

from collections.abc import Callable, Iterator
from typing import NewType

from trapgate.errors import TrapgateError
from trapgate.mapping import Mapping

GuestPhysical = NewType("GuestPhysical", int)
GuestVirtual = NewType("GuestVirtual", int)
HostAddress = NewType("HostAddress", int)

PAGE_SIZE = 4096
PAGE_MASK = PAGE_SIZE - 1
HOLE_START = 3 << 30  # RAM, if it reaches so far, is interrupted here
HOLE_END = 4 << 30  # and goes on here


class RamError(TrapgateError):
    """An access to guest-physical memory that is not RAM, or a size that RAM cannot have."""


class Ram:
    """`size` bytes of guest RAM, zero at first. HostError when the host has none to give.

    Writes made through `write` (loaders, devices, the debugger) are told to `on_write`, so that a translator can drop stale code.
    Guest code itself writes through `host_base` and keeps its own account.
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
        self.on_write: Callable[[int, int], None] = lambda address, length: None

    def clear(self) -> None:
        """Every byte is zero, as at first. `on_write` is not told: a CPU that runs goes with what it knows of RAM. HostError."""
        assert self._memory is not None, "RAM that was given back"
        self._memory.clear()

    def close(self) -> None:
        """Give the memory back: nothing is RAM any more."""
        self.low_end = self.high_end = 0
        self._memory, self._view, self.on_write = None, memoryview(b""), lambda address, length: None

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

    def host_address(self, address: int, length: int) -> HostAddress:
        """The host address of guest-physical [address, address + length); RamError when any of it is not RAM."""
        if not self.contains(address, length):
            raise RamError(f"guest-physical {address:#x}+{length:#x} is not RAM")
        return HostAddress(self.host_base + address)

    def read(self, address: int, length: int) -> bytes:
        """`length` bytes at a guest-physical address; RamError when any of them is not RAM."""
        self.host_address(address, length)
        return bytes(self._view[address : address + length])

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Store bytes at a guest-physical address; RamError (and nothing written) when any of them would miss RAM."""
        self.host_address(address, len(data))
        self._view[address : address + len(data)] = data
        self.on_write(address, len(data))

    def read_int(self, address: int, size: int) -> int:
        """A little-endian integer of `size` bytes."""
        return int.from_bytes(self.read(address, size), "little")

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
