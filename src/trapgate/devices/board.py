"""Makes the board: every device of the machine, at its address and on its interrupt line. A new device is one function here."""

from collections.abc import Callable, Iterable

from trapgate.arch import layout
from trapgate.arch.fwcfg import MEMORY_MAP_FILE
from trapgate.arch.models import CpuModel
from trapgate.bus import Bus
from trapgate.devices.debugcon import DebugConsole
from trapgate.devices.exitport import ExitPort
from trapgate.devices.fwcfg import FwCfg, memory_map, of_the_machine
from trapgate.devices.i8042 import I8042
from trapgate.devices.interrupts import Interrupts, InterruptsState
from trapgate.devices.mirror import mirror
from trapgate.devices.parts import AnyPart, Maker, P, Surface, Wiring
from trapgate.devices.pci import PciHost
from trapgate.devices.pit import Pit
from trapgate.devices.pmtimer import AcpiPm
from trapgate.devices.rtc import Rtc
from trapgate.devices.systemport import SystemPort
from trapgate.devices.testdev import IrqLines, Scratch
from trapgate.devices.uart import Uart
from trapgate.state import State, load_all, require
from trapgate.values import dataclass

Sink = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class PartState(State):
    """The state of a part, and what it is called."""

    kind: str
    state: State


@dataclass(frozen=True, slots=True)
class BoardState(State):
    """The state of all that a board holds."""

    interrupts: InterruptsState
    parts: tuple[PartState, ...]


class Board:
    """Ports, memory-mapped registers and interrupts, and the parts that `makers` make. BusConflict: two want the same address.

    The local APICs' pages are not on the MMIO bus: they move, and each vCPU sees its own (`LocalApic.page`).
    """

    def __init__(self, surface: Surface, model: CpuModel, makers: Iterable[Maker], cpus: int = 1) -> None:
        self.ports, self.mmio = Bus("port"), Bus("MMIO")
        self._surface = surface
        self.interrupts = interrupts = Interrupts(surface.clock, model, cpus=cpus)
        self.ports.map(layout.PIC_MASTER_PORT, 2, interrupts.pic.master)
        self.ports.map(layout.PIC_SLAVE_PORT, 2, interrupts.pic.slave)
        self.ports.map(layout.ELCR_PORT, 2, interrupts.pic.elcr)
        self.mmio.map(layout.IOAPIC_BASE, layout.PAGE_BYTES, interrupts.ioapic)
        interrupts.pic.elcr.write(0, 2, 1 << layout.SCI_IRQ)  # as firmware leaves it: the SCI is level-triggered
        self.parts: list[AnyPart] = []
        self.virtio = 0
        """How many virtio devices there are, at the first places for them."""
        for make in makers:
            self.add(make)

    def add(self, make: Callable[[Wiring], P]) -> P:
        """Make a part and put it where it wants to be. BusConflict, and it is nowhere: something else is there."""
        wiring = Wiring(self.ports, self.mmio, self.interrupts, self._surface, self.virtio)
        part = make(wiring)
        mapped = []
        try:
            for claim in wiring.claims:
                claim.bus.map(claim.start, claim.length, claim.device)
                mapped.append(claim)
        except BaseException:
            for claim in mapped:
                claim.bus.unmap(claim.start)
            part.close()
            raise
        self.parts.append(part)
        self.virtio = wiring.virtio
        return part

    def part(self, kind: type[P]) -> P:
        """The first part of a class. LookupError: there is none."""
        for one in self.parts:
            if isinstance(one, kind):
                return one
        raise LookupError(f"this board has no {kind.__name__}")

    def save(self) -> BoardState:
        """The state of interrupt controllers and parts. StateError: one has none to say."""
        return BoardState(self.interrupts.save(), tuple(PartState(type(one).__name__, one.save()) for one in self.parts))

    def load(self, state: BoardState) -> None:
        """Be as the board saved was; the clock is loaded before. StateError: it has other parts, or one of them cannot be so."""
        here, there = [type(one).__name__ for one in self.parts], [one.kind for one in state.parts]
        require(here == there, f"the parts {', '.join(there)} are not {', '.join(here)}")
        states = (one.state for one in state.parts)
        load_all([(self.interrupts, state.interrupts), *zip(self.parts, states, strict=True)])

    def close(self) -> None:
        """Let go of all parts."""
        for one in self.parts:
            one.close()


def standard(serial: Sink, debugcon: Sink) -> tuple[Maker, ...]:
    """The devices that every board has. What COM1 sends goes to `serial`, what is written to the debug console to `debugcon`."""
    return (
        _com1(serial),
        _pit,
        _rtc,
        _acpi,
        _i8042,
        _system_port,
        _pci,
        _fw_cfg,
        mirror,
        _debug_console(debugcon),
        _exit_port,
        *TEST_DEVICES,
    )


def _com1(sink: Sink) -> Maker:
    def make(wiring: Wiring) -> Uart:
        uart = Uart(sink, wiring.clock, wiring.line(layout.COM1_IRQ))
        wiring.ports(layout.COM1_PORT, uart.LENGTH, uart)
        return uart

    return make


def _pit(wiring: Wiring) -> Pit:
    pit = Pit(wiring.clock, wiring.line(layout.PIT_IRQ))
    wiring.ports(layout.PIT_PORT, pit.LENGTH, pit)
    wiring.ports(layout.SYSTEM_CONTROL_PORT, 1, pit.system_control)
    return pit


def _rtc(wiring: Wiring) -> Rtc:
    rtc = Rtc(wiring.clock, wiring.wall_start, wiring.line(layout.RTC_IRQ))
    wiring.ports(layout.RTC_PORT, rtc.LENGTH, rtc)
    return rtc


def _acpi(wiring: Wiring) -> AcpiPm:
    power = AcpiPm(wiring.clock, wiring.switches.power_off, wiring.line(layout.SCI_IRQ))
    wiring.ports(layout.ACPI_PM_BASE, layout.ACPI_PM_LENGTH, power)
    return power


def _i8042(wiring: Wiring) -> I8042:
    controller = I8042(wiring.switches.reset, wiring.line(layout.KEYBOARD_IRQ), wiring.line(layout.MOUSE_IRQ))
    wiring.ports(layout.I8042_DATA_PORT, 1, controller)
    wiring.ports(layout.I8042_COMMAND_PORT, 1, controller.command_port)
    return controller


def _system_port(wiring: Wiring) -> SystemPort:
    port = SystemPort(wiring.switches.reset)
    wiring.ports(layout.SYSTEM_PORT_A, 1, port)
    return port


def _pci(wiring: Wiring) -> PciHost:
    host = PciHost(wiring.switches.reset)
    wiring.ports(layout.PCI_PORT, 8, host)
    return host


def _fw_cfg(wiring: Wiring) -> FwCfg:
    device, regions = FwCfg(wiring.ram), wiring.ram.regions()
    device.put(of_the_machine(sum(end - start for start, end in regions), wiring.cpus))
    device.put_file(MEMORY_MAP_FILE, memory_map(regions))
    wiring.ports(layout.FW_CFG_PORT, layout.FW_CFG_LENGTH, device)
    return device


def _debug_console(sink: Sink) -> Maker:
    def make(wiring: Wiring) -> DebugConsole:
        console = DebugConsole(sink)
        wiring.ports(layout.DEBUGCON_PORT, 1, console)
        return console

    return make


def _exit_port(wiring: Wiring) -> ExitPort:
    port = ExitPort(wiring.switches.leave)
    for place in (layout.EXIT_PORT, layout.EXIT_PORT_ISA):
        wiring.ports(place, 1, port)
    return port


def _scratch_ports(length: int, port: int) -> Maker:
    def make(wiring: Wiring) -> Scratch:
        scratch = Scratch(length)
        wiring.ports(port, length, scratch)
        return scratch

    return make


def _scratch_memory(wiring: Wiring) -> Scratch:
    scratch = Scratch(layout.TEST_MEMORY_LENGTH)
    wiring.memory(layout.TEST_MEMORY_BASE, layout.TEST_MEMORY_LENGTH, scratch)
    return scratch


def _irq_lines(wiring: Wiring) -> IrqLines:
    lines = IrqLines([wiring.line(number) for number in range(layout.GSI_COUNT)])
    wiring.ports(layout.TEST_IRQ_PORT, layout.GSI_COUNT, lines)
    return lines


TEST_DEVICES: tuple[Maker, ...] = (
    _scratch_ports(4, layout.TEST_SCRATCH_PORT),
    _scratch_ports(1, layout.TEST_SCRATCH_BYTE_PORT),
    _scratch_memory,
    _irq_lines,
)
