"""Executes RDMSR and WRMSR, and keeps the time-stamp counter: what each MSR of the model does on this CPU.

`read_msr` and `write_msr` serve guest and debugger: MsrError when the model has no such MSR or it refuses the value.
Sources: SDM vol. 4, 2.1; SDM vol. 3, 18.17 (TSC), 11.5.4 (APIC base); APM vol. 2, appendix A.
"""

from functools import lru_cache

from iced_x86 import Instruction, Mnemonic

from trapgate.arch import control, msrs
from trapgate.arch.models import CpuModel
from trapgate.soft.exact import memtypes
from trapgate.soft.exact.operands import ALL_64, gp, require_cpl0, ud
from trapgate.soft.state.guest_cpu import GuestCpu
from trapgate.soft.state.instructions import handles

# MSRs whose value is a field of the CPU state.
FIELDS = {
    msrs.EFER: "efer", msrs.STAR: "star", msrs.LSTAR: "lstar", msrs.CSTAR: "cstar", msrs.SFMASK: "sfmask",
    msrs.FS_BASE: "fs_base", msrs.GS_BASE: "gs_base", msrs.KERNEL_GS_BASE: "kernel_gs_base", msrs.TSC_AUX: "tsc_aux",
    msrs.SYSENTER_CS: "sysenter_cs", msrs.SYSENTER_ESP: "sysenter_esp", msrs.SYSENTER_EIP: "sysenter_eip",
    msrs.DEBUGCTL: "debugctl",
}  # fmt: skip
LOCAL_APIC = {msrs.APIC_BASE, msrs.TSC_DEADLINE}


@lru_cache
def known(model: CpuModel) -> dict[int, msrs.Msr]:
    """Every MSR of a model, by index."""
    return msrs.msrs_of(model)


def _of_apic(cpu: GuestCpu, index: int) -> bool:
    if msrs.X2APIC_FIRST <= index <= msrs.X2APIC_LAST:
        return cpu.model.has("x2apic")
    return index in LOCAL_APIC and index in known(cpu.model)


def read_msr(cpu: GuestCpu, index: int) -> int:
    """The value of an MSR; MsrError when the model has none, or it can only be written."""
    if _of_apic(cpu, index):
        if cpu.lapic is None:
            raise msrs.MsrError(f"no local APIC, so no MSR {index:#x}", missing=True)
        return int(cpu.lapic.read_msr(index))
    msr = _msr(cpu, index)
    if not msr.readable:
        raise msrs.MsrError(f"MSR {index:#x} ({msr.name}) can only be written")
    if index == msrs.TSC:
        return cpu.tsc() & ALL_64
    if index in FIELDS:
        return int(getattr(cpu.state, FIELDS[index]))
    return cpu.msrs[index]


def _msr(cpu: GuestCpu, index: int) -> msrs.Msr:
    try:
        return known(cpu.model)[index]
    except KeyError:
        raise msrs.MsrError(f"CPU {cpu.model.name} has no MSR {index:#x}", missing=True) from None


def write_msr(cpu: GuestCpu, index: int, value: int) -> None:
    """Change an MSR and all that hangs on it; MsrError where the CPU raises #GP(0)."""
    st = cpu.state
    if _of_apic(cpu, index):
        if cpu.lapic is None:
            raise msrs.MsrError(f"no local APIC, so no MSR {index:#x}", missing=True)
        cpu.lapic.write_msr(index, value)
        cpu.forget_cpuid()
        return
    stored = _msr(cpu, index).stored(value)
    if stored is None:
        return
    if index == msrs.EFER:
        write_efer(cpu, stored)
    elif index == msrs.TSC:
        _move_tsc(cpu, stored - cpu.tsc())
    elif index == msrs.TSC_ADJUST:
        _move_tsc(cpu, stored - cpu.msrs[index])
    elif index in FIELDS:
        setattr(st, FIELDS[index], stored)
        if index == msrs.DEBUGCTL:
            cpu.update_mode()  # the bus-lock trap hangs on it
    else:
        cpu.msrs[index] = stored
        if index == msrs.TEST_CTRL:
            st.split_lock_ac = int(bool(stored & msrs.TEST_CTRL_SPLIT_LOCK))
        elif index in memtypes.SOURCES:
            memtypes.refresh(cpu)


def write_efer(cpu: GuestCpu, value: int) -> None:
    """WRMSR to EFER; MsrError where it raises #GP(0). A change of NXE gives pages other rights."""
    st = cpu.state
    old = st.efer
    try:
        st.efer = control.check_efer(old, value, cr0=st.cr0, allowed=control.efer_mask(cpu.model.has))
    except ValueError as error:
        raise msrs.MsrError(str(error)) from error
    if (old ^ st.efer) & (control.EFER_NXE | control.EFER_LMA):
        cpu.flush_all()
    cpu.update_mode()


def _move_tsc(cpu: GuestCpu, by: int) -> None:
    """The TSC jumps; TSC_ADJUST keeps the sum of all jumps (SDM vol. 3, 18.17.3); the APIC's deadline counts by the new TSC."""
    cpu.tsc_offset += by
    if msrs.TSC_ADJUST in known(cpu.model):
        cpu.msrs[msrs.TSC_ADJUST] = (cpu.msrs[msrs.TSC_ADJUST] + by) & ALL_64
    if cpu.lapic is not None:
        cpu.lapic.set_tsc_offset(cpu.tsc_offset)


@handles(Mnemonic.RDMSR)
def rdmsr(cpu: GuestCpu, i: Instruction) -> None:
    """RDMSR: EDX:EAX = MSR ECX; #GP(0) when there is none."""
    require_cpl0(cpu)
    try:
        value = read_msr(cpu, cpu.state.rcx & 0xFFFFFFFF)
    except msrs.MsrError:
        raise gp() from None
    cpu.state.rax, cpu.state.rdx = value & 0xFFFFFFFF, value >> 32


@handles(Mnemonic.WRMSR)
def wrmsr(cpu: GuestCpu, i: Instruction) -> None:
    """WRMSR: MSR ECX = EDX:EAX; #GP(0) when there is none or it refuses the value."""
    require_cpl0(cpu)
    st = cpu.state
    try:
        write_msr(cpu, st.rcx & 0xFFFFFFFF, st.rdx << 32 & ALL_64 | st.rax & 0xFFFFFFFF)
    except msrs.MsrError:
        raise gp() from None
    if cpu.clock.fresh:  # whoever waits for the next deadline must hear of a new one, though nothing else leaves the run
        cpu.kick()


def _counter(cpu: GuestCpu) -> int:
    st = cpu.state
    if st.cr4 & control.CR4_TSD and st.cr0 & 1 and st.cpl:
        raise gp()
    return cpu.tsc() & ALL_64


@handles(Mnemonic.RDTSC)
def rdtsc(cpu: GuestCpu, i: Instruction) -> None:
    """RDTSC: EDX:EAX; #GP(0) outside CPL 0 while CR4.TSD is set."""
    value = _counter(cpu)
    if not cpu.deterministic and (deadline := cpu.clock.next_deadline()) is not None and deadline <= cpu.clock.now():
        cpu.kick()
    cpu.state.rax, cpu.state.rdx = value & 0xFFFFFFFF, value >> 32


@handles(Mnemonic.RDTSCP)
def rdtscp(cpu: GuestCpu, i: Instruction) -> None:
    """RDTSCP: RDTSC, and ECX = TSC_AUX."""
    if not cpu.model.has("rdtscp"):
        raise ud()
    rdtsc(cpu, i)
    cpu.state.rcx = cpu.state.tsc_aux & 0xFFFFFFFF


@handles(Mnemonic.RDPMC)
def rdpmc(cpu: GuestCpu, i: Instruction) -> None:
    """RDPMC: EDX:EAX = the performance counter ECX; #GP(0) outside CPL 0 unless CR4.PCE is set, and for one that is not there.

    AMD's CPUs have four whatever CPUID says (APM vol. 2, 13.2.1), the Intel model none.
    """
    st = cpu.state
    number = st.rcx & 0xFFFFFFFF
    if st.cpl and st.cr0 & 1 and not st.cr4 & control.CR4_PCE:
        raise gp()
    if not cpu.model.amd or number >= msrs.AMD_PERF_COUNTERS:
        raise gp()
    value = cpu.msrs[msrs.AMD_PERF_COUNTER0 + number]
    st.rax, st.rdx = value & 0xFFFFFFFF, value >> 32
