"""The CPUID instruction: leaves of the model, with what they show of this vCPU."""

from iced_x86 import Instruction, Mnemonic

from trapgate.arch.control import CR4_OSXSAVE
from trapgate.arch.cpuid import Dynamic, leaf
from trapgate.arch.msrs import APIC_BASE, APIC_BASE_ENABLE
from trapgate.soft.state.guest_cpu import GuestCpu
from trapgate.soft.state.instructions import handles


def dynamic(cpu: GuestCpu) -> Dynamic:
    """What CPUID shows of the vCPU itself."""
    st, lapic = cpu.state, cpu.lapic
    osxsave = bool(st.cr4 & CR4_OSXSAVE)
    if lapic is None:
        return Dynamic(osxsave=osxsave, apic_enabled=False, xcr0=st.xcr0)
    enabled = bool(lapic.read_msr(APIC_BASE) & APIC_BASE_ENABLE)
    return Dynamic(apic_id=getattr(lapic, "identifier", 0), osxsave=osxsave, apic_enabled=enabled, xcr0=st.xcr0)


@handles(Mnemonic.CPUID)
def cpuid(cpu: GuestCpu, i: Instruction) -> None:
    """CPUID: EAX, EBX, ECX, EDX from leaf EAX and subleaf ECX; the upper halves become 0."""
    st = cpu.state
    st.rax, st.rbx, st.rcx, st.rdx = leaf(cpu.model, st.rax & 0xFFFFFFFF, st.rcx & 0xFFFFFFFF, dynamic(cpu))
