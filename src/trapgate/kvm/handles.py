"""Holds /dev/kvm and a VM as objects: one typed method an ioctl. A vCPU's are in `vcpu_handle`."""

import errno
import os
from collections.abc import Iterable

from trapgate.kvm import abi, abi_chips
from trapgate.kvm.ioctl import REMEDIES, SOFT, Handle, KvmError
from trapgate.kvm.vcpu_handle import VcpuFd

OPENING = {
    errno.ENOENT: f"the host has none: load the module kvm_intel or kvm_amd, or {SOFT}",
    errno.ENODEV: f"the host's CPU or firmware offers no virtualisation: switch it on there, or {SOFT}",
    errno.EACCES: "join the group kvm (sudo usermod -aG kvm $USER, then log in again)",
    errno.EPERM: f"this container or sandbox denies it: hand the device in, or {SOFT}",
}


class System(Handle):
    """/dev/kvm itself."""

    def __init__(self, path: str = "/dev/kvm") -> None:
        try:
            super().__init__(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            raise KvmError(f"open {path}", error.errno or 0, OPENING.get(error.errno or 0)) from error
        try:
            version = self._call("GET_API_VERSION", abi.GET_API_VERSION)
            if version != abi.API_VERSION:
                raise KvmError(f"KVM_GET_API_VERSION gives {version}, not {abi.API_VERSION}", 0, REMEDIES[errno.ENOTTY])
        except KvmError:
            self.close()
            raise

    def capability(self, number: int) -> int:
        """KVM_CHECK_EXTENSION: 0 when absent, else what the capability says of itself."""
        return max(self._try(abi.CHECK_EXTENSION, number), 0)

    def run_size(self) -> int:
        """Bytes of a vCPU's shared pages."""
        return self._call("GET_VCPU_MMAP_SIZE", abi.GET_VCPU_MMAP_SIZE)

    def supported_cpuid(self) -> list[abi.CpuidEntry]:
        """Every CPUID leaf that this host can give a guest."""
        room = abi.Cpuid(nent=abi.MAX_CPUID)
        self._with("GET_SUPPORTED_CPUID", abi.GET_SUPPORTED_CPUID, room)
        return list(room.entries[: room.nent])

    def create_vm(self) -> "Vm":
        """A VM without memory."""
        return Vm(self._call("CREATE_VM", abi.CREATE_VM), self)


class Vm(Handle):
    """A virtual machine: memory slots and vCPUs."""

    def __init__(self, descriptor: int, system: System) -> None:
        super().__init__(descriptor)
        self.system = system

    def set_memory(self, slot: int, guest: int, size: int, host: int, read_only: bool = False) -> None:
        """Let `size` bytes at a host address be guest-physical memory; size 0 removes the slot. Writes to read-only ones exit."""
        region = abi.MemoryRegion(slot, abi.MEMORY_READ_ONLY if read_only else 0, guest, size, host)
        self._with("SET_USER_MEMORY_REGION", abi.SET_USER_MEMORY_REGION, region)

    def set_tss_address(self, address: int) -> None:
        """Three guest-physical pages that Intel CPUs without unrestricted guests need; they must not be RAM."""
        self._call("SET_TSS_ADDR", abi.SET_TSS_ADDR, address)

    def enable(self, capability: int, argument: int) -> None:
        """KVM_ENABLE_CAP."""
        request = abi.EnableCap(capability)
        request.args[0] = argument
        self._with("ENABLE_CAP", abi.ENABLE_CAP, request)

    # Interrupt controllers and timer of the kernel's own

    def create_irqchip(self) -> None:
        """Two 8259s, an I/O APIC, and a local APIC for each vCPU made from now on."""
        self._call("CREATE_IRQCHIP", abi_chips.CREATE_IRQCHIP)

    def create_pit(self) -> None:
        """An 8254 at ports 40h-43h, port 61h with it, on GSI 0."""
        self._with("CREATE_PIT2", abi_chips.CREATE_PIT2, abi_chips.PitConfig(abi_chips.PIT_SPEAKER))

    def set_routes(self, routes: Iterable[tuple[int, int, int]]) -> None:
        """Which pins a line leads to: (GSI, chip, pin) each."""
        table = abi_chips.Routing()
        for gsi, chip, pin in routes:
            table.entries[table.nr] = abi_chips.Route(gsi, abi_chips.TO_IRQCHIP, 0, 0, chip, pin)
            table.nr += 1
        self._with("SET_GSI_ROUTING", abi_chips.SET_GSI_ROUTING, table)

    def irq_line(self, gsi: int, level: bool) -> None:
        """Drive a line."""
        self._with("IRQ_LINE", abi_chips.IRQ_LINE, abi_chips.IrqLevel(gsi, level))

    def irqchip(self, chip: int) -> abi_chips.Irqchip:
        """The state of an 8259 (PIC_MASTER, PIC_SLAVE)."""
        return self._with("GET_IRQCHIP", abi_chips.GET_IRQCHIP, abi_chips.Irqchip(chip))

    def set_irqchip(self, value: abi_chips.Irqchip) -> None:
        """Change it."""
        self._with("SET_IRQCHIP", abi_chips.SET_IRQCHIP, value)

    def ioapic(self) -> abi_chips.IoApicChip:
        """The state of the I/O APIC."""
        return self._with("GET_IRQCHIP", abi_chips.GET_IRQCHIP, abi_chips.IoApicChip(abi_chips.IOAPIC))

    def set_ioapic(self, value: abi_chips.IoApicChip) -> None:
        """Change it: lines that are asserted send their messages again."""
        self._with("SET_IRQCHIP", abi_chips.SET_IRQCHIP, value)

    def pit(self) -> abi_chips.PitState:
        """The state of the 8254."""
        return self._with("GET_PIT2", abi_chips.GET_PIT2, abi_chips.PitState())

    def set_pit(self, value: abi_chips.PitState) -> None:
        """Change it: every channel starts its count anew, and ticks that were not taken are forgotten."""
        self._with("SET_PIT2", abi_chips.SET_PIT2, value)

    def clock(self) -> abi_chips.ClockData:
        """What the guest's kvmclock shows."""
        return self._with("GET_CLOCK", abi_chips.GET_CLOCK, abi_chips.ClockData())

    def set_clock(self, moment: int) -> None:
        """Let it show that many ns from now on."""
        self._with("SET_CLOCK", abi_chips.SET_CLOCK, abi_chips.ClockData(moment))

    def create_vcpu(self, identifier: int) -> VcpuFd:
        """A vCPU in its reset state."""
        return VcpuFd(self._call("CREATE_VCPU", abi.CREATE_VCPU, identifier), self.system.run_size())
