"""Computes what VMMs that `trapgate check` has not run on make of a guest's #DB under a debugger, each by the rule it decides with.

The debugger has breakpoints elsewhere and steps nothing: the most charitable case. Causes are DR6 bits, all active high.
"""

from collections.abc import Callable

BREAKPOINTS, BLD, BD, BS = 0xF, 1 << 11, 1 << 13, 1 << 14
ACTIVE_LOW = 0xFFFF0FF0  # DR6 bits that are 1 without a cause
TO_GDB = "lost to gdb"


def kvm_payload(payload: int) -> int:
    """The DR6 that KVM makes of the payload of a #DB (kvm_deliver_exception_payload, arch/x86/kvm/x86.c)."""
    dr6 = ACTIVE_LOW | payload
    return (dr6 ^ (payload & ACTIVE_LOW)) & ~(1 << 12)


def _reinjected(causes: int) -> str:
    """QEMU hands the raw DR6 back as the payload, whose bits are active high."""
    seen = kvm_payload(causes ^ ACTIVE_LOW)
    text = f"{seen:08X}"
    if not causes & BLD and not seen & BLD:
        return text + ", false BLD"
    if causes & BLD and seen & BLD:
        return text + ", no BLD"
    return text


def qemu_kvm(causes: int) -> str:
    """BS first, then Bn, else everything is injected again (kvm_handle_debug, target/i386/kvm/kvm.c)."""
    if not causes:
        return _reinjected(causes) + "; RIP stays"
    if causes & BS:
        return _reinjected(causes)
    return TO_GDB if causes & BREAKPOINTS else _reinjected(causes)


def qemu_kvm_patched(causes: int) -> str:
    """The Bus Lock Detect patch of 2024-07 and 2025-11: as before, and a cleared DR6.BLD is injected even when gdb stops too."""
    if causes & BLD and causes & BREAKPOINTS and not causes & BS:
        return _reinjected(causes) + "; gdb stops"
    return qemu_kvm(causes)


def firecracker(causes: int) -> str:
    """Decides by RIP alone; what is not the debugger's goes to the guest as #BP."""
    return "as #BP"


def cloud_hypervisor(causes: int) -> str:
    """Every debug exit is the debugger's."""
    return TO_GDB


def openvmm(causes: int) -> str:
    """Bn, then BS; no rule for anything else."""
    return TO_GDB if causes & (BREAKPOINTS | BS) else "dropped"


VMMS: dict[str, Callable[[int], str]] = {
    "QEMU/KVM, patched": qemu_kvm_patched,
    "Firecracker": firecracker,
    "Cloud Hypervisor": cloud_hypervisor,
    "OpenVMM": openvmm,
}
