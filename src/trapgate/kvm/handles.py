"""/dev/kvm, a VM and a vCPU as objects: one typed method an ioctl, errno as an error that names call and remedy."""

import ctypes
import errno
import mmap
import os
from collections.abc import Iterable
from typing import TypeVar

from trapgate.kvm import abi, abi_chips

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)
_libc.ioctl.restype = ctypes.c_int

S = TypeVar("S", bound=ctypes.Structure)

SOFT = "use --engine soft, which needs no /dev/kvm"
OPENING = {
    errno.ENOENT: f"the host has none: load the module kvm_intel or kvm_amd, or {SOFT}",
    errno.ENODEV: f"the host's CPU or firmware offers no virtualisation: switch it on there, or {SOFT}",
    errno.EACCES: "join the group kvm (sudo usermod -aG kvm $USER, then log in again)",
    errno.EPERM: f"this container or sandbox denies it: hand the device in, or {SOFT}",
}
REMEDIES = {
    errno.ENOMEM: "the host is short of memory: give the guest less with --memory",
    errno.EBUSY: "another hypervisor holds the CPU: stop it",
    errno.EMFILE: "too many open files: raise the limit (ulimit -n)",
    errno.ENOTTY: f"the host's kernel is too old for it: {SOFT}",
}


class KvmError(OSError):
    """A call to KVM failed. The text names the call, the reason and, where one is known, the remedy."""

    def __init__(self, call: str, number: int, remedy: str | None = None) -> None:
        remedy = remedy or REMEDIES.get(number)
        text = call + (f": {os.strerror(number)}" if number else "") + (f"; {remedy}" if remedy else "")
        super().__init__(number, text)
        self.call = call

    def __str__(self) -> str:
        return str(self.strerror)


class _Handle:
    """A file descriptor that takes ioctls."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def close(self) -> None:
        """Give the descriptor back; a second call does nothing."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            self.close()

    def _try(self, number: int, argument: int | None = None) -> int:
        """The result of an ioctl, or -errno."""
        done: int = _libc.ioctl(self.descriptor, number, argument)
        return done if done >= 0 else -ctypes.get_errno()

    def _call(self, name: str, number: int, argument: int | None = None) -> int:
        done = self._try(number, argument)
        if done < 0:
            raise KvmError(f"KVM_{name}", -done)
        return done

    def _with(self, name: str, number: int, structure: S) -> S:
        self._call(name, number, ctypes.addressof(structure))
        return structure


class System(_Handle):
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


class Vm(_Handle):
    """A virtual machine: memory slots and vCPUs."""

    def __init__(self, descriptor: int, system: System) -> None:
        super().__init__(descriptor)
        self.system = system

    def set_memory(self, slot: int, guest: int, size: int, host: int) -> None:
        """Let `size` bytes at a host address be guest-physical memory; size 0 removes the slot."""
        region = abi.MemoryRegion(slot, 0, guest, size, host)
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

    def create_vcpu(self, identifier: int) -> "VcpuFd":
        """A vCPU in its reset state."""
        return VcpuFd(self._call("CREATE_VCPU", abi.CREATE_VCPU, identifier), self.system.run_size())


class VcpuFd(_Handle):
    """A virtual CPU: `shared` is the structure that KVM_RUN answers in."""

    def __init__(self, descriptor: int, run_size: int) -> None:
        super().__init__(descriptor)
        try:
            self.map = mmap.mmap(descriptor, run_size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        except OSError as error:
            self.close()
            raise KvmError("mmap of a vCPU", error.errno or 0) from error
        self.shared = abi.Run.from_buffer(self.map)  # keeps the mapping for as long as anybody holds it
        self._base = ctypes.addressof(self.shared)

    def run(self) -> bool:
        """KVM_RUN; False when a signal or `immediate_exit` ended it before anything happened."""
        done = self._try(abi.RUN)
        if done in (-errno.EINTR, -errno.EAGAIN):
            return False
        if done < 0:
            raise KvmError("KVM_RUN", -done)
        return True

    def io_bytes(self, offset: int, size: int) -> bytes:
        """Port data that the guest wrote, at an offset from the shared structure."""
        return self.map[offset : offset + size]

    def put_io_bytes(self, offset: int, data: bytes) -> None:
        """Port data for the guest to read."""
        self.map[offset : offset + len(data)] = data

    def regs(self) -> abi.Regs:
        """General registers, RIP, RFLAGS."""
        return self._with("GET_REGS", abi.GET_REGS, abi.Regs())

    def set_regs(self, value: abi.Regs) -> None:
        """Change them. An exception that waits is dropped by this call."""
        self._with("SET_REGS", abi.SET_REGS, value)

    def sregs(self) -> abi.Sregs:
        """Segments, tables, control registers, EFER."""
        return self._with("GET_SREGS", abi.GET_SREGS, abi.Sregs())

    def set_sregs(self, value: abi.Sregs) -> None:
        """Change them; KvmError (EINVAL) for what the CPU forbids."""
        self._with("SET_SREGS", abi.SET_SREGS, value)

    def fpu(self) -> abi.Fpu:
        """x87 and SSE."""
        return self._with("GET_FPU", abi.GET_FPU, abi.Fpu())

    def set_fpu(self, value: abi.Fpu) -> None:
        """Change them."""
        self._with("SET_FPU", abi.SET_FPU, value)

    def xsave(self) -> abi.Xsave:
        """The guest's whole XSAVE area."""
        return self._with("GET_XSAVE", abi.GET_XSAVE, abi.Xsave())

    def set_xsave(self, value: abi.Xsave) -> None:
        """Change it."""
        self._with("SET_XSAVE", abi.SET_XSAVE, value)

    def xcr0(self) -> int:
        """XCR0; 1 where the host has no XSAVE."""
        room = abi.Xcrs()
        if self._try(abi.GET_XCRS, ctypes.addressof(room)) < 0:
            return 1
        return next((int(one.value) for one in room.xcrs[: room.nr_xcrs] if one.xcr == 0), 1)

    def set_xcr0(self, value: int) -> None:
        """Change XCR0."""
        room = abi.Xcrs(nr_xcrs=1)
        room.xcrs[0].value = value
        self._with("SET_XCRS", abi.SET_XCRS, room)

    def debug_registers(self) -> abi.DebugRegs:
        """The guest's own DR0-DR3, DR6, DR7."""
        return self._with("GET_DEBUGREGS", abi.GET_DEBUGREGS, abi.DebugRegs())

    def set_debug_registers(self, value: abi.DebugRegs) -> None:
        """Change them."""
        self._with("SET_DEBUGREGS", abi.SET_DEBUGREGS, value)

    def events(self) -> abi.VcpuEvents:
        """Exceptions, interrupts and NMIs in flight."""
        return self._with("GET_VCPU_EVENTS", abi.GET_VCPU_EVENTS, abi.VcpuEvents())

    def set_events(self, value: abi.VcpuEvents) -> None:
        """Change them: how an exception is injected."""
        self._with("SET_VCPU_EVENTS", abi.SET_VCPU_EVENTS, value)

    def set_guest_debug(self, control: int, addresses: tuple[int, int, int, int] = (0, 0, 0, 0), dr7: int = 0) -> None:
        """Which exceptions come to us, and what the real debug registers hold while DEBUG_HARDWARE is on."""
        request = abi.GuestDebug(control)
        request.debugreg[:4] = addresses
        request.debugreg[7] = dr7
        self._with("SET_GUEST_DEBUG", abi.SET_GUEST_DEBUG, request)

    def interrupt(self, vector: int) -> None:
        """Queue an external interrupt (no interrupt controller in the kernel)."""
        number = ctypes.c_uint32(vector)
        self._call("INTERRUPT", abi.INTERRUPT, ctypes.addressof(number))

    def nmi(self) -> None:
        """Queue a non-maskable interrupt."""
        self._call("NMI", abi.NMI)

    def lapic(self) -> abi_chips.LapicState:
        """The registers of the local APIC in the kernel."""
        return self._with("GET_LAPIC", abi_chips.GET_LAPIC, abi_chips.LapicState())

    def set_lapic(self, value: abi_chips.LapicState) -> None:
        """Change them."""
        self._with("SET_LAPIC", abi_chips.SET_LAPIC, value)

    def halted(self) -> bool:
        """Whether HLT waits in the kernel (only there with the kernel's local APIC)."""
        return bool(self._with("GET_MP_STATE", abi_chips.GET_MP_STATE, abi_chips.MpState()).mp_state == abi_chips.MP_HALTED)

    def halt(self) -> None:
        """Let the vCPU wait as HLT does."""
        self._with("SET_MP_STATE", abi_chips.SET_MP_STATE, abi_chips.MpState(abi_chips.MP_HALTED))

    def msr(self, index: int) -> int | None:
        """An MSR; None when KVM has none of this number."""
        room = abi.Msrs(1, 0, abi.MsrEntry(index))
        return int(room.entry.data) if self._try(abi.GET_MSRS, ctypes.addressof(room)) == 1 else None

    def set_msr(self, index: int, value: int) -> bool:
        """Change an MSR; whether KVM took it."""
        room = abi.Msrs(1, 0, abi.MsrEntry(index, 0, value))
        return self._try(abi.SET_MSRS, ctypes.addressof(room)) == 1

    def set_cpuid(self, entries: list[abi.CpuidEntry]) -> None:
        """What CPUID answers from now on; before the first run."""
        room = abi.Cpuid(nent=len(entries))
        room.entries[: len(entries)] = entries
        self._with("SET_CPUID2", abi.SET_CPUID2, room)

    def cpuid(self) -> list[abi.CpuidEntry]:
        """What CPUID answers, which need not be all that `set_cpuid` asked for."""
        room = abi.Cpuid(nent=abi.MAX_CPUID)
        self._with("GET_CPUID2", abi.GET_CPUID2, room)
        return list(room.entries[: room.nent])

    def set_signal_mask(self, blocked: bytes) -> None:
        """The signals (bit n - 1 = signal n) that are blocked while the guest runs."""
        mask = abi.SignalMask(len(blocked))
        mask.sigset[: len(blocked)] = blocked
        self._with("SET_SIGNAL_MASK", abi.SET_SIGNAL_MASK, mask)

    def tsc_khz(self) -> int:
        """The guest's TSC rate; 0 when the host cannot say."""
        return max(self._try(abi.GET_TSC_KHZ), 0)

    def set_tsc_khz(self, rate: int) -> bool:
        """Ask for a TSC rate; whether the host can scale it."""
        return self._try(abi.SET_TSC_KHZ, rate) >= 0

    def clock_paused(self) -> bool:
        """KVM_KVMCLOCK_CTRL: the guest's watchdogs should not wonder at a stop. False where the guest uses no such clock."""
        return self._try(abi.KVMCLOCK_CTRL) == 0
