"""Reads descriptors from their tables: what a selector names, and whether a stack may be there.

Sources: SDM vol. 3, 3.4.2, 3.4.5, 3.5, 5.8.3.1; APM vol. 2, 4.7, 4.8.
"""

from trapgate.arch import vectors
from trapgate.arch.control import EFER_LMA
from trapgate.arch.segments import SELECTOR_INDEX, SELECTOR_LDT, Descriptor
from trapgate.isa.state import UNUSABLE
from trapgate.soft.exact.operands import gp
from trapgate.soft.state.core import SoftCore
from trapgate.soft.state.fault import GuestFault
from trapgate.values import dataclass, replace


@dataclass(frozen=True, slots=True)
class Entry(Descriptor):
    """A descriptor as its table has it: by which selector it was found, at which linear address, its 8 bytes as a number."""

    selector: int = 0
    address: int = 0
    raw: int = 0

    @property
    def error(self) -> int:
        """The error code of a fault that names the selector (SDM vol. 3, 6.13), with EXT 0."""
        return self.selector & 0xFFFC


def is_null(selector: int) -> bool:
    """Selectors 0-3."""
    return not selector & 0xFFFC


def find(cpu: SoftCore, selector: int, size: int = 8) -> int | None:
    """The linear address of a descriptor of `size` bytes; None when it lies outside its table."""
    st = cpu.state
    if selector & SELECTOR_LDT:
        if st.ldtr_attributes & UNUSABLE:
            return None
        base, limit = st.ldtr_base, st.ldtr_limit
    else:
        base, limit = st.gdt_base, st.gdt_limit
    at = selector & SELECTOR_INDEX
    return int(base + at) if at + size - 1 <= limit else None


def read(cpu: SoftCore, selector: int, address: int) -> Entry:
    """The descriptor at a linear address, by an implicit supervisor read."""
    raw = cpu.read(address, 8, 0)
    return replace(Entry.from_bytes(raw.to_bytes(8, "little")), selector=selector, address=address, raw=raw)


def fetch(cpu: SoftCore, selector: int, vector: int = vectors.GP, ext: int = 0) -> Entry:
    """The descriptor of a selector; `vector`(selector + ext) when it lies outside its table."""
    address = find(cpu, selector)
    if address is None:
        raise GuestFault(vector, selector & 0xFFFC | ext)
    return read(cpu, selector, address)


def read_upper(cpu: SoftCore, entry: Entry) -> int:
    """The upper half of 16 bytes, as system descriptors and gates have them in long mode; #GP(selector) (SDM vol. 3, 5.8.3.1)."""
    address = find(cpu, entry.selector, 16)
    if address is None:
        raise gp(entry.error)
    upper = cpu.read(address + 8, 8, 0)
    if upper >> 40 & 0x1F:
        raise gp(entry.error)  # its type field must be 0
    return upper


def fetch_system(cpu: SoftCore, selector: int) -> Entry:
    """An LDT or TSS descriptor or a call gate: 16 bytes in long mode (SDM vol. 3, 3.5.2); #GP(selector)."""
    found = fetch(cpu, selector)
    if not cpu.state.efer & EFER_LMA or found.s:
        return found
    return replace(found, base=found.base | (read_upper(cpu, found) & 0xFFFFFFFF) << 32)


def fetch_stack(cpu: SoftCore, selector: int, cpl: int, vector: int, ext: int = 0) -> Entry:
    """The descriptor of a stack segment for privilege `cpl`; `vector`(selector), or #SS(selector) when not present."""
    found = fetch(cpu, selector, vector, ext)
    if selector & 3 != cpl or not found.writable or found.dpl != cpl:
        raise GuestFault(vector, found.error | ext)
    if not found.present:
        raise GuestFault(vectors.SS, found.error | ext)
    return found
