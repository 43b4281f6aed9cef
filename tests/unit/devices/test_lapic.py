"""The local APIC: priorities, both register forms, mode changes, and LVTs."""

import pytest

from trapgate.arch.msrs import MsrError
from trapgate.clock import InstructionClock
from trapgate.devices import lapic_registers as l
from trapgate.devices.apic_bus import Message
from trapgate.devices.lapic import LocalApic
from unit.devices.lapic_bench import TSC_HZ, Bench, fixed, to_x2


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
