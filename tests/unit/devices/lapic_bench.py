"""A local APIC whose hooks are recorded, and what its tests share."""

from collections.abc import Callable

from trapgate.clock import InstructionClock
from trapgate.devices import lapic_registers as l
from trapgate.devices.apic_bus import ApicBus, Message
from trapgate.devices.lapic import LocalApic

Advance = Callable[[int], None]
TSC_HZ = 2_000_000_000


class Bench(LocalApic):
    """A local APIC whose hooks are recorded, software-enabled."""

    def __init__(self, clock: InstructionClock, identifier: int = 0, bus: ApicBus | None = None, *, x2apic: bool = True) -> None:
        super().__init__(clock, TSC_HZ, identifier=identifier, bus=bus, x2apic=x2apic)
        self.events: list[str] = []
        self.nmi = lambda: self.events.append("nmi")
        self.init = lambda: self.events.append("init")
        self.startup = lambda vector: self.events.append(f"startup {vector:#x}")
        self.put(l.SVR, 0x1FF)

    def put(self, index: int, value: int) -> None:
        """Store through the page."""
        self.write(index * 16, 4, value)

    def look(self, index: int) -> int:
        """Load through the page."""
        return self.read(index * 16, 4)


def fixed(vector: int, level: bool = False) -> Message:
    return Message(vector, 0, 0, False, level)


def to_x2(apic: LocalApic) -> None:
    apic.write_msr(l.APIC_BASE, apic.read_msr(l.APIC_BASE) | l.X2)
