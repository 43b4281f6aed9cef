"""Every register of the software CPU as after power-on (SDM vol. 3, Table 10-1; APM vol. 2, Table 14-1)."""

from trapgate.arch import control, debugregs, paging
from trapgate.arch.msrs import msrs_of
from trapgate.soft.exact import memtypes
from trapgate.soft.exact.segments import put_segment
from trapgate.soft.state.core import SoftCore

POWER_ON = {"cs": (0xF000, 0xFFFF0000, 0x9B), "ldtr": (0, 0, 0x82), "tr": (0, 0, 0x8B)}  # selector, base, attributes
MXCSR = 0x1F80
FCW = 0x40


def reset(cpu: SoftCore) -> None:
    """Power-on. What belongs to the host (RAM, tables of blocks, budget) is left alone; every translation is forgotten."""
    st = cpu.state
    for name in (*(f"r{n}" for n in range(8, 16)), "rax", "rbx", "rcx", "rbp", "rsp", "rsi", "rdi"):
        setattr(st, name, 0)
    for name in ("cr2", "cr3", "cr4", "cr8", "efer", "dr0", "dr1", "dr2", "dr3", "debugctl", "star", "lstar", "cstar", "sfmask",
                 "kernel_gs_base", "tsc_aux", "sysenter_cs", "sysenter_esp", "sysenter_eip", "fault_delivering", "pending_debug",
                 "nmi_blocked", "split_lock_ac", "shadow", "x87_live", "mxcsr_unmasked"):  # fmt: skip
        setattr(st, name, 0)
    st.rdx = cpu.model.signature
    st.rip, st.cr0, st.xcr0 = 0xFFF0, control.CR0_RESET, control.XCR0_RESET
    st.dr6, st.dr7 = debugregs.DR6_INIT, debugregs.DR7_INIT
    st.bld_free = debugregs.bld_writable(amd=cpu.model.amd, bus_lock=cpu.model.has("bus-lock-detect"), debugctl=0)
    st.set_rflags(2)
    for name in ("es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr"):
        selector, base, attributes = POWER_ON.get(name, (0, 0, 0x93))
        put_segment(cpu, name, selector, base, 0xFFFF, attributes)
    st.gdt_base = st.idt_base = 0
    st.gdt_limit = st.idt_limit = 0xFFFF
    st.physical_mask = (1 << cpu.model.physical_bits) - 1
    st.table_reserved = paging.G if cpu.model.amd else 0
    st.guest_mxcsr = MXCSR
    for n in range(16):
        getattr(st, f"xmm{n}")[:] = bytes(16)
    image = bytearray(512)
    image[0:2] = FCW.to_bytes(2, "little")
    image[4] = 0xFF  # tag word 5555h: every register holds zero
    image[24:28] = MXCSR.to_bytes(4, "little")
    st.fxsave[:] = bytes(image)
    cpu.msrs = {index: msr.reset for index, msr in msrs_of(cpu.model).items()}
    memtypes.refresh(cpu)
    cpu.update_mode()
