"""Answers for firmware at the end of the first 4 GiB, where the CPU does not read it as RAM: in read-modify-writes."""

from trapgate.arch import layout
from trapgate.devices.dma import Dma
from trapgate.devices.parts import Stateless, Wiring


class Mirror(Stateless):
    """The bytes below 1 MiB, read-only; plain loads and fetches of the CPU find them without it (`isa.native.walking`)."""

    def __init__(self, ram: Dma) -> None:
        self._ram = ram

    def read(self, offset: int, size: int) -> int:
        """The bytes at that place in low memory; ones where RAM does not reach so far."""
        address = layout.MIRRORED_BASE + offset
        there = self._ram.contains(address, size)
        return int.from_bytes(self._ram.read(address, size), "little") if there else (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Nothing: it is read-only."""


def mirror(wiring: Wiring) -> Mirror:
    """The one at its place."""
    made = Mirror(wiring.ram)
    wiring.memory(layout.MIRROR_BASE, layout.MIRROR_LENGTH, made)
    return made
