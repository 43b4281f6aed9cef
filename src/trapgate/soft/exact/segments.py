"""Loads segment registers: what a selector means in each mode, with all the checks.

Attribute words are the state's: descriptor bits 40-55 in bits 0-15 (without limit 19:16), then UNUSABLE, READABLE, WRITABLE.
Sources: SDM vol. 3, 3.4.2-3.5, 5.6-5.8, 20.1.1; SDM vol. 2, MOV; APM vol. 2, 4.5-4.8.
"""

from trapgate.arch import vectors
from trapgate.arch.control import CR0_PE
from trapgate.arch.flags import VM
from trapgate.arch.models import CpuModel
from trapgate.arch.segments import ATTRIBUTES, TYPE_ACCESSED, TYPE_CODE, TYPE_EXPAND_DOWN, TYPE_READABLE, TYPE_WRITABLE
from trapgate.isa.state import READABLE, UNUSABLE, WRITABLE
from trapgate.soft.exact.descriptors import Entry, fetch, fetch_stack, is_null
from trapgate.soft.exact.operands import gp, is_64, is_real
from trapgate.soft.state.core import SoftCore
from trapgate.soft.state.fault import GuestFault

V86_ATTRIBUTES = 0xF3  # present, DPL 3, writable data, accessed (SDM vol. 3, 20.2)


def rights_of(cpu: SoftCore, name: str, attributes: int) -> int:
    """READABLE and WRITABLE for an attribute word: what the segment checks of translated code look at."""
    if attributes & UNUSABLE or name in ("ldtr", "tr"):
        return 0
    if attributes & (TYPE_CODE | TYPE_EXPAND_DOWN) == TYPE_EXPAND_DOWN:
        return 0  # not plain: Python checks
    if not cpu.state.cr0 & CR0_PE or cpu.state.rflags & VM:
        return READABLE | WRITABLE  # no rights in real mode
    if attributes & TYPE_CODE:
        return READABLE if attributes & TYPE_READABLE else 0
    return READABLE | (WRITABLE if attributes & TYPE_WRITABLE else 0)


def put_segment(cpu: SoftCore, name: str, selector: int, base: int, limit: int, attributes: int) -> None:
    """Set a segment register, hidden part and all, without a check. `limit` in bytes; `attributes`: bits 40-55, UNUSABLE.

    Reset, loaders and the debugger come here, too. The caller runs `cpu.update_mode()` when it has set all it wants.
    """
    st = cpu.state
    attributes &= ATTRIBUTES | UNUSABLE
    if name == "cs" and not st.cs_base == st.jump_base == base:
        cpu.flush_jumps()
        st.jump_base = base
    setattr(st, f"{name}_selector", selector & 0xFFFF)
    setattr(st, f"{name}_base", base)
    setattr(st, f"{name}_limit", limit)
    setattr(st, f"{name}_attributes", attributes | rights_of(cpu, name, attributes))


def refresh_rights(cpu: SoftCore) -> None:
    """Work out READABLE and WRITABLE of all segments again: CR0.PE or RFLAGS.VM changed."""
    st = cpu.state
    for name in ("es", "cs", "ss", "ds", "fs", "gs"):
        attributes = getattr(st, f"{name}_attributes") & (ATTRIBUTES | UNUSABLE)
        setattr(st, f"{name}_attributes", attributes | rights_of(cpu, name, attributes))


def put_entry(cpu: SoftCore, name: str, found: Entry) -> None:
    """A fetched descriptor into a segment register, its accessed bit set in memory and in the register."""
    mark_accessed(cpu, found)
    put_segment(cpu, name, found.selector, found.base, found.byte_limit, found.accessed().attributes)


def mark_accessed(cpu: SoftCore, found: Entry) -> None:
    """Set the accessed bit in the table where it is 0: an implicit supervisor access, which never is a bus lock to be trapped."""
    if found.s and not found.type & TYPE_ACCESSED:
        cpu.write(found.address + 5, 1, found.raw >> 40 & 0xFF | TYPE_ACCESSED, 0)


def null_clears(model: CpuModel) -> bool:
    """Whether a null selector clears base and limit: on Intel's CPUs, and on AMD's with NullSelClearsBase; older AMD keeps both."""
    return not model.amd or model.has("null-sel-clr-base")


def put_null(cpu: SoftCore, name: str, selector: int) -> None:
    """A null selector: unusable."""
    st = cpu.state
    base, limit = (0, 0) if null_clears(cpu.model) else (getattr(st, f"{name}_base"), getattr(st, f"{name}_limit"))
    put_segment(cpu, name, selector, base, limit, UNUSABLE)


def put_paragraph(cpu: SoftCore, name: str, selector: int) -> None:
    """Load a segment register in real or virtual-8086 mode: base = selector * 16.

    Real mode keeps limit and default size ("unreal mode"); virtual-8086 mode has fixed ones (SDM vol. 3, 20.1.1, 20.2).
    """
    st = cpu.state
    if st.rflags & VM and st.cr0 & CR0_PE:
        put_segment(cpu, name, selector, selector << 4, 0xFFFF, V86_ATTRIBUTES)
        return
    kept = getattr(st, f"{name}_attributes") & 0xF000
    limit = getattr(st, f"{name}_limit") if not getattr(st, f"{name}_attributes") & UNUSABLE else 0xFFFF
    put_segment(cpu, name, selector, selector << 4, limit, kept | (0x9B if name == "cs" else 0x93))


def load_segment(cpu: SoftCore, name: str, selector: int) -> None:
    """ES, SS, DS, FS or GS from a selector, as MOV and POP do it (SDM vol. 2, MOV, "Operation"); GuestFault before any change."""
    selector &= 0xFFFF
    if is_real(cpu):
        put_paragraph(cpu, name, selector)
    elif name == "ss":
        _load_ss(cpu, selector)
    elif is_null(selector):
        put_null(cpu, name, selector)
    else:
        found = fetch(cpu, selector)
        if not found.readable or (not found.conforming and max(selector & 3, cpu.state.cpl) > found.dpl):
            raise gp(found.error)
        if not found.present:
            raise GuestFault(vectors.NP, found.error)
        put_entry(cpu, name, found)
    cpu.update_mode()


def _load_ss(cpu: SoftCore, selector: int) -> None:
    cpl = cpu.state.cpl
    if is_null(selector):
        if not is_64(cpu) or cpl == 3 or selector & 3 != cpl:
            raise gp()
        put_segment(cpu, "ss", selector, 0, 0, UNUSABLE)
        return
    put_entry(cpu, "ss", fetch_stack(cpu, selector, cpl, vectors.GP))
