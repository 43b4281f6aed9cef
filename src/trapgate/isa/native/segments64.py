"""Segments of 64-bit code: the descriptors that delivery, IRET and system calls take as plain, and what they leave in CS and SS."""

from collections.abc import Callable

from trapgate.arch.debugregs import DEBUGCTL_BUS_LOCK
from trapgate.arch.segments import (
    ATTR_DB,
    ATTR_DPL,
    ATTR_G,
    ATTR_L,
    ATTR_P,
    ATTR_S,
    ATTR_TYPE,
    SELECTOR_INDEX,
    SELECTOR_LDT,
    SELECTOR_RPL,
    TYPE_ACCESSED,
    TYPE_CODE,
    TYPE_READABLE,
    TYPE_WRITABLE,
)  # fmt: skip
from trapgate.isa import state as s
from trapgate.isa.modes import shift
from trapgate.isa.native.mode import code64
from trapgate.isa.vocabulary import Operand, Trace, Value

ATTRIBUTES = 0xF0FF  # descriptor bits 40-55 without limit 19:16
RIGHTS = ATTR_TYPE | ATTR_S | ATTR_DPL | ATTR_P
USABLE_CODE = ATTR_L | ATTR_P | ATTR_S | TYPE_CODE | TYPE_ACCESSED
CODE_MATTERS = ATTR_L | ATTR_DB | RIGHTS & ~TYPE_READABLE
CODE64 = ATTR_G | USABLE_CODE | TYPE_READABLE | s.READABLE  # a flat 64-bit code segment of DPL 0
DATA_RIGHTS = s.READABLE | s.WRITABLE  # should compatibility mode follow
DATA = ATTR_G | ATTR_DB | ATTR_P | ATTR_S | TYPE_WRITABLE | TYPE_ACCESSED | DATA_RIGHTS  # a flat writable data segment of DPL 0
DPL_SHIFT = shift(ATTR_DPL)

GiveUp = Callable[[], None]
"""Ends the path: the case is not plain, Python starts it again."""


def descriptor(m: Trace, selector: Value, give_up: GiveUp) -> Value:
    """The attributes of a descriptor in the GDT."""
    with m.when(((selector & SELECTOR_LDT) != 0) | ((selector & SELECTOR_INDEX) == 0), likely=False):
        give_up()
    with m.when((selector | 7).ugt(m.get("gdt_limit", 64)), likely=False):
        give_up()
    at = m.call("system_host", 64, m.get("gdt_base", 64) + (selector & SELECTOR_INDEX), m.const(8, 64), m.const(0, 64))
    with m.when(at == 0, likely=False):
        give_up()
    return (m.load(at, 64) >> 40) & ATTRIBUTES


def code_descriptor(m: Trace, selector: Value, dpl: Operand, give_up: GiveUp) -> Value:
    """The attributes of present 64-bit code of this DPL that is not conforming, and marked as accessed."""
    attributes = descriptor(m, selector, give_up)
    with m.when((attributes & CODE_MATTERS) != (m.lift(dpl, 64) << DPL_SHIFT | USABLE_CODE), likely=False):
        give_up()
    return attributes | (attributes & TYPE_READABLE) << shift(s.READABLE // TYPE_READABLE)


def stack_descriptor(m: Trace, selector: Value, dpl: Value, give_up: GiveUp) -> Value:
    """The attributes of a present, writable data segment of this DPL that grows up, marked as accessed."""
    attributes = descriptor(m, selector, give_up)
    with m.when((attributes & RIGHTS) != (dpl << DPL_SHIFT | DATA & RIGHTS), likely=False):
        give_up()
    return attributes | DATA_RIGHTS


def put_code(m: Trace, selector: Value, attributes: Operand) -> None:
    """CS becomes a flat segment."""
    _put_flat(m, "cs", selector, m.lift(attributes, 64))


def put_stack(m: Trace, selector: Value, attributes: Operand) -> None:
    """SS becomes a flat segment."""
    _put_flat(m, "ss", selector, m.lift(attributes, 64))


def put_null_stack(m: Trace, selector: Operand) -> None:
    """SS becomes null, which ring 0 may have."""
    _put(m, "ss", m.lift(selector, 64), m.const(s.UNUSABLE, 64), 0)


def _put_flat(m: Trace, name: str, selector: Value, attributes: Value) -> None:
    _put(m, name, selector, attributes, 0xFFFFFFFF)


def _put(m: Trace, name: str, selector: Value, attributes: Value, limit: int) -> None:
    m.put(f"{name}_selector", selector)
    m.put(f"{name}_attributes", attributes.trunc(32))
    m.put(f"{name}_base", m.const(0, 64))
    m.put(f"{name}_limit", m.const(limit, 32))


def put_mode(m: Trace, rflags: Value, cpl: int) -> None:
    """Let 64-bit code run at this CPL, with what hangs on it."""
    m.put("rflags", rflags)
    m.put("mode", code64(m, rflags, cpl))
    trap = (m.get("debugctl", 64) & DEBUGCTL_BUS_LOCK) != 0
    m.put("bus_lock_trap", trap.zext(32) if cpl else m.const(0, 32))


def is_canonical(address: Value) -> Value:
    """1-bit: bits 63:47 are equal."""
    return (address << 16).sar(16) == address


def cpl_of(m: Trace) -> Value:
    """The running privilege level, 64 bits wide."""
    return m.get("cs_selector", 64) & SELECTOR_RPL
