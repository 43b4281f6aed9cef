"""Leads interrupt lines to the vCPUs: ISA line n goes to the 8259s and to the I/O APIC, IRQ 0 to its pin 2 (MADT override)."""

from typing import Protocol

from trapgate.arch.layout import GSI_COUNT, PIT_GSI, PIT_IRQ
from trapgate.arch.models import CpuModel
from trapgate.clock import Clock
from trapgate.devices.apic_bus import ApicBus
from trapgate.devices.ioapic import IoApic, IoApicState
from trapgate.devices.lapic import LocalApic
from trapgate.devices.lapic_registers import AMD_VERSION, APIC_BASE, ENABLE, INTEL_VERSION, LocalApicState
from trapgate.devices.lines import Line
from trapgate.devices.pic import PicPair, PicPairState
from trapgate.state import State, require
from trapgate.values import dataclass


@dataclass(frozen=True, slots=True)
class InterruptsState(State):
    """All interrupt controllers."""

    pic: PicPairState
    ioapic: IoApicState
    lapics: tuple[LocalApicState, ...]


class Elsewhere(Protocol):
    """Another set of the same chips, in the host's kernel. EngineError where it cannot say its state, or take one."""

    def drive(self, gsi: int, level: bool) -> None:
        """Drive a line."""
        ...

    def save(self) -> InterruptsState:
        """What ours would say."""
        ...

    def load(self, state: InterruptsState) -> None:
        """Be so. StateError, and nothing is changed: these cannot."""
        ...


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
        self._elsewhere: Elsewhere | None = None

    def save(self) -> InterruptsState:
        """All of them."""
        if self._elsewhere is not None:
            return self._elsewhere.save()
        return InterruptsState(self.pic.save(), self.ioapic.save(), tuple(one.save() for one in self.lapics))

    def load(self, state: InterruptsState) -> None:
        """All of them. StateError: there are not as many, or one cannot be so."""
        require(len(state.lapics) == len(self.lapics), f"{len(state.lapics)} local APICs are not {len(self.lapics)}")
        self.pic.check(state.pic)
        for lapic, one in zip(self.lapics, state.lapics, strict=True):
            lapic.check(one)
        if self._elsewhere is not None:
            self._elsewhere.load(state)
            return
        self.pic.load(state.pic)
        self.ioapic.load(state.ioapic)
        for lapic, one in zip(self.lapics, state.lapics, strict=True):
            lapic.load(one)

    def lead_to(self, elsewhere: Elsewhere) -> None:
        """Another set of the same chips serves the vCPUs from now on: every line leads there, and ours are off."""
        self._elsewhere = elsewhere
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
                self._elsewhere.drive(number, level)
                return
            if number < 16:
                self.pic.set_line(number, level)
            self.ioapic.set_line(pin, level)

        return drive
