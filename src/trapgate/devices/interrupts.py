"""Leads interrupt lines to the vCPUs: ISA line n goes to the 8259s and to the I/O APIC, IRQ 0 to its pin 2 (MADT override)."""

from collections.abc import Callable

from trapgate.arch.layout import GSI_COUNT, PIT_GSI, PIT_IRQ
from trapgate.arch.models import CpuModel
from trapgate.clock import Clock
from trapgate.devices.apic_bus import ApicBus
from trapgate.devices.ioapic import IoApic, IoApicState
from trapgate.devices.lapic import LocalApic
from trapgate.devices.lapic_registers import AMD_VERSION, APIC_BASE, ENABLE, INTEL_VERSION, LocalApicState
from trapgate.devices.lines import Line
from trapgate.devices.pic import PicPair, PicPairState
from trapgate.state import State, StateError, require
from trapgate.values import dataclass


@dataclass(frozen=True, slots=True)
class InterruptsState(State):
    """All interrupt controllers."""

    pic: PicPairState
    ioapic: IoApicState
    lapics: tuple[LocalApicState, ...]


class Interrupts:
    """8259 pair, I/O APIC and one local APIC for each vCPU of a model, wired together."""

    def __init__(self, clock: Clock, model: CpuModel, *, cpus: int = 1) -> None:
        self.pic = PicPair(self._intr)
        self.bus = ApicBus()
        self.ioapic = IoApic(self.bus)
        self.lapics = [
            LocalApic(
                clock, model.tsc_hz, identifier=number, bus=self.bus, external=self.pic, x2apic=model.has("x2apic"),
                physical_bits=model.physical_bits, timer_hz=model.crystal_hz,
                version=AMD_VERSION if model.amd else INTEL_VERSION,
            )
            for number in range(cpus)
        ]  # fmt: skip
        self._elsewhere: Callable[[int, bool], None] | None = None

    def save(self) -> InterruptsState:
        """All of them. StateError: others serve the vCPUs."""
        if self._elsewhere is not None:
            raise StateError("the interrupt controllers are the host kernel's, which cannot be saved")
        return InterruptsState(self.pic.save(), self.ioapic.save(), tuple(one.save() for one in self.lapics))

    def load(self, state: InterruptsState) -> None:
        """All of them. StateError: there are not as many, one cannot be so, or others serve the vCPUs."""
        require(self._elsewhere is None, "the interrupt controllers are the host kernel's, which cannot be loaded")
        require(len(state.lapics) == len(self.lapics), f"{len(state.lapics)} local APICs are not {len(self.lapics)}")
        self.pic.check(state.pic)
        for lapic, one in zip(self.lapics, state.lapics, strict=True):
            lapic.check(one)
        self.pic.load(state.pic)
        self.ioapic.load(state.ioapic)
        for lapic, one in zip(self.lapics, state.lapics, strict=True):
            lapic.load(one)

    def lead_to(self, drive: Callable[[int, bool], None]) -> None:
        """Another set of the same chips serves the vCPUs from now on: every line leads there, and ours are off."""
        self._elsewhere = drive
        for one in self.lapics:
            one.write_msr(APIC_BASE, one.read_msr(APIC_BASE) & ~ENABLE)

    def _intr(self, level: bool) -> None:
        self.lapics[0].intr_line(level)

    def line(self, number: int) -> Line:
        """ISA interrupt line 0-15 (or a GSI up to 23, which the 8259s do not see)."""
        if not 0 <= number < GSI_COUNT:
            raise ValueError(f"no interrupt line {number}: they go from 0 to {GSI_COUNT - 1}")
        pin = PIT_GSI if number == PIT_IRQ else number

        def drive(level: bool) -> None:
            if self._elsewhere is not None:
                self._elsewhere(number, level)
                return
            if number < 16:
                self.pic.set_line(number, level)
            self.ioapic.set_line(pin, level)

        return drive
