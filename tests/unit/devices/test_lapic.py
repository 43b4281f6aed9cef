"""The local APIC: priorities, both register forms, mode changes, LVTs, interprocessor interrupts and the timer."""

from collections.abc import Callable

import pytest

from trapgate.arch.msrs import MsrError
from trapgate.clock import InstructionClock
from trapgate.devices import lapic as l
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


@pytest.fixture
def apic(clock: InstructionClock) -> Bench:
    return Bench(clock)


def fixed(vector: int, level: bool = False) -> Message:
    return Message(vector, 0, 0, False, level)


def to_x2(apic: LocalApic) -> None:
    apic.write_msr(l.APIC_BASE, apic.read_msr(l.APIC_BASE) | l.X2)


class TestPriorities:
    """IRR, ISR, TPR and EOI."""

    def test_highest_vector_first_and_nesting_by_class(self, apic: Bench) -> None:
        for vector in (0x31, 0x45, 0x41):
            apic.accept(fixed(vector))
        assert apic.acknowledge() == 0x45
        assert not apic.pending()  # 41h is of the same class
        apic.accept(fixed(0x51))
        assert apic.acknowledge() == 0x51
        assert apic.look(l.PPR) == 0x50
        apic.put(l.EOI, 0)
        apic.put(l.EOI, 0)
        assert apic.acknowledge() == 0x41

    def test_registers_show_the_bits(self, apic: Bench) -> None:
        apic.accept(fixed(0xFF, level=True))
        assert apic.look(l.IRR + 7) == 1 << 31
        assert apic.look(l.TMR + 7) == 1 << 31
        apic.acknowledge()
        assert apic.look(l.IRR + 7) == 0
        assert apic.look(l.ISR + 7) == 1 << 31
        apic.accept(fixed(0xFF))
        assert apic.look(l.TMR + 7) == 0

    def test_task_priority_and_cr8(self, apic: Bench) -> None:
        apic.accept(fixed(0x45))
        apic.cr8 = 4
        assert not apic.pending()
        assert apic.look(l.TPR) == 0x40
        told: list[bool] = []
        apic.notify = lambda: told.append(apic.pending())
        apic.tpr = 0x3F
        assert apic.cr8 == 3
        assert told == [True]

    def test_nothing_there_is_spurious(self, apic: Bench) -> None:
        apic.put(l.SVR, 0x1EE)
        assert apic.acknowledge() == 0xEE
        assert apic.look(l.ISR + 7) == 0

    def test_end_of_level_interrupt_reaches_the_io_apic(self, apic: Bench) -> None:
        ended: list[int] = []
        apic.bus.ioapic_eoi = ended.append
        for level in (False, True):
            apic.accept(fixed(0x50 + level, level))
            apic.acknowledge()
            apic.put(l.EOI, 0)
        apic.put(l.EOI, 0)  # nothing in service
        assert ended == [0x51]

    def test_illegal_vector_sets_esr_once_written(self, apic: Bench) -> None:
        apic.put(l.LVT_ERROR, 0xFE)
        apic.accept(fixed(0x0F))
        assert apic.look(l.ESR) == 0
        apic.put(l.ESR, 0)
        assert apic.look(l.ESR) == l.RECEIVE_ILLEGAL
        assert apic.acknowledge() == 0xFE
        apic.put(l.ESR, 0)
        assert apic.look(l.ESR) == 0

    def test_illegal_error_vector_does_not_recurse(self, apic: Bench) -> None:
        apic.put(l.LVT_ERROR, 0x03)
        apic.accept(fixed(0x0F))
        assert not apic.pending()


class TestPage:
    """The memory-mapped form."""

    def test_only_whole_registers_are_written(self, apic: Bench) -> None:
        apic.write(l.TPR * 16, 1, 0x20)
        apic.write(l.TPR * 16 + 4, 4, 0x20)
        assert apic.tpr == 0
        apic.put(l.TPR, 0x20)
        assert apic.read(l.TPR * 16 + 4, 4) == 0

    def test_bytes_of_a_register_can_be_read(self, apic: Bench) -> None:
        assert apic.look(l.VERSION) == 0x50014
        assert apic.read(l.VERSION * 16 + 2, 1) & 0xFF == 5

    def test_unknown_registers_are_errors(self, apic: Bench) -> None:
        assert apic.look(0x3D) == 0
        apic.put(l.ESR, 0)
        assert apic.look(l.ESR) == l.ILLEGAL_REGISTER

    def test_read_only_registers_stay(self, apic: Bench) -> None:
        for index in (l.VERSION, l.PPR, l.ISR, l.IRR + 3, l.TIMER_CURRENT):
            before = apic.look(index)
            apic.put(index, 0xFFFF_FFFF)
            assert apic.look(index) == before

    def test_identifier_and_logical_destination(self, apic: Bench) -> None:
        apic.put(l.ID, 0x05FF_FFFF)
        apic.put(l.LDR, 0x2345_6789)
        apic.put(l.DFR, 0)
        assert (apic.look(l.ID), apic.look(l.LDR), apic.look(l.DFR)) == (0x0500_0000, 0x2300_0000, 0x0FFF_FFFF)

    def test_software_disable_masks_and_refuses(self, apic: Bench) -> None:
        apic.put(l.LVT_TIMER, 0x30)
        apic.put(l.SVR, 0xFF)
        assert apic.look(l.LVT_TIMER) == 0x1_0030
        apic.put(l.LVT_TIMER, 0x31)
        assert apic.look(l.LVT_TIMER) == 0x1_0031
        apic.accept(fixed(0x40))
        assert not apic.pending()
        apic.accept(Message(0, 4, 0, False))
        assert apic.events == ["nmi"]

    def test_lvt_reserved_bits_are_not_stored(self, apic: Bench) -> None:
        apic.put(l.LVT_TIMER, 0xFFFF_FFFF)
        apic.put(l.LVT_LINT0, 0xFFFF_FFFF)
        apic.put(l.LVT_ERROR, 0xFFFF_FFFF)
        assert [apic.look(index) for index in (l.LVT_TIMER, l.LVT_LINT0, l.LVT_ERROR)] == [0x7_00FF, 0x1_A7FF, 0x1_00FF]


class TestModes:
    """IA32_APIC_BASE and the MSR form."""

    def test_reset_value_and_page(self, clock: InstructionClock) -> None:
        assert LocalApic(clock, TSC_HZ).read_msr(l.APIC_BASE) == 0xFEE0_0900
        assert LocalApic(clock, TSC_HZ, identifier=1).read_msr(l.APIC_BASE) == 0xFEE0_0800

    def test_the_page_moves(self, apic: Bench) -> None:
        apic.write_msr(l.APIC_BASE, 0xD000_0800)
        assert apic.page == 0xD000_0000
        assert apic.read_msr(l.APIC_BASE) & l.BSP  # who booted stays who booted

    def test_disabling_resets(self, apic: Bench) -> None:
        apic.tpr = 0x50
        apic.write_msr(l.APIC_BASE, 0xFEE0_0100)
        assert apic.page is None
        assert apic.tpr == 0
        assert not apic.pending()
        apic.write_msr(l.APIC_BASE, 0xFEE0_0900)
        assert apic.look(l.SVR) == 0xFF

    def test_illegal_transitions(self, apic: Bench) -> None:
        with pytest.raises(MsrError, match="transition"):
            apic.write_msr(l.APIC_BASE, 0xFEE0_0100 | l.X2)
        to_x2(apic)
        with pytest.raises(MsrError, match="transition"):
            apic.write_msr(l.APIC_BASE, 0xFEE0_0900)
        apic.write_msr(l.APIC_BASE, 0xFEE0_0100)
        with pytest.raises(MsrError, match="transition"):
            apic.write_msr(l.APIC_BASE, 0xFEE0_0900 | l.X2)
        assert apic.read_msr(l.APIC_BASE) == 0xFEE0_0100

    @pytest.mark.parametrize("bit", [0, 9, 48, 63])
    def test_reserved_bits(self, apic: Bench, bit: int) -> None:
        with pytest.raises(MsrError, match="reserved"):
            apic.write_msr(l.APIC_BASE, 0xFEE0_0900 | 1 << bit)

    def test_no_x2apic_without_the_feature(self, clock: InstructionClock) -> None:
        apic = Bench(clock, x2apic=False)
        with pytest.raises(MsrError, match="reserved"):
            to_x2(apic)
        with pytest.raises(MsrError):
            apic.read_msr(0x802)

    def test_msrs_exist_in_x2_mode_only(self, apic: Bench) -> None:
        with pytest.raises(MsrError):
            apic.read_msr(0x808)
        to_x2(apic)
        assert apic.page is None
        apic.write_msr(0x808, 0x30)
        assert apic.read_msr(0x808) == apic.tpr == 0x30
        assert apic.read_msr(0x802) == 0
        assert apic.read_msr(0x803) == 0x50014

    @pytest.mark.parametrize(("index", "value"), [(0x802, 0), (0x80D, 0), (0x80B, 1), (0x808, 0x100), (0x83E, 4), (0x832, 1 << 20)])
    def test_refused_values(self, apic: Bench, index: int, value: int) -> None:
        to_x2(apic)
        with pytest.raises(MsrError, match=f"{index:#x}"):
            apic.write_msr(index, value)

    @pytest.mark.parametrize("index", [0x800, 0x80E, 0x831, 0x82F, 0x840, 0x8FF])
    def test_absent_msrs(self, apic: Bench, index: int) -> None:
        to_x2(apic)
        with pytest.raises(MsrError):
            apic.read_msr(index)

    def test_write_only_msrs(self, apic: Bench) -> None:
        to_x2(apic)
        with pytest.raises(MsrError, match="writing only"):
            apic.read_msr(0x80B)

    def test_self_ipi_and_end(self, apic: Bench) -> None:
        to_x2(apic)
        apic.write_msr(0x83F, 0x77)
        assert apic.acknowledge() == 0x77
        assert apic.read_msr(0x813) == 1 << 0x17
        assert apic.read_msr(0x830) == 0
        apic.write_msr(0x83F, 0x07)
        apic.write_msr(0x828, 0)
        assert apic.read_msr(0x828) == l.SEND_ILLEGAL
        apic.write_msr(0x80B, 0)
        assert apic.read_msr(0x813) == 0


class TestLines:
    """LINT0 as virtual wire, LINT1 as NMI."""

    class Pic:
        """INTR with one vector."""

        def pending(self) -> bool:
            return True

        def acknowledge(self) -> int:
            return 0x20

    def test_virtual_wire_until_masked(self, clock: InstructionClock) -> None:
        apic = LocalApic(clock, TSC_HZ, external=self.Pic())
        assert apic.pending()
        assert apic.acknowledge() == 0x20
        assert not apic._isr  # the 8259 keeps its own account
        apic.write(l.SVR * 16, 4, 0x1FF)
        apic.write(l.LVT_LINT0 * 16, 4, 0x1_0700)
        assert not apic.pending()
        apic.write_msr(l.APIC_BASE, 0xFEE0_0100)  # a disabled APIC is a wire
        assert apic.pending()

    def test_only_the_bootstrap_processor_has_the_wire(self, clock: InstructionClock) -> None:
        assert not LocalApic(clock, TSC_HZ, identifier=1, external=self.Pic()).pending()

    def test_lint0_with_a_vector_of_its_own(self, clock: InstructionClock) -> None:
        apic = Bench(clock)
        apic.put(l.LVT_LINT0, 0x55)
        apic.intr_line(True)
        assert apic.acknowledge() == 0x55

    def test_nmi_line(self, clock: InstructionClock) -> None:
        apic = LocalApic(clock, TSC_HZ)
        events: list[str] = []
        apic.nmi = lambda: events.append("nmi")
        for level in (True, True, False, True):
            apic.nmi_line(level)
        assert events == ["nmi", "nmi"]
        apic.write(l.SVR * 16, 4, 0x1FF)
        apic.write(l.LVT_LINT1 * 16, 4, 0x1_0400)
        apic.nmi_line(False)
        apic.nmi_line(True)
        assert len(events) == 2
        apic.write(l.LVT_LINT1 * 16, 4, 0x0_0044)  # fixed
        apic.nmi_line(False)
        apic.nmi_line(True)
        assert apic.acknowledge() == 0x44


class TestInterprocessor:
    """ICR, destinations and shorthands among three processors."""

    @pytest.fixture
    def trio(self, clock: InstructionClock) -> list[Bench]:
        bus = ApicBus()
        return [Bench(clock, number, bus) for number in range(3)]

    @staticmethod
    def send(apic: Bench, low: int, destination: int = 0) -> None:
        apic.put(l.ICR_HIGH, destination << 24)
        apic.put(l.ICR, low)

    @staticmethod
    def receivers(trio: list[Bench]) -> list[int]:
        """Who got an interrupt; it is taken."""
        got = [one.identifier for one in trio if one.pending()]
        for one in trio:
            while one.pending():
                one.acknowledge()
                one.put(l.EOI, 0)
        return got

    @pytest.mark.parametrize(
        ("low", "destination", "who"),
        [
            (0x40, 1, [1]),
            (0x40, 0xFF, [0, 1, 2]),
            (0x40, 7, []),
            (0x4_0040, 2, [0]),
            (0x8_0040, 2, [0, 1, 2]),
            (0xC_0040, 0, [1, 2]),
        ],
    )
    def test_physical_and_shorthands(self, trio: list[Bench], low: int, destination: int, who: list[int]) -> None:
        self.send(trio[0], low, destination)
        assert self.receivers(trio) == who

    def test_logical_flat_and_cluster(self, trio: list[Bench]) -> None:
        for number, apic in enumerate(trio):
            apic.put(l.LDR, 1 << 24 + number)
        self.send(trio[0], 0x840, 0b110)
        assert self.receivers(trio) == [1, 2]
        for apic, logical in zip(trio, (0x11, 0x12, 0x21), strict=True):
            apic.put(l.DFR, 0x0FFF_FFFF)
            apic.put(l.LDR, logical << 24)
        self.send(trio[0], 0x840, 0x13)
        assert self.receivers(trio) == [0, 1]
        self.send(trio[0], 0x840, 0xF1)
        assert self.receivers(trio) == [0, 2]

    def test_lowest_priority_goes_to_one(self, trio: list[Bench]) -> None:
        trio[0].tpr, trio[1].tpr, trio[2].tpr = 0x30, 0x20, 0x30
        self.send(trio[0], 0x0140, 0xFF)
        assert self.receivers(trio) == [1]

    def test_x2_destinations(self, trio: list[Bench]) -> None:
        for apic in trio:
            to_x2(apic)
        trio[0].write_msr(0x830, 2 << 32 | 0x40)
        assert trio[2].acknowledge() == 0x40
        assert trio[2].read_msr(0x80D) == 1 << 2
        trio[0].write_msr(0x830, 0b010 << 32 | 0x841)
        assert trio[1].acknowledge() == 0x41
        trio[0].write_msr(0x830, 0xFFFF_FFFF << 32 | 0x52)
        assert [one.acknowledge() for one in trio] == [0x52] * 3
        assert trio[0].read_msr(0x830) == 0xFFFF_FFFF << 32 | 0x52

    def test_init_and_startup(self, trio: list[Bench]) -> None:
        trio[1].tpr = 0x50
        self.send(trio[0], 0xC500, 1)
        self.send(trio[0], 0x8500, 1)  # level de-assert: nothing
        self.send(trio[0], 0x0699, 1)
        self.send(trio[0], 0x0400, 1)
        assert trio[1].events == ["init", "startup 0x99", "nmi"]
        assert trio[1].tpr == 0
        assert not trio[0].events

    def test_illegal_vector_is_not_sent(self, trio: list[Bench]) -> None:
        self.send(trio[0], 0x0E, 1)
        trio[0].put(l.ESR, 0)
        trio[1].put(l.ESR, 0)
        assert trio[0].look(l.ESR) == l.SEND_ILLEGAL
        assert trio[1].look(l.ESR) == 0


class TestTimer:
    """1 GHz before the divider: one count a nanosecond."""

    def test_one_shot(self, apic: Bench, advance: Advance) -> None:
        apic.put(l.TIMER_DIVIDE, 0b1011)
        apic.put(l.LVT_TIMER, 0x40)
        apic.put(l.TIMER_INITIAL, 1000)
        advance(999)
        assert apic.look(l.TIMER_CURRENT) == 1
        assert not apic.pending()
        advance(1)
        assert apic.acknowledge() == 0x40
        assert apic.look(l.TIMER_CURRENT) == 0
        apic.put(l.EOI, 0)
        advance(10_000_000)
        assert not apic.pending()

    @pytest.mark.parametrize(("code", "divisor"), [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)])
    def test_divider(self, apic: Bench, advance: Advance, code: int, divisor: int) -> None:
        apic.put(l.TIMER_DIVIDE, code)
        apic.put(l.TIMER_INITIAL, 1000)
        advance(100 * divisor)
        assert apic.look(l.TIMER_CURRENT) == 900
        assert apic.look(l.TIMER_DIVIDE) == code

    def test_periodic_and_late(self, apic: Bench, clock: InstructionClock, advance: Advance) -> None:
        apic.put(l.TIMER_DIVIDE, 0b1011)
        apic.put(l.LVT_TIMER, 0x2_0040)
        apic.put(l.TIMER_INITIAL, 1_000_000)
        for _ in range(3):
            advance(1_000_000)
            assert apic.acknowledge() == 0x40
            apic.put(l.EOI, 0)
        clock.skip_to(clock.now() + 5_500_000)  # the guest did not run: five periods are one interrupt
        clock.run_due()
        assert apic.acknowledge() == 0x40
        apic.put(l.EOI, 0)
        clock.run_due()
        assert not apic.pending()
        assert apic.look(l.TIMER_CURRENT) == 500_000

    def test_tiny_period_makes_no_storm(self, apic: Bench, advance: Advance) -> None:
        fired: list[int] = []
        apic.put(l.TIMER_DIVIDE, 0b1011)
        apic.put(l.LVT_TIMER, 0x2_0040)
        apic.notify = lambda: fired.append(1)
        apic.put(l.TIMER_INITIAL, 1)
        advance(1_000_000)
        assert 0 < len(fired) <= 51

    def test_masked_timer_runs_silently(self, apic: Bench, advance: Advance) -> None:
        apic.put(l.LVT_TIMER, 0x1_0040)
        apic.put(l.TIMER_INITIAL, 1000)
        advance(10_000)
        assert not apic.pending()
        assert apic.look(l.TIMER_CURRENT) == 0

    def test_zero_stops(self, apic: Bench, advance: Advance) -> None:
        apic.put(l.LVT_TIMER, 0x40)
        apic.put(l.TIMER_INITIAL, 1000)
        apic.put(l.TIMER_INITIAL, 0)
        advance(10_000)
        assert not apic.pending()

    def test_divider_change_keeps_the_count(self, apic: Bench, advance: Advance) -> None:
        apic.put(l.TIMER_DIVIDE, 0b1011)
        apic.put(l.LVT_TIMER, 0x40)
        apic.put(l.TIMER_INITIAL, 1000)
        advance(400)
        apic.put(l.TIMER_DIVIDE, 0)
        assert apic.look(l.TIMER_CURRENT) == 600
        advance(1199)
        assert not apic.pending()
        advance(1)
        assert apic.pending()

    def test_tsc_deadline(self, apic: Bench, clock: InstructionClock, advance: Advance) -> None:
        apic.write_msr(l.TSC_DEADLINE, 5000)
        assert apic.read_msr(l.TSC_DEADLINE) == 0  # not in this mode
        apic.put(l.LVT_TIMER, 0x4_0040)
        apic.write_msr(l.TSC_DEADLINE, 5000)
        apic.put(l.TIMER_INITIAL, 7)
        assert apic.read_msr(l.TSC_DEADLINE) == 5000
        assert apic.look(l.TIMER_INITIAL) == 0
        advance(2499)
        assert not apic.pending()
        advance(1)
        assert apic.acknowledge() == 0x40
        assert apic.read_msr(l.TSC_DEADLINE) == 0

    def test_past_deadline_fires_at_once_and_zero_disarms(self, apic: Bench, advance: Advance) -> None:
        apic.put(l.LVT_TIMER, 0x4_0040)
        advance(1000)
        apic.write_msr(l.TSC_DEADLINE, 9000)
        apic.write_msr(l.TSC_DEADLINE, 0)
        advance(10_000)
        assert not apic.pending()
        apic.write_msr(l.TSC_DEADLINE, 1)
        assert apic.pending()

    def test_moved_tsc_moves_the_deadline(self, apic: Bench, advance: Advance) -> None:
        apic.put(l.LVT_TIMER, 0x4_0040)
        apic.write_msr(l.TSC_DEADLINE, 5000)
        advance(1000)
        apic.set_tsc_offset(-1000)
        advance(1999)
        assert not apic.pending()
        advance(1)
        assert apic.pending()

    def test_the_tsc_has_64_bits(self, apic: Bench, advance: Advance) -> None:
        apic.put(l.LVT_TIMER, 0x4_0040)
        apic.set_tsc_offset(-(1 << 64) - 1)
        apic.write_msr(l.TSC_DEADLINE, 5)
        assert apic.acknowledge() == 0x40  # the TSC is at its largest
        apic.put(l.EOI, 0)
        advance(1)  # and 1 now
        apic.write_msr(l.TSC_DEADLINE, 5)
        advance(1)
        assert not apic.pending()
        advance(1)
        assert apic.pending()

    def test_leaving_deadline_mode_disarms(self, apic: Bench, advance: Advance) -> None:
        apic.put(l.LVT_TIMER, 0x4_0040)
        apic.write_msr(l.TSC_DEADLINE, 5000)
        apic.put(l.LVT_TIMER, 0x0_0040)
        advance(10_000)
        assert not apic.pending()
