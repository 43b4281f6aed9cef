"""Segment registers: what a selector means in each mode, and loading one with all its checks.

Attribute words are the state's: descriptor bits 40-55 in bits 0-15 (without limit 19:16), then UNUSABLE, READABLE, WRITABLE.
Sources: SDM vol. 3, 3.4.2-3.5, 5.6-5.8, 20.1.1; SDM vol. 2, MOV; APM vol. 2, 4.5-4.8.
"""

from dataclasses import dataclass

from trapgate.arch import vectors
from trapgate.arch.control import CR0_PE, EFER_LMA
from trapgate.arch.flags import VM
from trapgate.arch.segments import (
    ATTR_L,
    ATTR_P,
    ATTR_S,
    TYPE_ACCESSED,
    TYPE_CODE,
    TYPE_CONFORMING,
    TYPE_EXPAND_DOWN,
    TYPE_WRITABLE,
)
from trapgate.isa.state import READABLE, UNUSABLE, WRITABLE
from trapgate.soft.exact.operands import gp, is_64, is_real
from trapgate.soft.state.core import SoftCore
from trapgate.soft.state.fault import GuestFault

ATTRIBUTES = 0xF0FF
DATA_SEGMENTS = ("es", "ds", "fs", "gs")
V86_ATTRIBUTES = 0xF3  # present, DPL 3, writable data, accessed (SDM vol. 3, 20.2)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A descriptor fetched from a table. `address`: linear address of its bytes; `limit` in bytes."""

    selector: int
    address: int
    base: int
    limit: int
    attributes: int
    raw: int

    @property
    def dpl(self) -> int:
        """The descriptor's privilege level."""
        return self.attributes >> 5 & 3

    @property
    def type(self) -> int:
        """The four type bits."""
        return self.attributes & 0xF

    @property
    def present(self) -> bool:
        """P."""
        return bool(self.attributes & ATTR_P)

    @property
    def system(self) -> bool:
        """S = 0: a gate, TSS or LDT."""
        return not self.attributes & ATTR_S

    @property
    def code(self) -> bool:
        """An executable segment."""
        return self.attributes & (ATTR_S | TYPE_CODE) == ATTR_S | TYPE_CODE

    @property
    def conforming(self) -> bool:
        """Code that keeps the caller's CPL."""
        return self.code and bool(self.attributes & TYPE_CONFORMING)

    @property
    def writable(self) -> bool:
        """Data that may be written."""
        return self.attributes & (ATTR_S | TYPE_CODE | TYPE_WRITABLE) == ATTR_S | TYPE_WRITABLE

    @property
    def long(self) -> bool:
        """CS.L."""
        return bool(self.attributes & ATTR_L)


def rights_of(cpu: SoftCore, name: str, attributes: int) -> int:
    """READABLE and WRITABLE for an attribute word: what the segment checks of translated code look at."""
    if attributes & UNUSABLE or name in ("ldtr", "tr"):
        return 0
    if attributes & (TYPE_CODE | TYPE_EXPAND_DOWN) == TYPE_EXPAND_DOWN:
        return 0  # not plain: Python checks
    if not cpu.state.cr0 & CR0_PE or cpu.state.rflags & VM:
        return READABLE | WRITABLE  # no rights in real mode
    if attributes & TYPE_CODE:
        return READABLE if attributes & 2 else 0
    return READABLE | (WRITABLE if attributes & TYPE_WRITABLE else 0)


def put_segment(cpu: SoftCore, name: str, selector: int, base: int, limit: int, attributes: int) -> None:
    """Set a segment register, hidden part and all, without a check. `limit` in bytes; `attributes`: bits 40-55, UNUSABLE.

    Reset, loaders and the debugger come here, too. The caller runs `cpu.update_mode()` when it has set all it wants.
    """
    st = cpu.state
    attributes &= ATTRIBUTES | UNUSABLE
    if name == "cs" and st.cs_base != base:
        cpu.flush_jumps()
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


def put_loaded(cpu: SoftCore, name: str, found: Loaded, selector: int | None = None) -> None:
    """A fetched descriptor into a segment register, its accessed bit set in memory and in the register."""
    attributes = found.attributes
    if attributes & ATTR_S:
        mark_accessed(cpu, found)
        attributes |= TYPE_ACCESSED
    put_segment(cpu, name, found.selector if selector is None else selector, found.base, found.limit, attributes)


def mark_accessed(cpu: SoftCore, found: Loaded) -> None:
    """Set the accessed bit in the table where it is 0: an implicit supervisor access, which never is a bus lock to be trapped."""
    if not found.attributes & TYPE_ACCESSED:
        cpu.write(found.address + 5, 1, found.raw >> 40 & 0xFF | TYPE_ACCESSED, 0)


def put_null(cpu: SoftCore, name: str, selector: int) -> None:
    """A null selector: unusable. Intel, and AMD with NullSelClearsBase, clear base and limit; older AMD keeps both."""
    st = cpu.state
    clears = not cpu.model.amd or cpu.model.has("null-sel-clr-base")
    base, limit = (0, 0) if clears else (getattr(st, f"{name}_base"), getattr(st, f"{name}_limit"))
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


def decode(selector: int, address: int, raw: int) -> Loaded:
    """The fields of 8 descriptor bytes."""
    limit = raw & 0xFFFF | raw >> 32 & 0xF0000
    attributes = raw >> 40 & ATTRIBUTES
    if attributes & 1 << 15:
        limit = limit << 12 | 0xFFF
    return Loaded(selector, address, raw >> 16 & 0xFFFFFF | raw >> 32 & 0xFF000000, limit, attributes, raw)


def find(cpu: SoftCore, selector: int, size: int = 8) -> int | None:
    """The linear address of a descriptor of `size` bytes; None when it lies outside its table."""
    st = cpu.state
    if selector & 4:
        if st.ldtr_attributes & UNUSABLE:
            return None
        base, limit = st.ldtr_base, st.ldtr_limit
    else:
        base, limit = st.gdt_base, st.gdt_limit
    at = selector & 0xFFF8
    return int(base + at) if at + size - 1 <= limit else None


def fetch(cpu: SoftCore, selector: int, vector: int = vectors.GP, ext: int = 0) -> Loaded:
    """The descriptor of a selector, by implicit supervisor reads; `vector`(selector + ext) when it lies outside its table."""
    address = find(cpu, selector)
    if address is None:
        raise GuestFault(vector, selector & 0xFFFC | ext)
    return decode(selector, address, cpu.read(address, 8, 0))


def fetch_system(cpu: SoftCore, selector: int) -> Loaded:
    """An LDT or TSS descriptor or a call gate: 16 bytes in long mode (SDM vol. 3, 3.5.2, 5.8.3.1); #GP(selector)."""
    found = fetch(cpu, selector)
    if not cpu.state.efer & EFER_LMA or not found.system:
        return found
    address = find(cpu, selector, 16)
    if address is None:
        raise gp(selector & 0xFFFC)
    high = cpu.read(address + 8, 8, 0)
    if high >> 40 & 0x1F:
        raise gp(selector & 0xFFFC)  # the type field of the upper half must be 0
    return Loaded(selector, address, found.base | (high & 0xFFFFFFFF) << 32, found.limit, found.attributes, found.raw)


def is_null(selector: int) -> bool:
    """Selectors 0-3."""
    return not selector & 0xFFFC


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
        if found.system or (found.code and not found.attributes & 2):
            raise gp(selector & 0xFFFC)
        if not found.conforming and max(selector & 3, cpu.state.cpl) > found.dpl:
            raise gp(selector & 0xFFFC)
        if not found.present:
            raise GuestFault(vectors.NP, selector & 0xFFFC)
        put_loaded(cpu, name, found)
    cpu.update_mode()


def _load_ss(cpu: SoftCore, selector: int) -> None:
    cpl = cpu.state.cpl
    if is_null(selector):
        if not is_64(cpu) or cpl == 3 or selector & 3 != cpl:
            raise gp()
        put_segment(cpu, "ss", selector, 0, 0, UNUSABLE)
        return
    put_loaded(cpu, "ss", check_stack(cpu, selector, cpl, vectors.GP))


def check_stack(cpu: SoftCore, selector: int, cpl: int, vector: int, ext: int = 0) -> Loaded:
    """The descriptor of a stack segment for privilege `cpl`; `vector`(selector), or #SS(selector) when not present."""
    found = fetch(cpu, selector, vector, ext)
    if selector & 3 != cpl or not found.writable or found.dpl != cpl:
        raise GuestFault(vector, selector & 0xFFFC | ext)
    if not found.present:
        raise GuestFault(vectors.SS, selector & 0xFFFC | ext)
    return found
