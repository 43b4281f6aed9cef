"""The I/O APIC and the wiring of interrupt lines to both controllers."""

from collections.abc import Callable

import pytest

from trapgate.arch.models import DEFAULT_MODEL, CpuModel
from trapgate.arch.msrs import MsrError
from trapgate.clock import InstructionClock
from trapgate.devices import lapic_registers as l
from trapgate.devices.interrupts import Interrupts
from trapgate.devices.ioapic import EOI, SELECT, WINDOW, IoApic
from trapgate.devices.lapic import LocalApic

LEVEL, MASKED = 1 << 15, 1 << 16


@pytest.fixture
def wired(clock: InstructionClock) -> Interrupts:
    interrupts = Interrupts(clock, CpuModel.parse(DEFAULT_MODEL), cpus=2)
    for apic in interrupts.lapics:
        apic.write(l.SVR * 16, 4, 0x1FF)
        apic.write(l.LVT_LINT0 * 16, 4, 0x1_0700)
    return interrupts


def put(ioapic: IoApic, index: int, value: int) -> None:
    ioapic.write(SELECT, 4, index)
    ioapic.write(WINDOW, 4, value)


def look(ioapic: IoApic, index: int) -> int:
    ioapic.write(SELECT, 4, index)
    return ioapic.read(WINDOW, 4)


def route(ioapic: IoApic, pin: int, low: int, destination: int = 0) -> None:
    put(ioapic, 0x11 + 2 * pin, destination << 24)
    put(ioapic, 0x10 + 2 * pin, low)


def end(apic: LocalApic) -> None:
    apic.write(l.EOI * 16, 4, 0)


def test_registers(wired: Interrupts) -> None:
    ioapic = wired.ioapic
    assert look(ioapic, 1) == 0x0017_0020
    put(ioapic, 0, 0xFF00_0000)
    assert look(ioapic, 0) == look(ioapic, 2) == 0x0F00_0000
    assert look(ioapic, 0x10) == MASKED
    put(ioapic, 0x12, 0xFFFF_FFFF)
    put(ioapic, 0x13, 0xFFFF_FFFF)
    assert look(ioapic, 0x12) == 0x0001_AFFF
    assert look(ioapic, 0x13) == 0xFF00_0000
    assert look(ioapic, 0x40) == 0
    assert ioapic.read(SELECT, 4) == 0x40


def test_edge_is_one_interrupt_an_edge(wired: Interrupts) -> None:
    route(wired.ioapic, 4, 0x44)
    drive, apic = wired.line(4), wired.lapics[0]
    drive(True)
    drive(True)
    assert apic.acknowledge() == 0x44
    end(apic)
    assert not apic.pending()
    drive(False)
    drive(True)
    assert apic.pending()


def test_edge_on_a_masked_pin_is_lost_and_level_waits(wired: Interrupts) -> None:
    for low, waits in ((0x44, False), (0x44 | LEVEL, True)):
        route(wired.ioapic, 4, low | MASKED)
        wired.line(4)(True)
        route(wired.ioapic, 4, low)
        assert wired.lapics[0].pending() is waits
        wired.line(4)(False)


def test_level_repeats_until_the_line_falls(wired: Interrupts) -> None:
    route(wired.ioapic, 9, 0x49 | LEVEL)
    drive, apic = wired.line(9), wired.lapics[0]
    drive(True)
    assert apic.acknowledge() == 0x49
    assert look(wired.ioapic, 0x10 + 18) & 1 << 14  # remote IRR
    drive(False)
    drive(True)
    assert not apic.pending()  # not before EOI
    end(apic)
    assert apic.acknowledge() == 0x49
    drive(False)
    end(apic)
    assert not apic.pending()
    assert not look(wired.ioapic, 0x10 + 18) & 1 << 14


def test_eoi_register_and_edge_trick_clear_remote_irr(wired: Interrupts) -> None:
    ioapic = wired.ioapic
    clears: tuple[Callable[[], None], ...] = (lambda: ioapic.write(EOI, 4, 0x49), lambda: route(ioapic, 9, 0x49 | MASKED))
    for clear in clears:
        route(ioapic, 9, 0x49 | LEVEL)
        wired.line(9)(True)
        assert look(ioapic, 0x10 + 18) & 1 << 14
        wired.line(9)(False)
        clear()
        assert not look(ioapic, 0x10 + 18) & 1 << 14


def test_destinations(wired: Interrupts) -> None:
    first, second = wired.lapics
    route(wired.ioapic, 4, 0x44, destination=1)
    wired.line(4)(True)
    assert second.acknowledge() == 0x44
    assert not first.pending()
    route(wired.ioapic, 5, 0x55, destination=0xFF)
    wired.line(5)(True)
    assert first.acknowledge() == second.acknowledge() == 0x55
    first.write(l.LDR * 16, 4, 1 << 24)
    second.write(l.LDR * 16, 4, 2 << 24)
    for apic in wired.lapics:
        end(apic)
    second.tpr = 0x20
    route(wired.ioapic, 6, 0x66 | 1 << 8 | 1 << 11, destination=3)
    wired.line(6)(True)
    assert first.acknowledge() == 0x66
    assert not second.pending()


def test_nobody_there_leaves_no_remote_irr(wired: Interrupts) -> None:
    route(wired.ioapic, 9, 0x49 | LEVEL, destination=9)
    wired.line(9)(True)
    assert not look(wired.ioapic, 0x10 + 18) & 1 << 14


def test_nmi_delivery(wired: Interrupts) -> None:
    hits: list[str] = []
    wired.lapics[0].nmi = lambda: hits.append("nmi")
    route(wired.ioapic, 4, 4 << 8)
    wired.line(4)(True)
    assert hits == ["nmi"]


def test_the_timer_arrives_at_pin_2_and_at_the_8259(wired: Interrupts) -> None:
    route(wired.ioapic, 2, 0x32)
    wired.line(0)(True)
    assert wired.lapics[0].acknowledge() == 0x32
    assert wired.pic.master.irr == 1


def test_8259_reaches_the_cpu_through_lint0(clock: InstructionClock) -> None:
    interrupts = Interrupts(clock, CpuModel.parse(DEFAULT_MODEL))
    told: list[bool] = []
    interrupts.lapics[0].notify = lambda: told.append(interrupts.lapics[0].pending())
    master = interrupts.pic.master
    for port, value in ((0, 0x11), (1, 0x20), (1, 4), (1, 1)):
        master.write8(port, value)
    interrupts.line(4)(True)
    assert told[-1] is True
    assert interrupts.lapics[0].acknowledge() == 0x24


def test_lines_beyond_the_8259(wired: Interrupts) -> None:
    route(wired.ioapic, 20, 0x70)
    wired.line(20)(True)
    assert wired.lapics[0].acknowledge() == 0x70
    with pytest.raises(ValueError, match="no interrupt line 24"):
        wired.line(24)


@pytest.mark.parametrize(("cpu", "x2"), [("EPYC-Turin", True), ("SapphireRapids,-x2apic", False)])
def test_the_model_decides_about_the_local_apic(clock: InstructionClock, cpu: str, x2: bool) -> None:
    model = CpuModel.parse(cpu)
    apic = Interrupts(clock, model).lapics[0]
    assert apic.read(l.VERSION * 16, 4) == (0x0005_0010 if model.amd else 0x0005_0014)
    apic.write(l.TIMER_DIVIDE * 16, 4, 0b1011)
    apic.write(l.TIMER_INITIAL * 16, 4, 0xFFFF_FFFF)
    clock.skip_to(1_000_000_000)
    assert 0xFFFF_FFFF - apic.read(l.TIMER_CURRENT * 16, 4) == model.crystal_hz
    if x2:
        apic.write_msr(l.APIC_BASE, apic.read_msr(l.APIC_BASE) | l.X2)
    else:
        with pytest.raises(MsrError, match="reserved"):
            apic.write_msr(l.APIC_BASE, apic.read_msr(l.APIC_BASE) | l.X2)
    with pytest.raises(MsrError, match="reserved"):
        apic.write_msr(l.APIC_BASE, 1 << model.physical_bits | apic.read_msr(l.APIC_BASE))
