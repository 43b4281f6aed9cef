"""Reports a triple fault: the last exceptions and the registers, one line each."""

from trapgate.arch import flags
from trapgate.isa.state import UNUSABLE
from trapgate.soft.state.core import SoftCore

TOLD = 8  # of the last events


def story(cpu: SoftCore, why: str) -> str:
    """The last exceptions, oldest first, the registers, and last why they could not be delivered."""
    st = cpu.state
    lines = [str(happened) for happened in [*cpu.history][-TOLD:]]
    names = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", *(f"r{n}" for n in range(8, 16)))
    for first in range(0, len(names), 4):
        lines.append(" ".join(f"{name.upper()}={getattr(st, name):016x}" for name in names[first : first + 4]))
    rflags = st.get_rflags()
    set_names = " ".join(name for bit, name in flags.NAMES.items() if rflags & bit)
    lines.append(f"RIP={st.rip:016x} RFLAGS={rflags:08x} [{set_names}] CPL={st.cpl}")
    for name in ("cs", "ss", "ds", "es", "fs", "gs", "ldtr", "tr"):
        attributes = getattr(st, f"{name}_attributes")
        state = "unusable" if attributes & UNUSABLE else f"{attributes & 0xFFFF:04x}"
        selector, base, limit = (getattr(st, f"{name}_{part}") for part in ("selector", "base", "limit"))
        lines.append(f"{name.upper():4} {selector:04x} base {base:016x} limit {limit:08x} attributes {state}")
    lines.append(f"GDT base {st.gdt_base:016x} limit {st.gdt_limit:04x}, IDT base {st.idt_base:016x} limit {st.idt_limit:04x}")
    lines.append(f"CR0={st.cr0:08x} CR2={st.cr2:016x} CR3={st.cr3:016x} CR4={st.cr4:08x} EFER={st.efer:08x}")
    lines.append(f"DR6={st.dr6:08x} DR7={st.dr7:08x} DEBUGCTL={st.debugctl:x}")
    lines.append(why)
    return "\n".join(lines)
