"""Defines interrupt lines, and the base of devices whose registers are single bytes."""

from collections.abc import Callable

Line = Callable[[bool], None]  # called with the level that a device drives: True = asserted


def unconnected(level: bool) -> None:
    """A line that leads nowhere."""


class ByteDevice:
    """A device of one-byte registers.

    Wider accesses fall apart into bytes, as the ISA bus splits them; bytes past its end are all ones.
    """

    LENGTH: int = 1

    def read8(self, offset: int) -> int:
        """The byte at a register."""
        raise NotImplementedError

    def write8(self, offset: int, value: int) -> None:
        """Store a byte in a register."""
        raise NotImplementedError

    def read(self, offset: int, size: int) -> int:
        """The value at an offset, `size` bytes, lowest offset first."""
        if size == 1:
            return self.read8(offset)
        return sum((self.read8(at) if at < self.LENGTH else 0xFF) << 8 * (at - offset) for at in range(offset, offset + size))

    def write(self, offset: int, size: int, value: int) -> None:
        """Store `size` bytes, lowest offset first."""
        if size == 1:
            self.write8(offset, value)
            return
        for at in range(offset, min(offset + size, self.LENGTH)):
            self.write8(at, value >> 8 * (at - offset) & 0xFF)
