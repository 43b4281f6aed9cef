"""Fetches and checks descriptors for rules, and loads CS, SS and the data segments (SDM vol. 3, 5.8, 6.12; APM vol. 2, 4.7)."""

from trapgate.arch import vectors
from trapgate.arch.control import EFER_LMA
from trapgate.arch.debugregs import DEBUGCTL_BUS_LOCK
from trapgate.arch.segments import (
    ATTR_DB,
    ATTR_L,
    ATTR_P,
    ATTR_S,
    SELECTOR_INDEX,
    SELECTOR_LDT,
    SELECTOR_RPL,
    TYPE_ACCESSED,
    TYPE_CODE,
    TYPE_CONFORMING,
    SystemType,
)  # fmt: skip
from trapgate.isa import modes
from trapgate.isa import state as s
from trapgate.isa.native.mode import has, privilege
from trapgate.isa.native.segments import ANY_RIGHTS, TYPE_SHIFT, V86_DATA, Descriptor, level, linear_in_table, rights
from trapgate.isa.native.transfers import follow_base, paragraph
from trapgate.isa.rules.reading import Reading
from trapgate.isa.vocabulary import Operand, Trace, Value

DATA_SEGMENTS = ("es", "ds", "fs", "gs")


def part(selector: Value) -> Value:
    """A selector as error codes have it, without its RPL."""
    return selector & (SELECTOR_INDEX | SELECTOR_LDT)


def is_null(selector: Value) -> Value:
    """1-bit: selectors 0 to 3."""
    return part(selector) == 0


def fetch(r: Reading, selector: Value, vector: int = vectors.GP, ext: Operand = 0) -> Descriptor:
    """The descriptor of a selector; `vector` where it lies outside its table."""
    at = linear_in_table(r.m, selector, 8, lambda: r.fault(vector, part(selector) | ext))
    return Descriptor(at, r.read(at, 8))


def is_code(found: Descriptor) -> Value:
    """1-bit: an executable segment."""
    return (found.attributes & (ATTR_S | TYPE_CODE)) == ATTR_S | TYPE_CODE


def is_long(m: Trace, found: Descriptor) -> Value:
    """1-bit: 64-bit code, if it is code."""
    return has(m.get("efer", 64), EFER_LMA) & found.has(ATTR_L)


def require_present(r: Reading, found: Descriptor, vector: int, error: Operand) -> None:
    """`vector` where a descriptor says that its segment is not there."""
    with r.m.when(~found.has(ATTR_P), likely=False):
        r.fault(vector, error)


def gate_target(r: Reading, selector: Value, ext: Operand) -> tuple[Descriptor, Value]:
    """The code segment that a gate names, and the CPL it will run at (SDM vol. 3, 6.12.1)."""
    m = r.m
    with m.when(is_null(selector), likely=False):
        r.gp(ext)
    code, error = fetch(r, selector, ext=ext), part(selector) | ext
    with m.when(~is_code(code) | code.dpl.ugt(level(m)), likely=False):
        r.gp(error)
    require_present(r, code, vectors.NP, error)
    return code, code.has(TYPE_CONFORMING).select(level(m), code.dpl)


def return_target(r: Reading, selector: Value) -> Descriptor:
    """The code segment of a far return: never to more privilege."""
    m = r.m
    with m.when(is_null(selector), likely=False):
        r.gp()
    code, error, rpl = fetch(r, selector), part(selector), selector & SELECTOR_RPL
    fits = code.has(TYPE_CONFORMING).select(code.dpl.ule(rpl), code.dpl == rpl)
    with m.when(~is_code(code) | rpl.ult(level(m)) | ~fits | (is_long(m, code) & code.has(ATTR_DB)), likely=False):
        r.gp(error)
    require_present(r, code, vectors.NP, error)
    return code


def stack_target(r: Reading, selector: Value, cpl: Value, vector: int, ext: Operand = 0) -> Descriptor:
    """The stack segment of a privilege level; `vector` where it does not fit, #SS where it is not present."""
    m, error = r.m, part(selector) | ext
    found = fetch(r, selector, vector, ext)
    with m.when(((selector & SELECTOR_RPL) != cpl) | ~found.writable | (found.dpl != cpl), likely=False):
        r.fault(vector, error)
    require_present(r, found, vectors.SS, error)
    return found


def inner_stack(r: Reading, cpl: Value, ext: Operand = 0) -> tuple[Value, Value]:
    """(selector, pointer) of the stack of a privilege level, from the TSS of protected mode; #TS (SDM vol. 3, 5.8.5)."""
    m = r.m
    kind = m.get("tr_attributes", 32).zext(64) & 0xF
    wide = (kind == SystemType.TSS) | (kind == SystemType.TSS_BUSY)
    at = wide.select((cpl << 3) + 4, (cpl << 2) + 2)
    with m.when((at + wide.select(m.const(5, 64), m.const(3, 64))).ugt(m.get("tr_limit", 32).zext(64)), likely=False):
        r.fault(vectors.TS, part(m.get("tr_selector", 64)) | ext)
    place, pointer, selector = m.get("tr_base", 64) + at, m.variable(64, 0), m.variable(64, 0)
    for size, there in ((4, wide), (2, ~wide)):
        with m.when(there):
            pointer.set(r.read(place, size))
            selector.set(r.read(place + size, 2))
    with m.when(is_null(selector.value), likely=False):
        r.fault(vectors.TS, ext)
    return selector.value, pointer.value


def mark_accessed(r: Reading, found: Descriptor) -> None:
    """Set the accessed bit in the table where it is 0."""
    with r.m.when(~found.has(TYPE_ACCESSED), likely=False):
        r.write(found.at + TYPE_SHIFT // 8, 1, (found.raw >> TYPE_SHIFT) & 0xFF | TYPE_ACCESSED)


def put(m: Trace, name: str, selector: Value, base: Value, limit: Value, attributes: Value) -> None:
    """Set a segment register; another base of CS changes what jumps lead to."""
    if name == "cs":
        follow_base(m, base, attributes)
    m.put(f"{name}_selector", selector)
    m.put(f"{name}_base", base)
    m.put(f"{name}_limit", limit.trunc(32))
    m.put(f"{name}_attributes", attributes.trunc(32))


def put_found(m: Trace, name: str, selector: Value, found: Descriptor) -> None:
    """CS or SS becomes a segment of protected mode that is marked as accessed."""
    put(m, name, selector, found.base, found.limit, found.attributes | TYPE_ACCESSED | rights(found))


def put_null(m: Trace, name: str, selector: Value) -> None:
    """A segment register becomes null, its base and limit 0."""
    put(m, name, selector, m.const(0, 64), m.const(0, 64), m.const(s.UNUSABLE, 64))


def put_virtual(m: Trace, name: str, selector: Value) -> None:
    """A segment register as virtual-8086 mode has it (SDM vol. 3, 20.2)."""
    put(m, name, selector, selector << 4, m.const(0xFFFF, 64), m.const(V86_DATA | ANY_RIGHTS, 64))


def put_paragraph(m: Trace, selector: Value) -> None:
    """CS becomes a paragraph, in real or virtual-8086 mode."""
    base, limit, attributes = paragraph(m, selector)
    put(m, "cs", selector, base, limit, attributes)


def follow_long(m: Trace, cpl: Value) -> None:
    """The mode of 64-bit code at a CPL, reached from long mode: an event changes nothing else of it."""
    kept = m.get("mode", 32) & modes.FLOATING
    m.put("mode", kept | modes.CODE64 | privilege(m, m.get("rflags", 64), cpl.trunc(32)))
    m.put("bus_lock_trap", (has(m.get("debugctl", 64), DEBUGCTL_BUS_LOCK) & (cpl != 0)).zext(32))


def leave_behind(m: Trace, name: str, cpl: Value) -> None:
    """A data segment that the outer level may not use becomes null, a null selector loses its RPL; bases and limits stay.

    SDM vol. 2, IRET, RETURN-TO-OUTER-PRIVILEGE-LEVEL; APM vol. 3, IRET: the hidden part of a null selector has DPL 0.
    """
    attributes = m.get(f"{name}_attributes", 32).zext(64)
    unusable, dpl = has(attributes, s.UNUSABLE), (attributes >> 5) & 3
    conforming = (attributes & (TYPE_CODE | TYPE_CONFORMING)) == TYPE_CODE | TYPE_CONFORMING
    gone = ~unusable & dpl.ult(cpl) & ~conforming
    m.put(f"{name}_selector", (unusable | gone).select(m.const(0, 64), m.get(f"{name}_selector", 64)))
    m.put(f"{name}_attributes", gone.select(m.const(s.UNUSABLE, 64), attributes).trunc(32))
