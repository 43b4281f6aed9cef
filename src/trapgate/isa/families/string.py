"""Makes string instructions: the pointers, the repetition, and the bulk forms that move many elements at once inside one page.

A repeated instruction is a loop of its one iteration: REP_HEAD leaves when the count is 0, the iteration runs, REP_NEXT counts,
REP_SEAM lets interrupts in, and the next one follows. RIP stays on the instruction meanwhile, so faults and interrupts between
iterations are exact (SDM vol. 2, REP). On the instruction clock each iteration is an instruction.
"""

from collections.abc import Iterator
from functools import partial

from trapgate.arch.flags import DF
from trapgate.isa import flags
from trapgate.isa.families.memory import probe
from trapgate.isa.forms import Form
from trapgate.isa.vocabulary import Trace, Value

ADDRESS_WIDTHS = (16, 32, 64)


def pointer(m: Trace, width: int, segment: bool) -> None:
    """EA = the pointer register (R0) at the address size [+ segment base]."""
    address = m.get("R0", width).zext(64)
    m["EA"] = address + m.get("Rseg", 64) if segment else address
    m.jump("NEXT")


def _put_cut(m: Trace, field: str, value: Value, width: int) -> None:
    m.put(field, value if width == 64 else value.trunc(width).zext(64) if width == 32 else value.trunc(16))


def advance(m: Trace, size: int, width: int) -> None:
    """The pointer register moves by one element, down where RFLAGS.DF is set."""
    down = (m.get("rflags", 64) & DF) != 0
    _put_cut(m, "R0", m.get("R0", 64) + down.select(m.const(-size, 64), m.const(size, 64)), width)
    m.jump("NEXT")


def compare_transients(m: Trace, width: int) -> None:
    """CMPS: flags of T0 - T1."""
    a, b = m["T0"].trunc(width), m["T1"].trunc(width)
    flags.after_sub(m, a, b, a - b)
    m.jump("NEXT")


def rep_head(m: Trace, width: int) -> None:
    """Leave (TAKEN) when the count is 0."""
    with m.when(m.get("rcx", width) == 0, likely=False):
        m.jump("TAKEN")
    m.jump("NEXT")


def rep_next(m: Trace, width: int, until: str) -> None:
    """Count down; on to the seam (TAKEN), for REPE/REPNE only while ZF agrees."""
    _put_cut(m, "rcx", m.get("rcx", 64) - 1, width)
    if until:
        zero = flags.condition(m, 4)
        with m.when(zero if until == "e" else ~zero, likely=True):
            m.jump("TAKEN")
        m.jump("NEXT")
    else:
        m.jump("TAKEN")


def rep_while(m: Trace, size: int, width: int, until: str) -> None:
    """Count down; on to the seam (TAKEN) while the elements in T0 and T1 agree (`until` e) or differ (ne) and the count is not 0.

    Flags are not touched: those of the last comparison are stored behind it.
    """
    left = m.get("rcx", 64) - 1
    _put_cut(m, "rcx", left, width)
    same = m["T0"].trunc(size) == m["T1"].trunc(size)
    with m.when((same if until == "e" else ~same) & (left.trunc(width) != 0), likely=True):
        m.jump("TAKEN")
    m.jump("NEXT")


def rep_seam(m: Trace, counting: bool) -> None:
    """Between two iterations: leave when something waits. `counting`: the next one is taken off the budget (instruction clock)."""
    stop = m.get("request", 32) != 0
    if counting:
        left = m.get("budget", 64) - 1
        stop = left.sign | stop
    with m.when(stop, likely=False):
        m.cold("leave_repeating")
    if counting:
        m.put("budget", left)
    m.jump("NEXT")


def bulk(m: Trace, name: str, size: int, counting: bool) -> None:
    """MOVS and STOS in 64-bit mode, upwards: as many elements as lie in the present pages at once, then on to the seam (TAKEN).

    Falls through to a single iteration where a page is not in the TLB or the next element would cross into another one. `counting`:
    never more elements than the budget holds; the first of them has been taken off it already.
    """
    up = (m.get("rflags", 64) & DF) == 0
    target, count = m.get("rdi", 64), m.get("rcx", 64)
    hit, host = probe(m, target, size, write=True)
    room = m.const(4096, 64) - (target & 4095)
    if name == "movs":
        source = m.get("rsi", 64)
        hit_source, host_source = probe(m, source, size, write=False)
        room_source = m.const(4096, 64) - (source & 4095)
        room = room.ult(room_source).select(room, room_source)
        # copying bytes upwards is copying elements upwards unless the target starts inside the first element
        distance = host - host_source
        hit = hit & hit_source & (distance.uge(size) | (distance == 0))
    elements = room >> (size.bit_length() - 1)
    elements = elements.ult(count).select(elements, count)
    if counting:
        left = m.get("budget", 64)
        elements = elements.ule(left).select(elements, left + 1)
    with m.when(hit & up & (elements != 0), likely=True):
        length = elements << (size.bit_length() - 1)
        letter = {1: "b", 2: "w", 4: "l", 8: "q"}[size]
        if name == "movs":
            m.asm("rep movsb", "={di},={si},={cx},0,1,2,~{memory}", 0, host, host_source, length)
            m.put("rsi", m.get("rsi", 64) + length)
        else:
            m.asm(f"rep stos{letter}", "={di},={cx},0,{ax},1,~{memory}", 0, host, m.get("rax", 64), elements)
        m.put("rdi", target + length)
        m.put("rcx", count - elements)
        if counting:
            m.put("budget", left - elements + 1)
        m.jump("TAKEN")
    m.jump("NEXT")


def forms() -> Iterator[Form]:
    """Every stencil of this family."""
    for width in ADDRESS_WIDTHS:
        for segment in (False, True):
            yield Form(f"pointer{'.seg' * segment}.{width}", partial(pointer, width=width, segment=segment))
        for size in (1, 2, 4, 8):
            yield Form(f"advance.{size}.{width}", partial(advance, size=size, width=width))
        yield Form(f"rep_head.{width}", partial(rep_head, width=width))
        for until in ("", "e", "ne"):
            yield Form(f"rep_next{until}.{width}", partial(rep_next, width=width, until=until))
        for size in (8, 16, 32, 64):
            for until in ("e", "ne"):
                name = f"rep_while{until}.{size}.{width}"
                yield Form(name, partial(rep_while, size=size, width=width, until=until))
    for size in (1, 2, 4, 8):
        yield Form(f"cmps.{size * 8}", partial(compare_transients, width=size * 8))
        for name in ("movs", "stos"):
            yield Form(f"bulk.{name}.{size}", partial(bulk, name=name, size=size, counting=False))
            yield Form(f"bulk.{name}.{size}.count", partial(bulk, name=name, size=size, counting=True))
    yield Form("rep_seam", partial(rep_seam, counting=False))
    yield Form("rep_seam.count", partial(rep_seam, counting=True))
