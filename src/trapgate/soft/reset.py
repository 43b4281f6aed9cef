"""Sets the registers of the software CPU as after power-on and INIT (SDM vol. 3, Table 10-1; APM vol. 2, Table 14-1)."""

from trapgate.arch import control, debugregs, paging, xstate
from trapgate.arch.msrs import msrs_of
from trapgate.soft.exact import memtypes
from trapgate.soft.exact.msr import FIELDS, LOCAL_APIC
from trapgate.soft.exact.segments import null_clears, put_segment
from trapgate.soft.state.core import SoftCore

POWER_ON = {"cs": (0xF000, 0xFFFF0000, 0x9B), "ldtr": (0, 0, 0x82), "tr": (0, 0, 0x8B)}  # selector, base, attributes
CACHE = control.CR0_CD | control.CR0_NW
FCW = 0x40  # and every register holds zero: tag word 5555h


def reset(cpu: SoftCore) -> None:
    """Power-on. What belongs to the host (RAM, tables of blocks, budget) is left alone; every translation is forgotten."""
    st = cpu.state
    for name in ("star", "lstar", "cstar", "sfmask", "kernel_gs_base", "tsc_aux", "sysenter_cs", "sysenter_esp", "sysenter_eip",
                 "split_lock_ac", "x87_live", "mxcsr_difference"):  # fmt: skip
        setattr(st, name, 0)
    st.cr0, st.xcr0 = control.CR0_RESET, control.XCR0_RESET
    st.physical_mask = (1 << cpu.model.physical_bits) - 1
    st.cr4_allowed = control.cr4_mask(cpu.model.has)
    st.null_keeps = not null_clears(cpu.model)
    st.table_reserved = paging.G if cpu.model.amd else 0
    st.guest_mxcsr = xstate.INITIAL_MXCSR
    for place in xstate.VECTORS.values():
        getattr(st, place.field)[:] = bytes(place.size)
    image = bytearray(xstate.LEGACY_BYTES)
    for name, value in (("fctrl", FCW), ("ftag", 0x5555), ("mxcsr", xstate.INITIAL_MXCSR)):
        xstate.write(image, name, value)
    st.fxsave[:] = bytes(image)
    cpu.msrs.power_on(msrs_of(cpu.model), FIELDS, LOCAL_APIC)
    memtypes.refresh(cpu)
    init(cpu)


def init(cpu: SoftCore) -> None:
    """INIT: floating-point and vector registers, XCR0, and MSRs but EFER and DEBUGCTL stay; so do CD and NW of CR0."""
    st = cpu.state
    for name in (*(f"r{n}" for n in range(8, 16)), "rax", "rbx", "rcx", "rbp", "rsp", "rsi", "rdi"):
        setattr(st, name, 0)
    for name in ("cr2", "cr3", "cr4", "cr8", "efer", "dr0", "dr1", "dr2", "dr3", "debugctl", "fault_delivering", "pending_debug",
                 "nmi_blocked", "shadow"):  # fmt: skip
        setattr(st, name, 0)
    st.rdx = cpu.model.signature
    st.lock_age += 1
    st.rip = 0xFFF0
    st.cr0 = control.CR0_RESET & ~CACHE | st.cr0 & CACHE
    st.dr6, st.dr7 = debugregs.DR6_INIT, debugregs.DR7_INIT
    st.bld_free = debugregs.bld_writable(amd=cpu.model.amd, bus_lock=cpu.model.has("bus-lock-detect"), debugctl=0)
    st.set_rflags(2)
    for name in ("es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr"):
        selector, base, attributes = POWER_ON.get(name, (0, 0, 0x93))
        put_segment(cpu, name, selector, base, 0xFFFF, attributes)
    st.gdt_base = st.idt_base = 0
    st.gdt_limit = st.idt_limit = 0xFFFF
    cpu.forget_cpuid()
    cpu.update_mode()
