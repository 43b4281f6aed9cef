"""Answers PCI configuration mechanism 1 on a board without PCI devices, and has the reset register in its second port (CF9h)."""

from collections.abc import Callable
from typing import Annotated

from trapgate.devices.parts import Part
from trapgate.state import Mask, State
from trapgate.values import dataclass

ADDRESS = 0  # offset of CONFIG_ADDRESS
RESET = 1  # offset of the reset register, reached by byte accesses only
DATA = 4  # offset of CONFIG_DATA
ENABLE = 1 << 31
RESERVED = 0x7F00_0003  # bits of CONFIG_ADDRESS that read as zero
RESET_CPU = 1 << 2  # a 0 -> 1 change of this bit resets
SYSTEM_RESET = 1 << 1  # a hard reset, kept as written


@dataclass(frozen=True, slots=True)
class PciState(State):
    """The two registers."""

    address: Annotated[int, Mask(0xFFFF_FFFF & ~RESERVED)]
    control: Annotated[int, Mask(SYSTEM_RESET)]


class PciHost(Part[PciState]):
    """Eight ports. CONFIG_ADDRESS reads back, CONFIG_DATA is all ones: nobody at any bus, device and function."""

    def __init__(self, reset: Callable[[], None]) -> None:
        self._reset = reset
        self._address = 0
        self._control = 0

    def save(self) -> PciState:
        """Its registers."""
        return PciState(self._address, self._control)

    def load(self, state: PciState) -> None:
        """Its registers."""
        self._address, self._control = state.address, state.control

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
            self._address = value & ~RESERVED & 0xFFFF_FFFF
        elif offset == RESET and size == 1:
            rising = value & ~self._control & RESET_CPU
            self._control = value & SYSTEM_RESET
            if rising:
                self._reset()
