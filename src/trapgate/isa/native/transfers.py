"""Says what CS is in real and virtual-8086 mode (SDM vol. 3, 20.1.1, 20.2), and what another base does to the jump cache."""

from trapgate.arch.segments import ATTR_DB
from trapgate.isa import state as s
from trapgate.isa.native.mode import has
from trapgate.isa.native.segments import ANY_RIGHTS, KEPT_IN_REAL_MODE, V86_DATA, level
from trapgate.isa.vocabulary import Trace, Value

REAL_CODE = 0x9B  # present, readable, accessed code


def paragraph(m: Trace, selector: Value) -> tuple[Value, Value, Value]:
    """(base, limit, attributes) of CS in real or virtual-8086 mode."""
    virtual, old = level(m) == 3, m.get("cs_attributes", 32).zext(64)
    limit = (virtual | has(old, s.UNUSABLE)).select(m.const(0xFFFF, 64), m.get("cs_limit", 32).zext(64))
    attributes = virtual.select(m.const(V86_DATA, 64), (old & KEPT_IN_REAL_MODE) | REAL_CODE)
    return selector << 4, limit, attributes | ANY_RIGHTS


def follow_base(m: Trace, base: Value, attributes: Value) -> None:
    """What jumps lead to is forgotten where 32-bit code gets another base: the jump cache knows that of 16-bit code alone."""
    with m.when(has(attributes, ATTR_DB) & (m.get("jump_base", 64) != base), likely=False):
        m.call("flush_jumps", 0, 2)
        m.put("jump_base", base)
