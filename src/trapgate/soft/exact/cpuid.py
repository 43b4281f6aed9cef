"""Executes CPUID: leaves of the model, with what they show of this vCPU."""

from iced_x86 import Instruction, Mnemonic

from trapgate.arch.control import CR4_OSXSAVE
from trapgate.arch.cpuid import Dynamic, Leaf, leaf
from trapgate.arch.msrs import APIC_BASE, APIC_BASE_ENABLE
from trapgate.isa.native.msrs import answer_slot
from trapgate.isa.state import CPUID_ANSWER
from trapgate.soft.state.guest_cpu import GuestCpu
from trapgate.soft.state.instructions import handles


def dynamic(cpu: GuestCpu) -> Dynamic:
    """What CPUID shows of the vCPU itself."""
    st, lapic = cpu.state, cpu.lapic
    osxsave = bool(st.cr4 & CR4_OSXSAVE)
    if lapic is None:
        return Dynamic(osxsave=osxsave, apic_enabled=False, xcr0=st.xcr0)
    enabled = bool(lapic.read_msr(APIC_BASE) & APIC_BASE_ENABLE)
    number, cpus = getattr(lapic, "identifier", 0), getattr(lapic, "cpus", 1)
    return Dynamic(apic_id=number, cpus=cpus, osxsave=osxsave, apic_enabled=enabled, xcr0=st.xcr0)


@handles(Mnemonic.CPUID)
def cpuid(cpu: GuestCpu, i: Instruction) -> None:
    """CPUID: EAX, EBX, ECX, EDX from leaf EAX and subleaf ECX; the upper halves become 0."""
    st = cpu.state
    number, subleaf, shown = st.rax & 0xFFFFFFFF, st.rcx & 0xFFFFFFFF, dynamic(cpu)
    st.rax, st.rbx, st.rcx, st.rdx = answer = leaf(cpu.model, number, subleaf, shown)
    _remember(cpu, number, subleaf, shown.xcr0 << 1 | shown.osxsave, answer)


def _remember(cpu: GuestCpu, number: int, subleaf: int, key: int, answer: Leaf) -> None:
    """Native code gives the same answer from now on."""
    at = answer_slot(number, subleaf) * CPUID_ANSWER.size
    registers = dict(zip(("rax", "rbx", "rcx", "rdx"), answer, strict=True))
    cpu.state.cpuid_answers[at : at + CPUID_ANSWER.size] = CPUID_ANSWER.pack(asked=number | subleaf << 32, key=key, **registers)
