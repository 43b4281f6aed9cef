"""The wiring: which device answers where, and on which line it interrupts."""

from collections.abc import Callable

import pytest

from trapgate.arch import layout
from trapgate.arch.models import DEFAULT_MODEL, CpuModel
from trapgate.bus import BusConflict
from trapgate.clock import InstructionClock
from trapgate.devices.board import Board, standard
from trapgate.devices.dma import Dma
from trapgate.devices.parts import Surface, Switches
from trapgate.devices.pmtimer import AcpiPm
from trapgate.devices.virtio.rng import virtio_rng
from trapgate.devices.virtio.transport import Transport
from trapgate.memory import Ram

Advance = Callable[[int], None]


class Bench:
    """A board whose switches are recorded."""

    def __init__(self, clock: InstructionClock) -> None:
        self.events: list[str] = []
        self.serial, self.debugcon = bytearray(), bytearray()
        switches = Switches(
            lambda status: self.events.append(f"leave {status}"),
            lambda: self.events.append("off"),
            lambda: self.events.append("reset"),
        )
        surface = Surface(clock, Dma(Ram(1 << 20)), lambda call: call(), switches, wall_start=0)
        self.board = Board(surface, CpuModel.parse(DEFAULT_MODEL), standard(self.serial.extend, self.debugcon.extend))

    def irqs(self) -> int:
        """The 8259s' request registers, line 0 lowest."""
        pic = self.board.interrupts.pic
        return (pic.master.irr | pic.slave.irr << 8) & ~(1 << 2)


@pytest.fixture
def bench(clock: InstructionClock) -> Bench:
    return Bench(clock)


@pytest.mark.parametrize(
    ("port", "device", "offset"),
    [
        (0x20, "Pic8259", 0), (0xA1, "Pic8259", 1), (0x4D1, "_Elcr", 1), (0x43, "Pit", 3), (0x60, "I8042", 0),
        (0x61, "SystemControl", 0), (0x64, "_CommandPort", 0), (0x71, "Rtc", 1), (0x3FF, "Uart", 7), (0xE9, "DebugConsole", 0),
        (0xF4, "ExitPort", 0), (0x501, "ExitPort", 0), (0x604, "AcpiPm", 4), (0xCF8, "PciHost", 0), (0xCFC, "PciHost", 4),
    ],
)  # fmt: skip
def test_ports(bench: Bench, port: int, device: str, offset: int) -> None:
    found = bench.board.ports.find(port)
    assert found is not None
    assert (type(found[0]).__name__, found[1]) == (device, offset)


@pytest.mark.parametrize("port", [0x80, 0x62, 0xE4, 0x2018, 0x3F7, 0x400, 0x5FF, 0x610, 0xC000])
def test_free_ports(bench: Bench, port: int) -> None:
    assert bench.board.ports.find(port) is None


def test_switches_and_sinks(bench: Bench) -> None:
    ports = bench.board.ports
    ports.write(layout.EXIT_PORT, 4, 5)
    ports.write(layout.PM1_CONTROL_PORT, 2, 0x2000)
    ports.write(layout.I8042_COMMAND_PORT, 1, 0xFE)
    ports.write(layout.RESET_PORT, 1, layout.RESET_VALUE)
    ports.write(layout.COM1_PORT, 1, ord("s"))
    ports.write(layout.DEBUGCON_PORT, 1, ord("d"))
    assert bench.events == ["leave 11", "off", "reset", "reset"]
    assert (bench.serial, bench.debugcon) == (b"s", b"d")


def test_each_device_interrupts_on_its_line(bench: Bench, advance: Advance) -> None:
    ports, seen = bench.board.ports, []
    ports.write(layout.PM1_EVENT_PORT + 2, 2, 1 << 8)
    for act in (
        lambda: ports.write(layout.COM1_PORT + 1, 1, 2),
        lambda: (ports.write(0x70, 2, 0x120B), ports.write(0x70, 1, 0x0C), ports.read(0x71, 1), advance(10**9)),
        bench.board.part(AcpiPm).press_power_button,
        lambda: (ports.write(0x64, 1, 0x60), ports.write(0x60, 1, 3), ports.write(0x64, 1, 0xD2), ports.write(0x60, 1, 0)),
        lambda: (ports.read(0x60, 1), ports.write(0x64, 1, 0xD3), ports.write(0x60, 1, 0)),
        lambda: (ports.write(0x43, 1, 0x34), ports.write(0x40, 1, 0), ports.write(0x40, 1, 1), advance(10**8)),
    ):
        before = bench.irqs()
        act()
        seen.append((bench.irqs() & ~before).bit_length() - 1)
    assert seen == [layout.COM1_IRQ, layout.RTC_IRQ, layout.SCI_IRQ, layout.KEYBOARD_IRQ, layout.MOUSE_IRQ, layout.PIT_IRQ]


def test_io_apic_page(bench: Bench) -> None:
    found = bench.board.mmio.find(layout.IOAPIC_BASE + 0x10)
    assert found == (bench.board.interrupts.ioapic, 0x10)
    assert bench.board.mmio.find(layout.LAPIC_BASE) is None


def test_scratch_bytes_remember(bench: Bench) -> None:
    ports, mmio = bench.board.ports, bench.board.mmio
    ports.write(0xE0, 4, 0x4433_2211)
    assert [ports.read(0xE0 + at, size) for at, size in ((0, 1), (1, 2), (3, 1), (2, 4))] == [0x11, 0x3322, 0x44, 0xFFFF_4433]
    ports.write(0xE8, 1, 0x99)
    assert ports.read(0xE8, 1) == 0x99
    mmio.write(0xFF00_FFF8, 8, 0x0123_4567_89AB_CDEF)
    assert mmio.read(0xFF00_FFFA, 4) == 0x4567_89AB


def test_lines_driven_by_the_guest(bench: Bench) -> None:
    ports = bench.board.ports
    assert ports.read(layout.ELCR_PORT, 2) == 1 << layout.SCI_IRQ
    ports.write(0x200E, 4, 1)
    assert bench.irqs() == 1 << 14
    assert (ports.read(0x200E, 1), ports.read(0x200F, 1)) == (1, 0)
    ports.write(0x200E, 1, 0)
    assert ports.read(0x200E, 1) == 0


def test_virtio_devices_have_places_and_lines_of_their_own(bench: Bench) -> None:
    makers = [virtio_rng(b"seed") for _ in range(layout.VIRTIO_MOST)]
    parts = [bench.board.add(make) for make in makers]
    assert bench.board.virtio == layout.VIRTIO_MOST
    for number, part in enumerate(parts):
        address = layout.VIRTIO_BASE + number * layout.PAGE_BYTES
        assert bench.board.mmio.find(address + 0x1FF) == (part, 0x1FF)
        assert bench.board.mmio.find(address + 0x200) is None
        assert isinstance(part, Transport)
        part._raise(1)
        assert bench.board.interrupts.ioapic.save().lines == 1 << layout.VIRTIO_GSI + number
        bench.board.mmio.write(address + 0x64, 4, 1)
        assert bench.board.interrupts.ioapic.save().lines == 0
    with pytest.raises(BusConflict, match="there can be 8 virtio devices"):
        bench.board.add(virtio_rng())
