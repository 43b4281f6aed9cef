"""Models one local APIC: xAPIC (MMIO) and x2APIC (MSR), priorities, LVTs, interprocessor interrupts (SDM vol. 3, ch. 11).

Both forms share one set of registers, numbered by x2APIC index: MMIO offset / 16 = MSR - 800h.
"""

from collections.abc import Callable
from typing import Protocol

from trapgate.arch.layout import LAPIC_BASE
from trapgate.arch.msrs import MsrError
from trapgate.clock import Clock
from trapgate.devices.apic_bus import BROADCAST, ApicBus, Delivery, Message
from trapgate.devices.lapic_registers import (
    APIC_BASE,
    BSP,
    ENABLE,
    ESR,
    ICR,
    ICR_LEVEL_ASSERT,
    ICR_LOGICAL,
    ICR_TRIGGER_LEVEL,
    ICR_WRITABLE,
    ILLEGAL_REGISTER,
    INTEL_VERSION,
    ISR,
    LDR_WRITABLE,
    LVT_ERROR,
    LVT_LINT0,
    LVT_LINT1,
    LVT_TIMER,
    LVT_WRITABLE,
    MASKED,
    MAX_LVT,
    RECEIVE_ILLEGAL,
    SELF_IPI,
    SEND_ILLEGAL,
    SOFTWARE_ENABLE,
    TSC_DEADLINE,
    X2,
    X2_BOTH,
    X2_FIRST,
    X2_ONLY_READ,
    X2_ONLY_WRITE,
    LocalApicState,
    x2_legal,
)  # fmt: skip
from trapgate.devices.lapic_timer import DEADLINE, ApicTimer
from trapgate.state import require


class ExternalSource(Protocol):
    """The interrupt controller behind LINT0: the pair of 8259s."""

    def pending(self) -> bool:
        """Whether INTR is asserted."""
        ...

    def acknowledge(self) -> int:
        """The vector of its request."""
        ...


def _nothing() -> None:
    pass


class LocalApic:
    """A vCPU's local APIC.

    The machine (or vCPU) hears through hooks: `notify` (an interrupt may now be pending), `nmi`, `init`, `startup(vector)`.
    It asks `pending()` and takes `acknowledge()`. The bootstrap processor starts with LINT0 as ExtINT and LINT1 as NMI, as firmware
    would leave them (virtual wire mode), so that guests that know only the 8259 get their interrupts.
    """

    def __init__(
        self, clock: Clock, tsc_hz: int, *, identifier: int = 0, bus: ApicBus | None = None, external: ExternalSource | None = None,
        x2apic: bool = True, physical_bits: int = 48, timer_hz: int = 1_000_000_000, version: int = INTEL_VERSION,
    ) -> None:  # fmt: skip
        self.identifier, self.boots = identifier, identifier == 0
        self.bus = bus if bus is not None else ApicBus()
        self.bus.receivers.append(self)
        self._external = external
        self._x2_exists = x2apic
        self._physical_bits, self._version = physical_bits, version
        self._timer = ApicTimer(clock, tsc_hz, timer_hz, lambda: self._local(LVT_TIMER))
        self.notify: Callable[[], None] = _nothing
        self.nmi: Callable[[], None] = _nothing
        self.init: Callable[[], None] = _nothing
        self.startup: Callable[[int], None] = lambda vector: None
        self._base = LAPIC_BASE | ENABLE | (BSP if self.boots else 0)
        self._lint1_level = False
        self.reset()

    def reset(self) -> None:
        """As after INIT: everything but the base register, the identifier and the TSC offset."""
        self._irr = self._isr = self._tmr = 0  # 256 bits each
        self._tpr = 0
        self._ldr, self._dfr = 0, 0xFFFF_FFFF
        self._svr = 0xFF
        self._esr = self._errors = 0
        self._icr = 0
        self._lvt = dict.fromkeys(LVT_WRITABLE, MASKED)
        if self._base & BSP:
            self._lvt[LVT_LINT0] = Delivery.EXTINT << 8
            self._lvt[LVT_LINT1] = Delivery.NMI << 8
        self._xapic_id = self.identifier & 0xFF
        self._timer.reset()

    def save(self) -> LocalApicState:
        """All registers."""
        timer, thermal, pmc, lint0, lint1, error = (self._lvt[entry] for entry in sorted(self._lvt))
        return LocalApicState(
            base=self._base,
            isr=self._isr,
            tmr=self._tmr,
            irr=self._irr,
            tpr=self._tpr,
            ldr=self._ldr,
            destination_format=self._dfr >> 28,
            svr=self._svr,
            esr=self._esr,
            errors=self._errors,
            icr=self._icr,
            lvt=(timer, thermal, pmc, lint0, lint1, error),
            xapic_id=self._xapic_id,
            lint1_level=self._lint1_level,
            timer=self._timer.save(),
        )

    def check(self, state: LocalApicState) -> None:
        """Raise StateError where `load` would: a base register or a mode that this one cannot have."""
        mode = state.base & (ENABLE | X2)
        require(not state.base & ~self._base_legal and mode != X2, f"no local APIC here has the base {state.base:#x}")
        require(not (state.base ^ self._base) & BSP, "the boot processor is another one")

    def load(self, state: LocalApicState) -> None:
        """All registers. StateError, as `check` has it. Nobody is notified."""
        self.check(state)
        self._base, self._tpr, self._ldr, self._dfr = state.base, state.tpr, state.ldr, state.destination_format << 28 | 0x0FFF_FFFF
        self._isr, self._tmr, self._irr = state.isr, state.tmr, state.irr
        self._svr, self._esr, self._errors, self._icr = state.svr, state.esr, state.errors, state.icr
        self._lvt = dict(zip(sorted(LVT_WRITABLE), state.lvt, strict=True))
        self._xapic_id, self._lint1_level = state.xapic_id, state.lint1_level
        self._timer.load(state.timer)

    @property
    def cpus(self) -> int:
        """How many there are on its bus."""
        return len(self.bus.receivers)

    # Modes

    @property
    def enabled(self) -> bool:
        """IA32_APIC_BASE.EN."""
        return bool(self._base & ENABLE)

    @property
    def x2(self) -> bool:
        """Whether registers are MSRs."""
        return bool(self._base & X2)

    @property
    def page(self) -> int | None:
        """The guest-physical address of the register page; None in x2APIC mode and when disabled."""
        return self._base & ~0xFFF if self._base & (ENABLE | X2) == ENABLE else None

    @property
    def _base_legal(self) -> int:
        return BSP | ENABLE | (X2 if self._x2_exists else 0) | (1 << self._physical_bits) - 0x1000

    def _write_base(self, value: int) -> None:
        if reserved := value & ~self._base_legal:
            raise MsrError(f"IA32_APIC_BASE: reserved bits {reserved:#x}")
        before, after = self._base & (ENABLE | X2), value & (ENABLE | X2)
        allowed = {0: (0, ENABLE), ENABLE: (0, ENABLE, ENABLE | X2), ENABLE | X2: (0, ENABLE | X2)}
        if after not in allowed[before]:
            raise MsrError(f"IA32_APIC_BASE: no transition from {before:#x} to {after:#x}")
        self._base = value & ~BSP | self._base & BSP
        if before and not after:
            self.reset()
        elif after & ~before & X2:
            self._icr &= 0xFFFF_FFFF
        self.notify()

    # Priorities

    @property
    def tpr(self) -> int:
        """The task priority register, 8 bits."""
        return self._tpr

    @tpr.setter
    def tpr(self, value: int) -> None:
        self._tpr = value & 0xFF
        self.notify()

    @property
    def cr8(self) -> int:
        """CR8: TPR[7:4]."""
        return self._tpr >> 4

    @cr8.setter
    def cr8(self, value: int) -> None:
        self.tpr = (value & 0xF) << 4

    def priority(self) -> int:
        """PPR: the higher of task priority and the class in service."""
        serviced = max(self._isr.bit_length() - 1, 0) & 0xF0
        return self._tpr if self._tpr & 0xF0 >= serviced else serviced

    def pending(self) -> bool:
        """Whether an external interrupt waits for the vCPU."""
        return self._deliverable() or self._external_pending()

    def _deliverable(self) -> bool:
        return bool(self._irr) and self._irr.bit_length() - 1 & 0xF0 > self.priority() & 0xF0 and self.enabled

    def _external_pending(self) -> bool:
        if self._external is None:
            return False
        if self.enabled and self._lvt[LVT_LINT0] & (MASKED | 0x700) != Delivery.EXTINT << 8:
            return False  # a disabled APIC leaves the pin connected to INTR
        return bool(self._base & BSP) and self._external.pending()

    def acknowledge(self) -> int:
        """The vector to deliver, now in service; the spurious vector when the request has gone."""
        if self._external_pending():
            assert self._external is not None
            return self._external.acknowledge()
        if not self._deliverable():
            return self._svr & 0xFF
        vector = self._irr.bit_length() - 1
        self._irr &= ~(1 << vector)
        self._isr |= 1 << vector
        return vector

    def end(self) -> None:
        """EOI: the highest interrupt in service ends; a level-triggered one is told to the I/O APIC."""
        if self._isr:
            vector = self._isr.bit_length() - 1
            self._isr &= ~(1 << vector)
            if self._tmr >> vector & 1:
                self.bus.ioapic_eoi(vector)
            self.notify()

    # Messages

    def matches(self, destination: int, logical: bool) -> bool:
        """Whether a destination means this APIC (SDM vol. 3, 11.6.2; 8-bit destinations in xAPIC mode)."""
        if not logical:
            if destination == BROADCAST or (destination == 0xFF and not self.x2):
                return True
            return destination == (self.identifier if self.x2 else self._xapic_id)
        ldr = self._logical_id()
        if self.x2:
            return destination == BROADCAST or (destination >> 16 == ldr >> 16 and bool(destination & ldr & 0xFFFF))
        if self._dfr >> 28 == 0xF:
            return bool(destination & ldr >> 24)
        return (destination >> 4 == 0xF or destination >> 4 == ldr >> 28) and bool(destination & ldr >> 24 & 0xF)

    def _logical_id(self) -> int:
        return (self.identifier >> 4) << 16 | 1 << (self.identifier & 0xF) if self.x2 else self._ldr

    def ready(self) -> bool:
        """Whether fixed interrupts are taken."""
        return self.enabled and bool(self._svr & SOFTWARE_ENABLE)

    def accept(self, message: Message) -> None:
        """Take a message. A disabled APIC hears NMI, INIT and SIPI only."""
        match message.delivery:
            case Delivery.FIXED | Delivery.LOWEST:
                if self.ready():
                    self._request(message.vector, message.level)
            case Delivery.NMI:
                self.nmi()
            case Delivery.INIT:
                self.reset()
                self.init()
            case Delivery.STARTUP:
                self.startup(message.vector)
            case _:  # SMI: no system management mode here. ExtINT: only LINT0 brings it
                pass

    def _request(self, vector: int, level: bool) -> None:
        if vector < 16:
            self._error(RECEIVE_ILLEGAL)
            return
        bit = 1 << vector
        self._irr |= bit
        self._tmr = self._tmr | bit if level else self._tmr & ~bit
        self.notify()

    def _error(self, bit: int) -> None:
        fresh = bit & ~self._errors
        self._errors |= bit
        if fresh:  # an error vector that is illegal itself reports once, not for ever
            self._local(LVT_ERROR)

    def _local(self, entry: int) -> None:
        """A local interrupt source fires through its LVT entry."""
        lvt = self._lvt[entry]
        if lvt & MASKED or not self.enabled:
            return
        delivery = lvt >> 8 & 7 if entry not in (LVT_TIMER, LVT_ERROR) else Delivery.FIXED
        self.accept(Message(lvt & 0xFF, delivery, self.identifier, False))

    def nmi_line(self, level: bool) -> None:
        """Drive LINT1: a rising edge fires its LVT entry (an NMI, unless the guest made it something else or masked it)."""
        rising, self._lint1_level = level and not self._lint1_level, level
        if rising:
            if self.enabled:
                self._local(LVT_LINT1)
            else:
                self.nmi()

    def intr_line(self, level: bool) -> None:
        """Drive LINT0 (INTR of the 8259s): asked at acknowledge when ExtINT; in any other mode its rising edge fires the entry."""
        if level:
            if self.enabled and self._lvt[LVT_LINT0] >> 8 & 7 != Delivery.EXTINT:
                self._local(LVT_LINT0)
            self.notify()

    def _send(self) -> None:
        """A write to ICR sends what it says."""
        low = self._icr & 0xFFFF_FFFF
        delivery, shorthand = low >> 8 & 7, low >> 18 & 3
        level = bool(low & ICR_TRIGGER_LEVEL)
        if delivery == Delivery.INIT and level and not low & ICR_LEVEL_ASSERT:
            return  # INIT level de-assert: only synchronised arbitration, long ago
        if delivery in (Delivery.FIXED, Delivery.LOWEST) and low & 0xFF < 16:
            self._error(SEND_ILLEGAL)
            return
        destination = self._icr >> 32 if self.x2 else self._icr >> 56
        # Interprocessor interrupts are edge-triggered whatever the bit says (SDM vol. 3, 11.6.1)
        message = Message(low & 0xFF, delivery, destination, bool(low & ICR_LOGICAL))
        match shorthand:
            case 0:
                self.bus.send(message)
            case 1:
                self.bus.send(message, [self])
            case 2:
                self.bus.send(message, list(self.bus.receivers))
            case _:
                self.bus.send(message, [one for one in self.bus.receivers if one is not self])

    def _send_self(self, vector: int) -> None:
        if vector < 16:
            self._error(SEND_ILLEGAL)
        else:
            self.accept(Message(vector, Delivery.FIXED, self.identifier, False))

    # Registers, by index

    def _get(self, index: int) -> int:
        if ISR <= index < ESR:
            bits = (self._isr, self._tmr, self._irr)[index - ISR >> 3]
            return bits >> 32 * (index & 7) & 0xFFFF_FFFF
        if index in self._lvt:
            return self._lvt[index]
        match index:
            case 0x02:
                return self.identifier if self.x2 else self._xapic_id << 24
            case 0x03:
                return MAX_LVT | self._version
            case 0x08:
                return self._tpr
            case 0x0A:
                return self.priority()
            case 0x0D:
                return self._logical_id()
            case 0x0E:
                return self._dfr
            case 0x0F:
                return self._svr
            case 0x28:
                return self._esr
            case 0x30:
                return self._icr if self.x2 else self._icr & 0xFFFF_FFFF
            case 0x31:
                return self._icr >> 32
            case 0x38:
                return self._timer.initial
            case 0x39:
                return self._timer.current()
            case 0x3E:
                return self._timer.divide
            case 0x09 | 0x0B | 0x0C:
                return 0
            case _:
                self._error(ILLEGAL_REGISTER)
                return 0

    def _set(self, index: int, value: int) -> None:
        if index in self._lvt:
            self._set_lvt(index, value)
            return
        match index:
            case 0x02 if not self.x2:
                self._xapic_id = value >> 24
            case 0x08:
                self.tpr = value
            case 0x0B:
                self.end()
            case 0x0D:
                self._ldr = value & LDR_WRITABLE
            case 0x0E:
                self._dfr = value | 0x0FFF_FFFF
            case 0x0F:
                self._set_svr(value)
            case 0x28:
                self._esr, self._errors = self._errors, 0
            case 0x30:
                self._icr = self._icr >> 32 << 32 | value & ICR_WRITABLE
                self._send()
            case 0x31:
                self._icr = self._icr & 0xFFFF_FFFF | (value & 0xFF00_0000) << 32
            case 0x38:
                self._timer.set_initial(value & 0xFFFF_FFFF)
            case 0x3E:
                self._timer.set_divide(value)
            case 0x03 | 0x09 | 0x0A | 0x0C | 0x39:
                pass  # for reading only
            case _ if ISR <= index < ESR:
                pass
            case _:
                self._error(ILLEGAL_REGISTER)

    def _set_svr(self, value: int) -> None:
        self._svr = value & 0x1FF
        if not value & SOFTWARE_ENABLE:
            for entry in self._lvt:
                self._lvt[entry] |= MASKED
        self.notify()

    def _set_lvt(self, index: int, value: int) -> None:
        value &= LVT_WRITABLE[index]
        if not self._svr & SOFTWARE_ENABLE:
            value |= MASKED
        self._lvt[index] = value
        if index == LVT_TIMER:
            self._timer.set_mode(value >> 17 & 3)
        self.notify()

    # The two ways in

    def read(self, offset: int, size: int) -> int:
        """The register page: 32-bit registers at multiples of 16; the bytes between them read as zero."""
        if offset & 0xF >= 4:
            return 0
        return self._get(offset >> 4) >> 8 * (offset & 3)

    def write(self, offset: int, size: int, value: int) -> None:
        """A store to the register page; anything but a whole register is ignored."""
        if not offset & 0xF and size >= 4:
            self._set(offset >> 4, value & 0xFFFF_FFFF)

    def read_msr(self, index: int) -> int:
        """IA32_APIC_BASE, IA32_TSC_DEADLINE or an x2APIC register; MsrError when there is none, or it is write-only."""
        if index == APIC_BASE:
            return self._base
        if index == TSC_DEADLINE:
            return self._timer.deadline if self._timer.mode == DEADLINE else 0
        register = self._x2_register(index)
        if register in X2_ONLY_WRITE:
            raise MsrError(f"MSR {index:#x} is for writing only")
        return self._get(register)

    def write_msr(self, index: int, value: int) -> None:
        """Change one; MsrError when there is none, for reserved bits, read-only registers and illegal transitions."""
        if index == APIC_BASE:
            self._write_base(value)
            return
        if index == TSC_DEADLINE:
            self._timer.set_deadline(value)
            return
        register = self._x2_register(index)
        if register in X2_ONLY_READ:
            raise MsrError(f"MSR {index:#x} is for reading only")
        if value & ~x2_legal(register):
            raise MsrError(f"MSR {index:#x}: reserved bits {value & ~x2_legal(register):#x}")
        if register == ICR:
            self._icr = value
            self._send()
        elif register == SELF_IPI:
            self._send_self(value)
        else:
            self._set(register, value)

    def _x2_register(self, index: int) -> int:
        register = index - X2_FIRST
        if not self.x2 or register not in X2_ONLY_READ | X2_ONLY_WRITE | X2_BOTH:
            raise MsrError(f"no MSR {index:#x} in the local APIC's mode", missing=True)
        return register

    def set_tsc_offset(self, offset: int) -> None:
        """The guest's TSC is guest time times the TSC frequency plus this: the vCPU tells when the guest changes it."""
        self._timer.set_tsc_offset(offset)
