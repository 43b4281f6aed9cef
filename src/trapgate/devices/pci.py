"""PCI configuration mechanism 1 of a board without PCI devices, and the reset register at the second of its ports (CF9h)."""

from collections.abc import Callable

ADDRESS = 0  # offset of CONFIG_ADDRESS
RESET = 1  # offset of the reset register, reached by byte accesses only
DATA = 4  # offset of CONFIG_DATA
ENABLE = 1 << 31
RESERVED = 0x7F00_0003  # bits of CONFIG_ADDRESS that read as zero
RESET_CPU = 1 << 2  # a 0 -> 1 change of this bit resets
SYSTEM_RESET = 1 << 1  # a hard reset, kept as written


class PciHost:
    """Eight ports. CONFIG_ADDRESS reads back, CONFIG_DATA is all ones: nobody at any bus, device and function."""

    def __init__(self, reset: Callable[[], None]) -> None:
        self._reset = reset
        self._address = 0
        self._control = 0

    def read(self, offset: int, size: int) -> int:
        """CONFIG_ADDRESS as a dword, the reset register as a byte; all else is all ones."""
        if offset == ADDRESS and size == 4:
            return self._address
        if offset == RESET and size == 1:
            return self._control
        return (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Select a configuration address, or reset the machine."""
        if offset == ADDRESS and size == 4:
            self._address = value & ~RESERVED
        elif offset == RESET and size == 1:
            rising = value & ~self._control & RESET_CPU
            self._control = value & SYSTEM_RESET
            if rising:
                self._reset()
