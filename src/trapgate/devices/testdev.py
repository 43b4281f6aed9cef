"""Test guests need these devices as well: ports that drive interrupt lines, and registers that only remember what was written."""

from collections.abc import Sequence

from trapgate.devices.lines import ByteDevice, Line


class IrqLines(ByteDevice):
    """One port a line: a write drives line n to (value is not 0); a read tells the level last written."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self.LENGTH = len(lines)
        self._lines = lines
        self._levels = [False] * len(lines)

    def read8(self, offset: int) -> int:
        """The level written last."""
        return int(self._levels[offset])

    def write8(self, offset: int, value: int) -> None:
        """Drive a line."""
        self._levels[offset] = bool(value)
        self._lines[offset](bool(value))

    def write(self, offset: int, size: int, value: int) -> None:
        """A write of any size is for the one line at `offset`."""
        self.write8(offset, int(value != 0))


class Scratch(ByteDevice):
    """`length` bytes behind ports or MMIO that read as they were written: a guest can see what its accesses of every size do."""

    def __init__(self, length: int) -> None:
        self.LENGTH = length
        self._bytes = bytearray(length)

    def read8(self, offset: int) -> int:
        """One byte."""
        return self._bytes[offset]

    def write8(self, offset: int, value: int) -> None:
        """Store one byte."""
        self._bytes[offset] = value
