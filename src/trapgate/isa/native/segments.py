"""Loads ES, SS, DS, FS and GS in every mode, and looks at descriptors for LAR, LSL, VERR and VERW (SDM vol. 2 under each name).

Python's (`exact.segments`, `exact.tables`): every fault, and descriptors in two pages, on a device or on a data breakpoint.
"""

from collections.abc import Callable
from functools import partial

from trapgate.arch.control import EFER_LMA
from trapgate.arch.segments import (
    ATTR_DPL,
    ATTR_G,
    ATTR_P,
    ATTR_S,
    ATTRIBUTES,
    SELECTOR_INDEX,
    SELECTOR_LDT,
    SELECTOR_RPL,
    TYPE_ACCESSED,
    TYPE_CODE,
    TYPE_CONFORMING,
    TYPE_EXPAND_DOWN,
    TYPE_READABLE,
    TYPE_WRITABLE,
)  # fmt: skip
from trapgate.isa import flags, modes
from trapgate.isa import state as s
from trapgate.isa.native.flows import complete, decline, proceed
from trapgate.isa.native.mode import has
from trapgate.isa.vocabulary import Trace, Value

SEGMENT_BYTES = s.offset("cs_base") - s.offset("es_base")
KEPT_IN_REAL_MODE = 0xF000
REAL_DATA, V86_DATA = 0x93, 0xF3  # present, writable, accessed data of DPL 0 or 3
ANY_RIGHTS = s.READABLE | s.WRITABLE
TYPE_SHIFT = 40  # of the type byte in a descriptor
LAR, LSL, VERR, VERW = range(4)
LOOKS = {"lar": LAR, "lsl": LSL, "verr": VERR, "verw": VERW}
# Types of system descriptors that may be looked at, in legacy and in long mode.
LAR_TYPES = (1, 2, 3, 4, 5, 9, 11, 12), (2, 9, 11, 12)
LSL_TYPES = (1, 2, 3, 9, 11), (2, 9, 11)


class Descriptor:
    """Eight bytes of a table. `at`: their linear address."""

    def __init__(self, at: Value, raw: Value) -> None:
        self.at, self.raw = at, raw
        self.attributes = (raw >> TYPE_SHIFT) & ATTRIBUTES

    @property
    def base(self) -> Value:
        """Bits 31:0 of the base."""
        return (self.raw >> 16) & 0xFFFFFF | (self.raw >> 32) & 0xFF000000

    @property
    def limit(self) -> Value:
        """The limit in bytes."""
        field = self.raw & 0xFFFF | (self.raw >> 32) & 0xF0000
        return has(self.attributes, ATTR_G).select(field << 12 | 0xFFF, field)

    @property
    def dpl(self) -> Value:
        """The privilege level."""
        return (self.attributes & ATTR_DPL) >> modes.shift(ATTR_DPL)

    def has(self, bits: int) -> Value:
        """1-bit: any of these attributes."""
        return has(self.attributes, bits)

    def reachable(self, selector: Value, cpl: Value) -> Value:
        """1-bit: its DPL lets CPL and RPL at it, or it is conforming code, which lets everybody."""
        conforming = (self.attributes & (ATTR_S | TYPE_CODE | TYPE_CONFORMING)) == ATTR_S | TYPE_CODE | TYPE_CONFORMING
        rpl = selector & SELECTOR_RPL
        return conforming | (rpl.ule(self.dpl) & cpl.ule(self.dpl))

    @property
    def writable(self) -> Value:
        """1-bit: data that may be written."""
        return (self.attributes & (ATTR_S | TYPE_CODE | TYPE_WRITABLE)) == ATTR_S | TYPE_WRITABLE


def is_canonical(address: Value) -> Value:
    """1-bit: bits 63:47 are equal."""
    return (address << 16).sar(16) == address


def level(m: Trace) -> Value:
    """CPL as the mode word has it, 64 bits wide."""
    return ((m.get("mode", 32) & modes.CPL) >> modes.CPL_SHIFT).zext(64)


def linear_in_table(m: Trace, selector: Value, size: int, missing: Callable[[], None]) -> Value:
    """The linear address of `size` bytes of a descriptor; the path ends in `missing` where they lie outside of their table."""
    base, limit = m.variable(64, m.get("gdt_base", 64)), m.variable(64, m.get("gdt_limit", 64))
    with m.when(has(selector, SELECTOR_LDT)):
        with m.when(has(m.get("ldtr_attributes", 32), s.UNUSABLE)):
            missing()
        base.set(m.get("ldtr_base", 64))
        limit.set(m.get("ldtr_limit", 32).zext(64))
    index = selector & SELECTOR_INDEX
    with m.when((index + (size - 1)).ugt(limit.value), likely=False):
        missing()
    return linear(m, base.value + index)


def linear(m: Trace, address: Value) -> Value:
    """A linear address as the mode has them: of 32 bits outside of long mode."""
    return has(m.get("efer", 64), EFER_LMA).select(address, address & 0xFFFFFFFF)


def reach(m: Trace, address: Value, size: int, write: int = 0) -> Value:
    """The host address of an implicit supervisor access; Python executes the instruction where that is not plain."""
    host = m.call("system_host", 64, address, m.const(size, 64), m.const(write, 64))
    with m.when(host == 0, likely=False):
        decline(m)
    return host


def fetch(m: Trace, selector: Value) -> Descriptor:
    """The descriptor of a selector."""
    at = linear_in_table(m, selector, 8, lambda: decline(m))
    return Descriptor(at, m.load(reach(m, at, 8), 64))


def put(m: Trace, place: Value, selector: Value, base: Value, limit: Value, attributes: Value) -> None:
    """Set the segment register that lies `place` bytes behind ES."""
    m.put_at("es_base", place, base)
    m.put_at("es_limit", place, limit.trunc(32))
    m.put_at("es_attributes", place, attributes.trunc(32))
    m.put_at("es_selector", place, selector)


def rights(found: Descriptor) -> Value:
    """READABLE and WRITABLE of a code or data segment in protected mode, as `exact.segments.rights_of` has them."""
    m = found.raw.trace
    none, readable = m.const(0, 64), m.const(s.READABLE, 64)
    code = found.has(TYPE_READABLE).select(readable, none)
    data = readable | found.has(TYPE_WRITABLE).select(m.const(s.WRITABLE, 64), none)
    return found.has(TYPE_CODE).select(code, found.has(TYPE_EXPAND_DOWN).select(none, data))


def load_segment(m: Trace) -> None:
    """T0 into the segment register X bytes behind ES. Its mode follows in `segment_changed`."""
    selector, place = m["T0"] & 0xFFFF, m["X"]
    mode = m.get("mode", 32)
    with m.when(has(mode, modes.REAL)):
        _load_paragraph(m, selector, place)
        proceed(m)
    cpl, stack = level(m), place == s.SEGMENTS.index("ss") * SEGMENT_BYTES
    with m.when((selector & (SELECTOR_INDEX | SELECTOR_LDT)) == 0):
        nowhere = ((mode & modes.CODE64) == 0) | (cpl == 3) | ((selector & SELECTOR_RPL) != cpl)
        with m.when(stack & nowhere, likely=False):
            decline(m)
        kept = (m.get("null_keeps", 32) != 0) & ~stack
        base = kept.select(m.get_at("es_base", place, 64), m.const(0, 64))
        limit = kept.select(m.get_at("es_limit", place, 32), m.const(0, 32))
        put(m, place, selector, base, limit, m.const(s.UNUSABLE, 64))
        proceed(m)
    found = fetch(m, selector)
    for_stack = found.writable & (found.dpl == cpl) & ((selector & SELECTOR_RPL) == cpl)
    readable = ~found.has(TYPE_CODE) | found.has(TYPE_READABLE)
    fits = stack.select(for_stack, found.has(ATTR_S) & readable & found.reachable(selector, cpl))
    with m.when(~(fits & found.has(ATTR_P)), likely=False):
        decline(m)
    with m.when(~found.has(TYPE_ACCESSED), likely=False):
        m.store(reach(m, found.at + TYPE_SHIFT // 8, 1, s.ACCESS_WRITE), (found.raw >> TYPE_SHIFT).trunc(8) | TYPE_ACCESSED)
    put(m, place, selector, found.base, found.limit, found.attributes | TYPE_ACCESSED | rights(found))
    proceed(m)


def _load_paragraph(m: Trace, selector: Value, place: Value) -> None:
    """In real mode, where limit and default size stay, and in virtual-8086 mode, where they are fixed."""
    old, wide = m.get_at("es_attributes", place, 32).zext(64), m.get_at("es_limit", place, 32).zext(64)
    virtual = level(m) == 3
    limit = (virtual | has(old, s.UNUSABLE)).select(m.const(0xFFFF, 64), wide)
    attributes = virtual.select(m.const(V86_DATA, 64), (old & KEPT_IN_REAL_MODE) | REAL_DATA)
    put(m, place, selector, selector << 4, limit, attributes | ANY_RIGHTS)


def segment_changed(m: Trace) -> None:
    """Behind a load of ES, SS or DS in protected mode of 32 or 16 bits: what blocks know of segments follows."""
    m.call("update_mode", 0)
    complete(m)


def look(m: Trace, kind: int) -> None:
    """LAR, LSL, VERR and VERW of the selector T0: ZF says whether its descriptor is visible from here, T0 what it has."""

    def invisible() -> None:
        flags.set_zero(m, m.const(0, 1))
        proceed(m)

    selector, cpl = m["T0"] & 0xFFFF, level(m)
    with m.when((selector & (SELECTOR_INDEX | SELECTOR_LDT)) == 0):
        invisible()
    at = linear_in_table(m, selector, 8, invisible)
    found = Descriptor(at, m.load(reach(m, at, 8), 64))
    with m.when(~found.has(ATTR_S)):
        _look_at_system(m, kind, selector, found, invisible)
    with m.when(~found.reachable(selector, cpl)):
        invisible()
    if kind == VERR:
        with m.when(found.has(TYPE_CODE) & ~found.has(TYPE_READABLE)):
            invisible()
    elif kind == VERW:
        with m.when(~found.writable):
            invisible()
    else:
        m["T0"] = (found.raw >> 32) & 0xFFFF00 if kind == LAR else found.limit
    flags.set_zero(m, m.const(1, 1))
    proceed(m)


def _look_at_system(m: Trace, kind: int, selector: Value, found: Descriptor, invisible: Callable[[], None]) -> None:
    """Refuse a system descriptor that cannot be seen; in long mode it has 16 bytes."""
    if kind in (VERR, VERW):
        invisible()
        return
    long = has(m.get("efer", 64), EFER_LMA)
    legacy_types, long_types = (sum(1 << n for n in types) for types in (LAR_TYPES if kind == LAR else LSL_TYPES))
    types = long.select(m.const(long_types, 64), m.const(legacy_types, 64))
    with m.when(((types >> (found.attributes & 0xF)) & 1) == 0):
        invisible()
    with m.when(long):
        upper = linear_in_table(m, selector, 16, invisible) + 8
        with m.when(((m.load(reach(m, upper, 8), 64) >> TYPE_SHIFT) & 0x1F) != 0):
            invisible()


FLOWS: dict[str, Callable[[Trace], None]] = {
    "load_segment": load_segment,
    "segment_changed": segment_changed,
    **{name: partial(look, kind=kind) for name, kind in LOOKS.items()},
}
