"""Compares accesses with data breakpoints: whether one is hit, or a page holds one (SDM vol. 3, 18.2.5).

There are two lists, of what a read and of what a store hits: disjoint ranges of linear addresses in ascending order, each a first
and a last byte (`soft.state.armed` makes them). Which breakpoint it was, and what follows, is Python's to say.
"""

from trapgate.isa import state as s
from trapgate.isa.vocabulary import Trace, Value

RANGE_SHIFT = 4  # a range has 16 bytes


def watched(m: Trace) -> None:
    """watched(first, last, list, end) -> 1 where a range of the list, which ends at `end`, has a byte of [first, last]."""
    first, last, start, end = m.arguments
    low, high = m.variable(64, 0), m.variable(64, (end - start) >> RANGE_SHIFT)
    with m.loop():  # the first range that ends at `first` or beyond
        with m.when(low.value == high.value):
            m.leave()
        middle = (low.value + high.value) >> 1
        before = m.load(start + (middle << RANGE_SHIFT) + 8, 64).ult(first)
        low.set(before.select(middle + 1, low.value))
        high.set(before.select(high.value, middle))
    at = start + (low.value << RANGE_SHIFT)
    with m.when(at == end):
        m.result(0)
    m.result(m.load(at, 64).ule(last).zext(64))


def _search(m: Trace, first: Value, last: Value, name: str) -> Value:
    return m.call("watched", 64, first, last, m.get(f"watched_{name}", 64), m.get(f"watched_{name}_end", 64)) != 0


def hit(m: Trace, address: Value, size: Value, wanted: Value) -> Value:
    """1-bit: an access with ACCESS_WRITE and ACCESS_READ as in `wanted` touches what is watched for it."""
    last = address + size - 1
    writes = (wanted & s.ACCESS_WRITE) != 0
    found = m.variable(1, 0)
    with m.when(writes):
        found.set(_search(m, address, last, "writes"))
    with m.when(~writes | ((wanted & s.ACCESS_READ) != 0)):
        found.set(found.value | _search(m, address, last, "reads"))
    return found.value


def marks(m: Trace, page: Value) -> tuple[Value, Value]:
    """(mark of the tag for reading, of the tag for writing) of a page in the TLB; what is stored into may be read as well."""
    reads, writes = m.variable(64, 0), m.variable(64, 0)
    for name, found in (("reads", reads), ("writes", writes)):
        with m.when(m.get(f"watched_{name}_end", 64) != m.get(f"watched_{name}", 64), likely=False):
            inside = _search(m, page, page + 0xFFF, name)
            found.set(inside.select(m.const(s.TLB_WATCHED, 64), m.const(0, 64)))
    return reads.value, reads.value | writes.value


FUNCTIONS = {"watched": (watched, 64, 4)}
