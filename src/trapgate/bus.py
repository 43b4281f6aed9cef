"""The bus routes by range: which device answers a port or a guest-physical address. A device sees offsets, not its own address."""

from bisect import bisect_right
from typing import Protocol

from trapgate.errors import TrapgateError


class Device(Protocol):
    """Anything that answers reads and writes at offsets inside its range. `size` is 1, 2, 4 or 8 bytes."""

    def read(self, offset: int, size: int) -> int:
        """The value at an offset; bits above `size` are ignored."""
        ...

    def write(self, offset: int, size: int, value: int) -> None:
        """Store a value, already cut to `size` bytes."""
        ...


class BusConflict(TrapgateError):
    """Two devices claim the same address."""


class Bus:
    """An address space of devices. Nobody there: reads give all ones, writes vanish, as on a real bus."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._starts: list[int] = []
        self._ranges: list[tuple[int, int, Device]] = []

    def map(self, start: int, length: int, device: Device) -> None:
        """Give [start, start + length) to a device; BusConflict when any of it is taken."""
        at = bisect_right(self._starts, start)
        neighbours = self._ranges[max(at - 1, 0) : at + 1]
        if any(low < start + length and start < high for low, high, _ in neighbours):
            raise BusConflict(f"{self.name} {start:#x}+{length:#x} is already taken")
        self._starts.insert(at, start)
        self._ranges.insert(at, (start, start + length, device))

    def unmap(self, start: int) -> None:
        """Take back what was given from `start` on."""
        at = self._starts.index(start)
        del self._starts[at], self._ranges[at]

    def find(self, address: int) -> tuple[Device, int] | None:
        """The device at an address and the offset inside it."""
        at = bisect_right(self._starts, address) - 1
        if at >= 0:
            low, high, device = self._ranges[at]
            if address < high:
                return device, address - low
        return None

    def read(self, address: int, size: int) -> int:
        """What the device at `address` answers, cut to `size` bytes; all ones when there is none."""
        mask = (1 << 8 * size) - 1
        found = self.find(address)
        return mask if found is None else found[0].read(found[1], size) & mask

    def write(self, address: int, size: int, value: int) -> None:
        """Hand a value to the device at `address`, if any."""
        found = self.find(address)
        if found is not None:
            found[0].write(found[1], size, value & ((1 << 8 * size) - 1))
