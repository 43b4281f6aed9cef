"""The board: every device of the machine, at its address and on its interrupt line. A new device is one line here."""

from collections.abc import Callable
from dataclasses import dataclass

from trapgate.arch import layout
from trapgate.arch.models import CpuModel
from trapgate.bus import Bus
from trapgate.clock import Clock
from trapgate.devices.debugcon import DebugConsole
from trapgate.devices.exitport import ExitPort
from trapgate.devices.i8042 import I8042
from trapgate.devices.interrupts import Interrupts
from trapgate.devices.pci import PciHost
from trapgate.devices.pit import Pit, SystemControl
from trapgate.devices.pmtimer import AcpiPm
from trapgate.devices.rtc import Rtc
from trapgate.devices.testdev import IrqLines, Scratch
from trapgate.devices.uart import Uart

Sink = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class Switches:
    """What a guest can do to the machine as a whole."""

    leave: Callable[[int], None]  # an exit port was written: the status
    power_off: Callable[[], None]
    reset: Callable[[], None]


class Board:
    """Ports, memory-mapped registers and interrupts. `wall_start` is ns since 1970 (UTC) at guest time 0.

    The local APICs' pages are not on the MMIO bus: they move, and each vCPU sees its own (`LocalApic.page`).
    """

    def __init__(
        self, clock: Clock, model: CpuModel, switches: Switches, *, wall_start: int, serial: Sink, debugcon: Sink, cpus: int = 1
    ) -> None:
        self.ports = ports = Bus("port")
        self.mmio = Bus("MMIO")
        self.interrupts = Interrupts(clock, model, cpus=cpus)
        line = self.interrupts.line
        self.uart = Uart(serial, clock, line(layout.COM1_IRQ))
        self.pit = Pit(clock, line(layout.PIT_IRQ))
        self.rtc = Rtc(clock, wall_start, line(layout.RTC_IRQ))
        self.pm = AcpiPm(clock, switches.power_off, line(layout.SCI_IRQ))
        self.i8042 = I8042(switches.reset, line(layout.KEYBOARD_IRQ), line(layout.MOUSE_IRQ))
        ports.map(layout.COM1_PORT, self.uart.LENGTH, self.uart)
        ports.map(layout.PIC_MASTER_PORT, 2, self.interrupts.pic.master)
        ports.map(layout.PIC_SLAVE_PORT, 2, self.interrupts.pic.slave)
        ports.map(layout.ELCR_PORT, 2, self.interrupts.pic.elcr)
        ports.map(layout.PIT_PORT, self.pit.LENGTH, self.pit)
        ports.map(layout.I8042_DATA_PORT, 1, self.i8042)
        ports.map(layout.SYSTEM_CONTROL_PORT, 1, SystemControl(self.pit, clock))
        ports.map(layout.I8042_COMMAND_PORT, 1, self.i8042.command_port)
        ports.map(layout.RTC_PORT, self.rtc.LENGTH, self.rtc)
        ports.map(layout.ACPI_PM_BASE, layout.ACPI_PM_LENGTH, self.pm)
        ports.map(layout.PCI_PORT, 8, PciHost(switches.reset))
        ports.map(layout.DEBUGCON_PORT, 1, DebugConsole(debugcon))
        for port in (layout.EXIT_PORT, layout.EXIT_PORT_ISA):
            ports.map(port, 1, ExitPort(switches.leave))
        ports.map(layout.TEST_SCRATCH_PORT, 4, Scratch(4))
        ports.map(layout.TEST_SCRATCH_BYTE_PORT, 1, Scratch(1))
        ports.map(layout.TEST_IRQ_PORT, layout.GSI_COUNT, IrqLines([line(number) for number in range(layout.GSI_COUNT)]))
        self.mmio.map(layout.TEST_MEMORY_BASE, layout.TEST_MEMORY_LENGTH, Scratch(layout.TEST_MEMORY_LENGTH))
        self.interrupts.pic.elcr.write(0, 2, 1 << layout.SCI_IRQ)  # as firmware leaves it: the SCI is level-triggered
        self.mmio.map(layout.IOAPIC_BASE, layout.PAGE_BYTES, self.interrupts.ioapic)
