"""Loads the local descriptor table and the task register: LLDT and LTR (SDM vol. 2 under each name; SDM vol. 3, 3.5.2)."""

from trapgate.arch import vectors
from trapgate.arch.control import EFER_LMA
from trapgate.arch.segments import ATTR_S, SELECTOR_LDT, TSS_BUSY_BIT, SystemType
from trapgate.isa import state as s
from trapgate.isa.native.mode import has
from trapgate.isa.native.segments import TYPE_SHIFT, Descriptor, is_canonical, linear_in_table
from trapgate.isa.rules.loading import fetch, is_null, part, put, require_present
from trapgate.isa.rules.reading import Reading
from trapgate.isa.vocabulary import Value


def load_ldt(r: Reading) -> None:
    """load_ldt(selector): a null selector makes the LDT unusable."""
    m = r.m
    (selector,) = m.arguments
    with m.when(is_null(selector)):
        m.put("ldtr_selector", selector)
        m.put("ldtr_attributes", m.const(s.UNUSABLE, 32))
        r.done()
    found, base = _system_segment(r, selector, 1 << SystemType.LDT, 1 << SystemType.LDT)
    put(m, "ldtr", selector, base, found.limit, found.attributes)
    r.done()


def load_task(r: Reading) -> None:
    """load_task(selector): the TSS is marked busy in its descriptor and in TR."""
    m = r.m
    (selector,) = m.arguments
    with m.when(is_null(selector), likely=False):
        r.gp()
    found, base = _system_segment(r, selector, 1 << SystemType.TSS | 1 << SystemType.TSS16, 1 << SystemType.TSS)
    r.write(found.at + TYPE_SHIFT // 8, 1, (found.raw >> TYPE_SHIFT) & 0xFF | TSS_BUSY_BIT)
    put(m, "tr", selector, base, found.limit, found.attributes | TSS_BUSY_BIT)
    r.done()


def _system_segment(r: Reading, selector: Value, kinds: int, long_kinds: int) -> tuple[Descriptor, Value]:
    """(a present descriptor of these types, a bit each; its base, of 64 bits in long mode)."""
    m, error = r.m, part(selector)
    with m.when(has(selector, SELECTOR_LDT), likely=False):
        r.gp(error)
    found, long = fetch(r, selector), has(m.get("efer", 64), EFER_LMA)
    base = m.variable(64, found.base)
    with m.when(long & ~found.has(ATTR_S)):
        high = r.read(linear_in_table(m, selector, 16, lambda: r.gp(error)) + 8, 8)
        with m.when(((high >> TYPE_SHIFT) & 0x1F) != 0, likely=False):
            r.gp(error)
        base.set(base.value | high << 32)
    fits = long.select(m.const(long_kinds, 64), m.const(kinds, 64)) >> (found.attributes & 0xF)
    with m.when(found.has(ATTR_S) | ((fits & 1) == 0), likely=False):
        r.gp(error)
    require_present(r, found, vectors.NP, error)
    with m.when(~is_canonical(base.value), likely=False):
        r.gp(error)
    return found, base.value
