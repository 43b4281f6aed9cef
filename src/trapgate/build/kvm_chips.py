"""Says the state of the interrupt controllers and the timer in the host's kernel in the words of our own, and the other way round.

So a machine that was saved on KVM goes on there, and on the software CPU. The kernel's structures are those of Linux's asm/kvm.h;
what their fields mean is in its arch/x86/kvm: i8259.c, ioapic.c, lapic.c, i8254.c.
"""

import time

from trapgate.arch.layout import GSI_COUNT, IOAPIC_BASE, PIT_GSI, PIT_HZ, PIT_IRQ
from trapgate.clock import Clock, TimerState
from trapgate.devices import lapic_registers as apic
from trapgate.devices.interrupts import InterruptsState
from trapgate.devices.ioapic import LEVEL, REMOTE_IRR, WRITABLE, IoApicState
from trapgate.devices.lapic_registers import LocalApicState
from trapgate.devices.lapic_timer import DEADLINE, DIVIDE_BITS, PERIODIC, ApicTimerState, divisor, length
from trapgate.devices.pic import CASCADE, Pic8259, PicPairState, PicState
from trapgate.devices.pit import HIGH, LOW, WORD, ChannelState, PitState
from trapgate.kvm import abi_chips
from trapgate.kvm.chips import Chips
from trapgate.kvm.cpu import KvmVcpu
from trapgate.state import require

NS = 1_000_000_000
CASCADE_BIT = 1 << CASCADE
# The 8259's initialisation words that are still to come, by the kernel's `init_state`, without ICW4
_AWAITED = {0: (), 1: (2, 3), 2: (3,), 3: ()}
# A channel's next byte (`read_state`, `write_state`, `count_latched`) of a count of two; LOW and HIGH are those of one
FIRST, SECOND = 3, 4
NO_MODE = 0xFF  # of a channel that no control word has come for


class KernelInterrupts:
    """The kernel's 8259s, I/O APIC and local APIC, in place of `devices.interrupts`'."""

    def __init__(self, vcpu: KvmVcpu, chips: Chips, clock: Clock) -> None:
        self._vcpu, self._chips, self._clock = vcpu, chips, clock

    def drive(self, gsi: int, level: bool) -> None:
        """Drive a line."""
        self._chips.drive(gsi, level)

    def save(self) -> InterruptsState:
        """What ours would say."""
        lines = self._chips.lines
        slave = pic_state(self._pic(abi_chips.PIC_SLAVE), 0, lines >> 8 & 0xFF)
        master = pic_state(self._pic(abi_chips.PIC_MASTER), CASCADE_BIT * slave.asserted, lines & 0xFF)
        return InterruptsState(PicPairState(master, slave), ioapic_state(self._chips.vm.ioapic(), lines), (self._local(),))

    def load(self, state: InterruptsState) -> None:
        """Be so. StateError, and nothing is changed: these chips cannot."""
        vm, fd = self._chips.vm, self._vcpu.fd
        pics = (abi_chips.PIC_MASTER, state.pic.master), (abi_chips.PIC_SLAVE, state.pic.slave)
        made = [pic_chip(chip, one) for chip, one in pics]
        self._vcpu.catch_up()  # a deadline is of the time-stamp counter
        vm.set_ioapic(silent_ioapic())
        for gsi in range(GSI_COUNT):
            level = bool(state.ioapic.lines >> (PIT_GSI if gsi == PIT_IRQ else gsi) & 1) and gsi != PIT_GSI
            if level != bool(self._chips.lines >> gsi & 1):
                self._chips.drive(gsi, level)
        for one in made:
            vm.set_irqchip(one)
        lapic = state.lapics[0]
        fd.set_msr(apic.APIC_BASE, lapic.base)
        fd.set_lapic(lapic_page(lapic, self._count(lapic.timer)))
        fd.set_msr(apic.TSC_DEADLINE, lapic.timer.deadline)
        vm.set_ioapic(ioapic_chip(state.ioapic))
        self._vcpu.registers.forget()

    def _pic(self, chip: int) -> abi_chips.PicState:
        found = self._chips.vm.irqchip(chip).pic
        assert isinstance(found, abi_chips.PicState)
        return found

    def _local(self) -> LocalApicState:
        fd, hz = self._vcpu.fd, self._chips.timer_hz
        base, deadline = fd.msr(apic.APIC_BASE) or 0, fd.msr(apic.TSC_DEADLINE) or 0
        return lapic_state(fd.lapic(), base, deadline, self._clock.now(), hz)

    def _count(self, timer: ApicTimerState) -> int:
        """What is left of its count now."""
        if timer.timer is None or timer.mode == DEADLINE:
            return 0
        left = max(timer.timer.deadline - self._clock.now(), 0)
        return min(left * self._chips.timer_hz // NS // divisor(timer.divide) + 1, timer.initial)


class KernelPit:
    """The kernel's 8254, in place of `devices.pit`'s. It counts by the host's clock, while guest time stands as well."""

    def __init__(self, chips: Chips, clock: Clock) -> None:
        self._chips, self._clock = chips, clock

    def save(self) -> PitState:
        """What ours would say."""
        pit, host, guest = self._chips.vm.pit(), time.monotonic_ns(), self._clock.now()
        first, second, third = (channel_state(one, host, guest) for one in pit.channels)
        return PitState((first, second, third), third.gate | bool(pit.flags & abi_chips.PIT_SPEAKER_ON) << 1)

    def load(self, state: PitState) -> None:
        """Be so, but that channel 0 begins its count anew."""
        pit, host, guest = self._chips.vm.pit(), time.monotonic_ns(), self._clock.now()
        pit.channels[:] = [channel(one, host, guest) for one in state.channels]
        pit.flags = pit.flags & ~abi_chips.PIT_SPEAKER_ON | abi_chips.PIT_SPEAKER_ON * (state.system_control >> 1 & 1)
        self._chips.vm.set_pit(pit)


# 8259


def pic_state(chip: abi_chips.PicState, cascade: int, lines: int) -> PicState:
    """An 8259's state. `cascade`: its input that the other chip drives, which the kernel only pulses; `lines`: those of devices."""
    awaited = (*_AWAITED[chip.init_state], 4) if chip.init_state and chip.init4 else _AWAITED[chip.init_state]
    made = Pic8259(level_capable=chip.elcr_mask, master=chip.elcr_mask == 0xF8)
    state = PicState(
        inputs=(chip.last_irr | lines) & ~CASCADE_BIT | cascade if made.master else chip.last_irr | lines,
        elcr=chip.elcr,
        irr=chip.irr,
        isr=chip.isr,
        imr=chip.imr,
        base=chip.irq_base & 0xF8,
        lowest=chip.priority_add + 7 & 7,
        awaited=awaited,
        auto_eoi=bool(chip.auto_eoi),
        rotate_auto=bool(chip.rotate_on_auto_eoi),
        special_mask=bool(chip.special_mask),
        fully_nested=bool(chip.special_fully_nested_mode),
        read_isr=bool(chip.read_reg_select),
        poll=bool(chip.poll),
        all_level=False,
        asserted=False,
    )
    made.load(state)
    return made.settled()


def pic_chip(number: int, state: PicState) -> abi_chips.Irqchip:
    """An 8259 in that state. StateError: the kernel's has no such."""
    require(not state.all_level, "the kernel's 8259s have no inputs that are level-triggered by ICW1")
    require(not state.awaited or state.awaited[0] != 2 or 3 in state.awaited, "the kernel's 8259s are never single")
    chip = abi_chips.Irqchip(number)
    pic = chip.pic
    pic.last_irr, pic.irr, pic.isr, pic.imr = state.inputs, state.irr, state.isr, state.imr
    if number == abi_chips.PIC_MASTER:
        pic.last_irr &= ~CASCADE_BIT
    pic.elcr, pic.elcr_mask = state.elcr, 0xF8 if number == abi_chips.PIC_MASTER else 0xDE
    pic.irq_base, pic.priority_add = state.base, state.lowest + 1 & 7
    pic.init_state, pic.init4 = {2: 1, 3: 2, 4: 3}[state.awaited[0]] if state.awaited else 0, 4 in state.awaited
    pic.auto_eoi, pic.rotate_on_auto_eoi, pic.special_mask = state.auto_eoi, state.rotate_auto, state.special_mask
    pic.special_fully_nested_mode, pic.read_reg_select, pic.poll = state.fully_nested, state.read_isr, state.poll
    return chip


# I/O APIC


def ioapic_state(chip: abi_chips.IoApicChip, lines: int) -> IoApicState:
    """The I/O APIC's state. `lines` are those of devices, by GSI: the kernel forgets the level of one whose edge it has sent on."""
    pins = lines & ~(1 << PIT_IRQ | 1 << PIT_GSI) | (lines >> PIT_IRQ & 1) << PIT_GSI
    entries = tuple(int(one) & (WRITABLE | REMOTE_IRR) for one in chip.entries)
    return IoApicState(chip.select & 0xFF, chip.identifier & 0xF, entries, pins)


def ioapic_chip(state: IoApicState) -> abi_chips.IoApicChip:
    """The I/O APIC in that state. What it is told to be asserted it sends: only levels are."""
    chip = silent_ioapic()
    chip.select, chip.identifier = state.select, state.identifier
    chip.entries[:] = state.entries
    chip.lines = sum(1 << pin for pin, entry in enumerate(state.entries) if entry & LEVEL and state.lines >> pin & 1)
    return chip


def silent_ioapic() -> abi_chips.IoApicChip:
    """The I/O APIC after reset: all is masked."""
    chip = abi_chips.IoApicChip(abi_chips.IOAPIC, base=IOAPIC_BASE)
    chip.entries[:] = [apic.MASKED] * GSI_COUNT
    return chip


# Local APIC


def lapic_state(page: abi_chips.LapicState, base: int, deadline: int, now: int, hz: int) -> LocalApicState:
    """The local APIC's state, from its registers, its MSRs, guest time and the rate of its timer."""

    def register(index: int) -> int:
        return int.from_bytes(bytes(page.regs[16 * index : 16 * index + 4]), "little")

    def bits(first: int) -> int:
        return sum(register(first + n) << 32 * n for n in range(8)) & apic.ALL_VECTORS

    x2 = bool(base & apic.X2)
    lvt = {index: register(index) & writable for index, writable in apic.LVT_WRITABLE.items()}
    timer, thermal, pmc, lint0, lint1, error = (lvt[index] for index in sorted(lvt))
    count = register(apic.TIMER_INITIAL), register(apic.TIMER_CURRENT)
    return LocalApicState(
        base=base,
        isr=bits(apic.ISR),
        tmr=bits(apic.TMR),
        irr=bits(apic.IRR),
        tpr=register(apic.TPR) & 0xFF,
        ldr=0 if x2 else register(apic.LDR) & apic.LDR_WRITABLE,
        destination_format=0xF if x2 else register(apic.DFR) >> 28,
        svr=register(apic.SVR) & 0x1FF,
        esr=register(apic.ESR) & apic.ERRORS,
        errors=0,
        icr=(register(apic.ICR_HIGH) << 32 | register(apic.ICR)) & apic.ICR_X2_LEGAL,
        lvt=(timer, thermal, pmc, lint0, lint1, error),
        xapic_id=0 if x2 else register(apic.ID) >> 24,
        lint1_level=False,
        timer=_timer_state(timer >> 17 & 3, register(apic.TIMER_DIVIDE) & DIVIDE_BITS, count, deadline, now, hz),
    )


def _timer_state(mode: int, divide: int, count: tuple[int, int], deadline: int, now: int, hz: int) -> ApicTimerState:
    initial, current = count if mode <= PERIODIC else (0, 0)
    begun = now - length(initial - current, divide, hz) if initial else 0
    waits = TimerState(now + length(current, divide, hz), 0) if current else None
    return ApicTimerState(mode, divide, initial, begun, deadline if mode == DEADLINE else 0, 0, waits)


def lapic_page(state: LocalApicState, count: int) -> abi_chips.LapicState:
    """The registers of the local APIC in that state; `count` is what is left of its timer's.

    A kernel takes a count that has come to its end for one that ends now: it is told of none.
    """
    page = abi_chips.LapicState()

    def put(index: int, value: int) -> None:
        page.regs[16 * index : 16 * index + 4] = (value & 0xFFFF_FFFF).to_bytes(4, "little")

    version = apic.MAX_LVT | apic.INTEL_VERSION
    values = {
        apic.ID: state.xapic_id << 24, apic.VERSION: version, apic.TPR: state.tpr, apic.LDR: state.ldr,
        apic.DFR: state.destination_format << 28 | 0x0FFF_FFFF, apic.SVR: state.svr, apic.ESR: state.esr, apic.ICR: state.icr,
        apic.ICR_HIGH: state.icr >> 32, apic.TIMER_INITIAL: state.timer.initial if count else 0, apic.TIMER_CURRENT: count,
        apic.TIMER_DIVIDE: state.timer.divide, **dict(zip(sorted(apic.LVT_WRITABLE), state.lvt, strict=True)),
    }  # fmt: skip
    for index, value in values.items():
        put(index, value)
    for first, value in ((apic.ISR, state.isr), (apic.TMR, state.tmr), (apic.IRR, state.irr)):
        for n in range(8):
            put(first + n, value >> 32 * n)
    return page


# 8254


def channel_state(one: abi_chips.PitChannel, host: int, guest: int) -> ChannelState:
    """A channel's state, at a moment of the host's monotonic clock and of guest time."""
    loaded = one.mode != NO_MODE and one.count > 0
    mode, access = one.mode if one.mode <= 5 else 3, one.rw_mode or WORD
    passed = max(host - one.count_load_time, 0)
    running = loaded and bool(one.gate)
    low, high = one.latched_count & 0xFF, one.latched_count >> 8
    latched = {0: (), LOW: (low,), HIGH: (high,), FIRST: (low, high), SECOND: (high,)}[one.count_latched]
    return ChannelState(
        gate=bool(one.gate),
        mode=mode,
        access=access,
        bcd=bool(one.bcd),
        reload=min(one.count, 0x10000) or 0x10000,
        loaded=loaded,
        running=running,
        begun=guest - passed if running else 0,
        frozen=0 if running or not loaded else passed * PIT_HZ // NS,
        write_low=one.write_latch if access == WORD and one.write_state == SECOND else None,
        read_high=access == WORD and one.read_state == SECOND,
        latched=latched,
        held_status=one.status if one.status_latched else None,
        timer=None,
    )


def channel(state: ChannelState, host: int, guest: int) -> abi_chips.PitChannel:
    """The channel in that state, at a moment of the host's monotonic clock and of guest time."""
    one = abi_chips.PitChannel()
    untouched = not state.loaded and (state.mode, state.access) == (3, WORD)
    one.count, one.mode, one.rw_mode = state.reload if state.loaded else 0, NO_MODE if untouched else state.mode, state.access
    one.bcd, one.gate = state.bcd, state.gate
    one.read_state = one.write_state = FIRST if state.access == WORD else state.access
    if state.read_high:
        one.read_state = SECOND
    if state.write_low is not None:
        one.write_state, one.write_latch = SECOND, state.write_low
    if state.latched:
        second = len(state.latched) == 1
        one.count_latched = state.access if state.access != WORD else SECOND if second else FIRST
        high = state.latched[-1] << 8 if state.access != LOW else 0
        one.latched_count = high | (state.latched[0] if state.access == LOW or not second else 0)
    if state.held_status is not None:
        one.status_latched, one.status = 1, state.held_status
    one.count_load_time = host - (guest - state.begun if state.running else state.frozen * NS // PIT_HZ)
    return one
