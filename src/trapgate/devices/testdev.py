"""Test guests need these devices as well: ports that drive interrupt lines, and registers that only remember what was written."""

from collections.abc import Sequence

from trapgate.devices.lines import ByteDevice, Line
from trapgate.devices.parts import Part
from trapgate.state import State, require
from trapgate.values import dataclass


@dataclass(frozen=True, slots=True)
class IrqLinesState(State):
    """The levels written last."""

    levels: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class ScratchState(State):
    """The bytes that are remembered."""

    content: bytes


class IrqLines(ByteDevice, Part[IrqLinesState]):
    """One port a line: a write drives line n to (value is not 0); a read tells the level last written."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self.LENGTH = len(lines)
        self._lines = lines
        self._levels = [False] * len(lines)

    def save(self) -> IrqLinesState:
        """The levels."""
        return IrqLinesState(tuple(self._levels))

    def load(self, state: IrqLinesState) -> None:
        """The levels. StateError: not as many."""
        require(len(state.levels) == self.LENGTH, f"{len(state.levels)} lines are not {self.LENGTH}")
        self._levels = list(state.levels)

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


class Scratch(ByteDevice, Part[ScratchState]):
    """`length` bytes behind ports or MMIO that read as they were written: a guest can see what its accesses of every size do."""

    def __init__(self, length: int) -> None:
        self.LENGTH = length
        self._bytes = bytearray(length)

    def save(self) -> ScratchState:
        """The bytes."""
        return ScratchState(bytes(self._bytes))

    def load(self, state: ScratchState) -> None:
        """The bytes. StateError: not as many."""
        require(len(state.content) == self.LENGTH, f"{len(state.content)} bytes are not {self.LENGTH}")
        self._bytes[:] = state.content

    def read8(self, offset: int) -> int:
        """One byte."""
        return self._bytes[offset]

    def write8(self, offset: int, value: int) -> None:
        """Store one byte."""
        self._bytes[offset] = value
