"""Holds a virtual CPU of KVM: one typed method an ioctl."""

import ctypes
import errno
from fcntl import ioctl
from struct import Struct

from trapgate.arch.debugregs import DR7_ENABLES
from trapgate.hostcall import HostError
from trapgate.kvm import abi, abi_chips
from trapgate.kvm.ioctl import Handle, KvmError, once
from trapgate.mapping import Mapping

_GUEST_DEBUG = Struct("<I4x4Q24xQ")  # abi.GuestDebug: control, DR0-DR3, DR7; to make a structure costs more than the call
_MSR = Struct("<I4xI4xQ")  # abi.Msrs: how many, number, value
_DR7 = abi.DebugRegs.dr7.offset  # of its low byte, which has all the bits of DR7_ENABLES


class VcpuFd(Handle):
    """A virtual CPU: `shared` is the structure that KVM_RUN answers in, `page` its bytes and the port data behind it.

    `words` is the same by 32 bits. To read an item of those costs a third of a field of the structure.
    """

    def __init__(self, descriptor: int, run_size: int) -> None:
        super().__init__(descriptor)
        try:
            self.page = Mapping(run_size, "a vCPU", descriptor).view
        except HostError:
            self.close()
            raise
        self._leaves = 0  # that CPUID was told
        self.shared = abi.Run.from_buffer(self.page)  # keeps the mapping for as long as anybody holds it
        self.words = self.page.cast("I")
        self._debug, self._guest_debug, self._msr = (
            bytearray(ctypes.sizeof(one)) for one in (abi.DebugRegs, abi.GuestDebug, abi.Msrs)
        )

    def run(self) -> bool:
        """KVM_RUN; False when a signal or `immediate_exit` ended it before anything happened."""
        done = once(self.descriptor, abi.RUN)
        if done < 0 and -done not in (errno.EINTR, errno.EAGAIN):
            raise KvmError("KVM_RUN", -done)
        return done >= 0

    def io_bytes(self, offset: int, size: int) -> bytes:
        """Port data that the guest wrote, at an offset from the shared structure."""
        return bytes(self.page[offset : offset + size])

    def put_io_bytes(self, offset: int, data: bytes) -> None:
        """Port data for the guest to read."""
        self.page[offset : offset + len(data)] = data

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
        if self._try(abi.GET_XCRS, room) < 0:
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

    def has_breakpoints(self) -> bool:
        """Whether the guest's own DR7 enables any: what is asked at every IN and OUT."""
        ioctl(self.descriptor, abi.GET_DEBUGREGS, self._debug)
        return bool(self._debug[_DR7] & DR7_ENABLES)

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
        _GUEST_DEBUG.pack_into(self._guest_debug, 0, control, *addresses, dr7)
        self._call("SET_GUEST_DEBUG", abi.SET_GUEST_DEBUG, self._guest_debug)

    def interrupt(self, vector: int) -> None:
        """Queue an external interrupt (no interrupt controller in the kernel)."""
        self._call("INTERRUPT", abi.INTERRUPT, bytearray(vector.to_bytes(4, "little")))

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

    def halt(self, halted: bool = True) -> None:
        """Let the vCPU wait as HLT does, or no longer."""
        state = abi_chips.MP_HALTED if halted else abi_chips.MP_RUNNABLE
        self._with("SET_MP_STATE", abi_chips.SET_MP_STATE, abi_chips.MpState(state))

    def msr(self, index: int) -> int | None:
        """An MSR; None when KVM has none of this number."""
        _MSR.pack_into(self._msr, 0, 1, index, 0)
        return int(_MSR.unpack_from(self._msr)[2]) if self._try(abi.GET_MSRS, self._msr) == 1 else None

    def set_msr(self, index: int, value: int) -> bool:
        """Change an MSR; whether KVM took it."""
        _MSR.pack_into(self._msr, 0, 1, index, value)
        return self._try(abi.SET_MSRS, self._msr) == 1

    def set_cpuid(self, entries: list[abi.CpuidEntry]) -> None:
        """What CPUID answers from now on; before the first run."""
        room = abi.Cpuid(nent=len(entries))
        room.entries[: len(entries)] = entries
        self._with("SET_CPUID2", abi.SET_CPUID2, room)
        self._leaves = len(entries)

    def cpuid(self) -> list[abi.CpuidEntry]:
        """What CPUID answers, which need not be all that `set_cpuid` asked for.

        KVM keeps as many leaves as it was told; before Linux 6.3 it does not say how many of the room it has filled.
        """
        room = abi.Cpuid(nent=self._leaves)
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
        return self._ask(abi.KVMCLOCK_CTRL) == 0
