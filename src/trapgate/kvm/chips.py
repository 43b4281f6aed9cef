"""Puts interrupt controllers and timer into the kernel: the board's chips, on the same lines, served without leaving the guest."""

from collections.abc import Iterator

from trapgate.arch.layout import GSI_COUNT, PIT_GSI, PIT_IRQ, SCI_IRQ
from trapgate.arch.models import CpuModel
from trapgate.arch.msrs import MsrError
from trapgate.kvm import abi, abi_chips
from trapgate.kvm.handles import System, Vm
from trapgate.kvm.registers import Registers
from trapgate.kvm.vcpu_handle import VcpuFd

NEEDED = (
    abi_chips.CAP_IRQCHIP, abi_chips.CAP_IRQ_ROUTING, abi_chips.CAP_PIT2, abi_chips.CAP_PIT_STATE2, abi_chips.CAP_MP_STATE,
)  # fmt: skip
CASCADE = 2  # the master's input that the slave is at
PPR, SVR, IRR, LVT_LINT1 = 0xA0, 0xF0, 0x200, 0x360  # in the page of the local APIC
NMI_MODE = 4 << 8
NS = 1_000_000_000


def offered(system: System) -> bool:
    """Whether the host has them all, and can keep interrupts out of a single step (KVM_GUESTDBG_BLOCKIRQ)."""
    return all(map(system.capability, NEEDED)) and bool(system.capability(abi.CAP_SET_GUEST_DEBUG2) & abi.DEBUG_BLOCK_IRQ)


def routes() -> Iterator[tuple[int, int, int]]:
    """(GSI, chip, pin) as `devices.interrupts` wires our own."""
    for gsi in range(GSI_COUNT):
        if gsi < 16 and gsi != CASCADE:
            yield gsi, abi_chips.PIC_SLAVE if gsi & 8 else abi_chips.PIC_MASTER, gsi & 7
        yield gsi, abi_chips.IOAPIC, PIT_GSI if gsi == PIT_IRQ else gsi


class Chips:
    """Made before the vCPU, for its local APIC comes with it. `timer_known`: the APIC timer runs at the model's rate."""

    def __init__(self, system: System, vm: Vm, model: CpuModel) -> None:
        self.vm = vm
        self.lines = 0
        """The levels of the lines that devices drive, by GSI."""
        vm.create_irqchip()
        vm.create_pit()
        vm.set_routes(routes())
        slave = vm.irqchip(abi_chips.PIC_SLAVE)
        slave.pic.elcr |= 1 << SCI_IRQ - 8  # as firmware leaves it: level-triggered
        vm.set_irqchip(slave)
        self.timer_known = bool(system.capability(abi_chips.CAP_APIC_BUS_CYCLE))
        self.timer_hz = model.crystal_hz if self.timer_known else NS
        """The rate of the APIC timer before its divider; where nobody sets it, the kernel's bus cycles are a nanosecond each."""
        if self.timer_known:
            vm.enable(abi_chips.CAP_APIC_BUS_CYCLE, NS // model.crystal_hz)

    def drive(self, gsi: int, level: bool) -> None:
        """A device drives its line."""
        self.lines = self.lines & ~(1 << gsi) | level << gsi
        self.vm.irq_line(gsi, level)

    def request(self, vector: int, fd: VcpuFd) -> None:
        """Let the local APIC, which must be enabled, hold an interrupt; for probes, which have no device."""
        page = fd.lapic()
        at = IRR + 16 * (vector // 32)
        word = int.from_bytes(bytes(page.regs[at : at + 4]), "little") | 1 << vector % 32
        page.regs[at : at + 4] = word.to_bytes(4, "little")
        page.regs[SVR + 1] |= 1  # software enable
        fd.set_lapic(page)

    def forget_ticks(self) -> None:
        """The guest was stopped for long: a PIT that ticks on shall not make up for all of it at once."""
        state = self.vm.pit()
        if state.channels[0].mode in (2, 3):
            self.vm.set_pit(state)

    def waiting(self, fd: VcpuFd) -> list[int]:
        """Vectors of which one is delivered next: what the 8259s ask for, and the highest that the local APIC holds."""
        found: list[int] = []
        for chip in (abi_chips.PIC_MASTER, abi_chips.PIC_SLAVE):
            pic = self.vm.irqchip(chip).pic
            asked = pic.irr & ~pic.imr & ~(1 << CASCADE if chip == abi_chips.PIC_MASTER else 0)
            asked &= (pic.isr & -pic.isr or 0x100) - 1  # what is in service keeps its equals and lessers out
            found += [pic.irq_base + n for n in range(8) if asked >> n & 1]
        page = bytes(fd.lapic().regs)
        requests = sum(int.from_bytes(page[IRR + 16 * n : IRR + 16 * n + 4], "little") << 32 * n for n in range(8))
        highest = requests.bit_length() - 1
        return [*found, highest] if highest >> 4 > page[PPR] >> 4 else found


class KernelApic:
    """CR8 and MSRs of the local APIC in the kernel, as `core.LocalApic` has them."""

    def __init__(self, fd: VcpuFd, registers: Registers) -> None:
        self._fd, self._registers = fd, registers
        page = fd.lapic()
        # As firmware leaves it; LINT0 is ExtINT from reset on.
        page.regs[LVT_LINT1 : LVT_LINT1 + 4] = NMI_MODE.to_bytes(4, "little")
        fd.set_lapic(page)

    @property
    def cr8(self) -> int:
        """TPR[7:4]."""
        return int(self._registers.system.cr8)

    @cr8.setter
    def cr8(self, value: int) -> None:
        self._registers.system.cr8 = value & 0xF
        self._registers.store_system()

    def read_msr(self, index: int) -> int:
        """IA32_APIC_BASE, 800h-8FFh, IA32_TSC_DEADLINE; MsrError for what is not there."""
        value = self._fd.msr(index)
        if value is None:
            raise MsrError(f"MSR {index:#x}: the local APIC has none", missing=True)
        return value

    def write_msr(self, index: int, value: int) -> None:
        """The same; MsrError for a value it refuses, too."""
        if not self._fd.set_msr(index, value):
            raise MsrError(f"MSR {index:#x} cannot hold {value:#x}")
