"""Prints every byte written to a port, which answers its own number so that a guest can find it: the debug console."""

from collections.abc import Callable

from trapgate.devices.lines import ByteDevice
from trapgate.devices.parts import Stateless

PRESENT = 0xE9  # what a read answers: "there is a debug console"


class DebugConsole(ByteDevice, Stateless):
    """One write-only port; every byte goes to `sink`."""

    def __init__(self, sink: Callable[[bytes], None]) -> None:
        self._sink = sink

    def read8(self, offset: int) -> int:
        """E9h, the sign of presence."""
        return PRESENT

    def write8(self, offset: int, value: int) -> None:
        """Print a byte."""
        self._sink(bytes([value]))

    def write(self, offset: int, size: int, value: int) -> None:
        """Print all bytes of a wide write, lowest first."""
        self._sink(value.to_bytes(size, "little"))
