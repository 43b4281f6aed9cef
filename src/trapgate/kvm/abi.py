"""Declares the interface of /dev/kvm: ioctl numbers, structures, flags, x86-64 only (Linux include/uapi/linux/kvm.h, asm/kvm.h).

Every structure's size is asserted: the kernel checks it too, for it is part of the ioctl's number.
"""

import ctypes
from ctypes import Structure, c_uint8, c_uint16, c_uint32, c_uint64

KVMIO = 0xAE
API_VERSION = 12


def _ioc(direction: int, number: int, size: int) -> int:
    return direction << 30 | size << 16 | KVMIO << 8 | number


def io(number: int) -> int:
    """An ioctl without a structure."""
    return _ioc(0, number, 0)


def iow(number: int, structure: type[Structure] | int) -> int:
    """An ioctl that the kernel reads a structure from; its size may be given instead."""
    return _ioc(1, number, structure if isinstance(structure, int) else ctypes.sizeof(structure))


def ior(number: int, structure: type[Structure] | int) -> int:
    """An ioctl that the kernel writes a structure to."""
    return _ioc(2, number, structure if isinstance(structure, int) else ctypes.sizeof(structure))


def iowr(number: int, structure: type[Structure] | int) -> int:
    """An ioctl that the kernel reads and writes a structure of."""
    return _ioc(3, number, structure if isinstance(structure, int) else ctypes.sizeof(structure))


MEMORY_READ_ONLY = 1 << 1  # flag of a slot


class MemoryRegion(Structure):
    """kvm_userspace_memory_region: a slot of guest-physical memory."""

    _fields_ = (
        ("slot", c_uint32), ("flags", c_uint32), ("guest_phys_addr", c_uint64), ("memory_size", c_uint64),
        ("userspace_addr", c_uint64),
    )  # fmt: skip


GENERAL = (
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip", "rflags",
)  # fmt: skip


class Regs(Structure):
    """kvm_regs."""

    _fields_ = tuple((name, c_uint64) for name in GENERAL)


class Segment(Structure):
    """kvm_segment: a segment register with its hidden part."""

    _fields_ = (
        ("base", c_uint64), ("limit", c_uint32), ("selector", c_uint16), ("type", c_uint8), ("present", c_uint8),
        ("dpl", c_uint8),
        ("db", c_uint8), ("s", c_uint8), ("l", c_uint8), ("g", c_uint8), ("avl", c_uint8), ("unusable", c_uint8),
        ("padding", c_uint8),
    )  # fmt: skip


class Table(Structure):
    """kvm_dtable: GDTR or IDTR."""

    _fields_ = (("base", c_uint64), ("limit", c_uint16), ("padding", c_uint16 * 3))


SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")


class Sregs(Structure):
    """kvm_sregs."""

    _fields_ = (
        *((name, Segment) for name in SEGMENTS), ("gdt", Table), ("idt", Table),
        *((name, c_uint64) for name in ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base")),
        ("interrupt_bitmap", c_uint64 * 4),
    )  # fmt: skip


class Fpu(Structure):
    """kvm_fpu."""

    _fields_ = (
        ("fpr", c_uint8 * 16 * 8), ("fcw", c_uint16), ("fsw", c_uint16), ("ftwx", c_uint8), ("pad1", c_uint8),
        ("last_opcode", c_uint16),
        ("last_ip", c_uint64), ("last_dp", c_uint64), ("xmm", c_uint8 * 16 * 16), ("mxcsr", c_uint32),
        ("pad2", c_uint32),
    )  # fmt: skip


class Xsave(Structure):
    """kvm_xsave: the guest's XSAVE area in standard form."""

    _fields_ = (("region", c_uint32 * 1024),)


class Xcr(Structure):
    """kvm_xcr."""

    _fields_ = (("xcr", c_uint32), ("reserved", c_uint32), ("value", c_uint64))


class Xcrs(Structure):
    """kvm_xcrs."""

    _fields_ = (("nr_xcrs", c_uint32), ("flags", c_uint32), ("xcrs", Xcr * 16), ("padding", c_uint64 * 16))


class DebugRegs(Structure):
    """kvm_debugregs: the guest's own, whatever KVM_SET_GUEST_DEBUG has put into the real ones."""

    _fields_ = (("db", c_uint64 * 4), ("dr6", c_uint64), ("dr7", c_uint64), ("flags", c_uint64), ("reserved", c_uint64 * 9))


class VcpuEvents(Structure):
    """kvm_vcpu_events: exceptions, interrupts and NMIs in flight."""

    _fields_ = (
        ("exception_injected", c_uint8), ("exception_nr", c_uint8), ("exception_has_error_code", c_uint8),
        ("exception_pending", c_uint8),
        ("exception_error_code", c_uint32), ("interrupt_injected", c_uint8), ("interrupt_nr", c_uint8),
        ("interrupt_soft", c_uint8),
        ("interrupt_shadow", c_uint8), ("nmi_injected", c_uint8), ("nmi_pending", c_uint8), ("nmi_masked", c_uint8),
        ("nmi_pad", c_uint8),
        ("sipi_vector", c_uint32), ("flags", c_uint32), ("smi", c_uint8 * 4), ("triple_fault_pending", c_uint8),
        ("reserved", c_uint8 * 26),
        ("exception_has_payload", c_uint8), ("exception_payload", c_uint64),
    )  # fmt: skip


class GuestDebug(Structure):
    """kvm_guest_debug."""

    _fields_ = (("control", c_uint32), ("pad", c_uint32), ("debugreg", c_uint64 * 8))


class EnableCap(Structure):
    """kvm_enable_cap."""

    _fields_ = (("cap", c_uint32), ("flags", c_uint32), ("args", c_uint64 * 4), ("pad", c_uint8 * 64))


class CpuidEntry(Structure):
    """kvm_cpuid_entry2."""

    _fields_ = (

        *((name, c_uint32) for name in ("function", "index", "flags", "eax", "ebx", "ecx", "edx")), ("padding", c_uint32 * 3),
    )  # fmt: skip


CPUID_SIGNIFICANT_INDEX = 1
MAX_CPUID = 256


class Cpuid(Structure):
    """kvm_cpuid2 with room for `MAX_CPUID` entries."""

    _fields_ = (("nent", c_uint32), ("padding", c_uint32), ("entries", CpuidEntry * MAX_CPUID))


class MsrEntry(Structure):
    """kvm_msr_entry."""

    _fields_ = (("index", c_uint32), ("reserved", c_uint32), ("data", c_uint64))


class Msrs(Structure):
    """kvm_msrs with room for one."""

    _fields_ = (("nmsrs", c_uint32), ("pad", c_uint32), ("entry", MsrEntry))


class SignalMask(Structure):
    """kvm_signal_mask with the kernel's 8 bytes of signal set."""

    _fields_ = (("len", c_uint32), ("sigset", c_uint8 * 8))


class ExitIo(Structure):
    """kvm_run.io: `count` items of `size` bytes lie at `data_offset` from the start of kvm_run."""

    _fields_ = (("direction", c_uint8), ("size", c_uint8), ("port", c_uint16), ("count", c_uint32), ("data_offset", c_uint64))


class ExitMmio(Structure):
    """kvm_run.mmio."""

    _fields_ = (("phys_addr", c_uint64), ("data", c_uint8 * 8), ("len", c_uint32), ("is_write", c_uint8))


class ExitDebug(Structure):
    """kvm_run.debug.arch."""

    _fields_ = (("exception", c_uint32), ("pad", c_uint32), ("pc", c_uint64), ("dr6", c_uint64), ("dr7", c_uint64))


class ExitInternal(Structure):
    """kvm_run.internal."""

    _fields_ = (("suberror", c_uint32), ("ndata", c_uint32), ("data", c_uint64 * 16))


class ExitUnion(ctypes.Union):
    """What belongs to `exit_reason`."""

    _fields_ = (
        ("io", ExitIo), ("mmio", ExitMmio), ("debug", ExitDebug), ("internal", ExitInternal),
        ("hardware_reason", c_uint64), ("padding", c_uint8 * 256),
    )  # fmt: skip


class Run(Structure):
    """kvm_run, the page shared with the kernel, as far as we use it."""

    _fields_ = (
        ("request_interrupt_window", c_uint8), ("immediate_exit", c_uint8), ("padding1", c_uint8 * 6),
        ("exit_reason", c_uint32),
        ("ready_for_interrupt_injection", c_uint8), ("if_flag", c_uint8), ("flags", c_uint16), ("cr8", c_uint64),
        ("apic_base", c_uint64),
        ("exit", ExitUnion), ("kvm_valid_regs", c_uint64), ("kvm_dirty_regs", c_uint64),
    )  # fmt: skip


SIZES: dict[type[Structure] | type[ctypes.Union], int] = {
    MemoryRegion: 32, Regs: 144, Segment: 24, Table: 16, Sregs: 312, Fpu: 416, Xsave: 4096, Xcrs: 392,
    DebugRegs: 128, VcpuEvents: 64,
    GuestDebug: 72, EnableCap: 104, CpuidEntry: 40, Cpuid: 8 + 40 * MAX_CPUID, MsrEntry: 16,
    Msrs: 24, SignalMask: 12,
    ExitIo: 16, ExitDebug: 32, ExitUnion: 256, Run: 304,
}  # fmt: skip
assert all(ctypes.sizeof(kind) == size for kind, size in SIZES.items()), "the host's C ABI is not that of x86-64 Linux"

# Of /dev/kvm
GET_API_VERSION, CREATE_VM, CHECK_EXTENSION, GET_VCPU_MMAP_SIZE = io(0x00), io(0x01), io(0x03), io(0x04)
GET_SUPPORTED_CPUID = iowr(0x05, 8)
# Of a VM
CREATE_VCPU, SET_TSS_ADDR = io(0x41), io(0x47)
SET_USER_MEMORY_REGION = iow(0x46, MemoryRegion)
ENABLE_CAP = iow(0xA3, EnableCap)
# Of a vCPU
RUN, NMI, KVMCLOCK_CTRL, GET_TSC_KHZ, SET_TSC_KHZ = io(0x80), io(0x9A), io(0xAD), io(0xA3), io(0xA2)
GET_REGS, SET_REGS = ior(0x81, Regs), iow(0x82, Regs)
GET_SREGS, SET_SREGS = ior(0x83, Sregs), iow(0x84, Sregs)
INTERRUPT = iow(0x86, 4)
GET_MSRS, SET_MSRS = iowr(0x88, 8), iow(0x89, 8)
SET_SIGNAL_MASK = iow(0x8B, 4)
GET_FPU, SET_FPU = ior(0x8C, Fpu), iow(0x8D, Fpu)
SET_CPUID2, GET_CPUID2 = iow(0x90, 8), iowr(0x91, 8)
SET_GUEST_DEBUG = iow(0x9B, GuestDebug)
GET_VCPU_EVENTS, SET_VCPU_EVENTS = ior(0x9F, VcpuEvents), iow(0xA0, VcpuEvents)
GET_DEBUGREGS, SET_DEBUGREGS = ior(0xA1, DebugRegs), iow(0xA2, DebugRegs)
GET_XSAVE, SET_XSAVE = ior(0xA4, Xsave), iow(0xA5, Xsave)
GET_XCRS, SET_XCRS = ior(0xA6, Xcrs), iow(0xA7, Xcrs)

# Capabilities
CAP_USER_MEMORY, CAP_SET_TSS_ADDR, CAP_EXT_CPUID, CAP_SET_GUEST_DEBUG = 3, 4, 7, 23
CAP_VCPU_EVENTS, CAP_DEBUGREGS, CAP_XSAVE, CAP_XCRS, CAP_TSC_CONTROL, CAP_KVMCLOCK_CTRL = 41, 50, 55, 56, 60, 76
CAP_READONLY_MEM = 81
CAP_IMMEDIATE_EXIT, CAP_EXCEPTION_PAYLOAD, CAP_BUS_LOCK_EXIT, CAP_SET_GUEST_DEBUG2 = 136, 164, 193, 195
BUS_LOCK_DETECTION_EXIT = 2  # of CAP_BUS_LOCK_EXIT

# KVM_SET_GUEST_DEBUG
DEBUG_ENABLE, DEBUG_STEP, DEBUG_SOFTWARE, DEBUG_HARDWARE, DEBUG_BLOCK_IRQ = 1, 2, 0x10000, 0x20000, 0x100000

# KVM_SET_VCPU_EVENTS
EVENT_VALID_PAYLOAD = 0x10
EVENT_VALID_SHADOW = 4
EVENT_VALID_NMI_PENDING = 1

# Exit reasons
EXIT_UNKNOWN, EXIT_EXCEPTION, EXIT_IO, EXIT_DEBUG, EXIT_HLT, EXIT_MMIO, EXIT_IRQ_WINDOW, EXIT_SHUTDOWN = 0, 1, 2, 4, 5, 6, 7, 8
EXIT_FAIL_ENTRY, EXIT_INTR, EXIT_SET_TPR, EXIT_INTERNAL_ERROR, EXIT_BUS_LOCK = 9, 10, 11, 17, 33
RUN_BUS_LOCK = 1 << 1  # kvm_run.flags
INTERNAL_ERROR_EMULATION = 1
