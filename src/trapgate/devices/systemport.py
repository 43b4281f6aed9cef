"""Has the PS/2's system control port A: a fast reset, and an A20 gate that changes nothing (A20 is always on)."""

from collections.abc import Callable
from typing import Annotated

from trapgate.devices.lines import ByteDevice
from trapgate.devices.parts import Part
from trapgate.state import Mask, State
from trapgate.values import dataclass

RESET, A20 = 1 << 0, 1 << 1


@dataclass(frozen=True, slots=True)
class SystemPortState(State):
    """The register."""

    value: Annotated[int, Mask(RESET | A20)]


class SystemPort(ByteDevice, Part[SystemPortState]):
    """One register, of which two bits are there. A change of bit 0 from 0 to 1 resets."""

    def __init__(self, reset: Callable[[], None]) -> None:
        self._reset, self._value = reset, A20

    def save(self) -> SystemPortState:
        """The register."""
        return SystemPortState(self._value)

    def load(self, state: SystemPortState) -> None:
        """The register."""
        self._value = state.value

    def read8(self, offset: int) -> int:
        """What was written."""
        return self._value

    def write8(self, offset: int, value: int) -> None:
        """Keep both bits; perhaps reset."""
        rising, self._value = value & ~self._value & RESET, value & (RESET | A20)
        if rising:
            self._reset()
