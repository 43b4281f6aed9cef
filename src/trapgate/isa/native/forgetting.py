"""Forgets blocks: those whose guest bytes change, those where a breakpoint is set or goes, all.

A page has one bit in `code_lines` for each 64 bytes that were translated, in `kept_lines` for those of blocks that Python keeps.
"""

from trapgate.isa import modes
from trapgate.isa.native.placing import (
    GONE,
    NOWHERE,
    PLACE,
    PLACED,
    chain_all,
    class_of,
    entry_of,
    is_narrow,
    jump_place,
    length_of,
    next_of,
    serialize,
    touched_lines,
)
from trapgate.isa.vocabulary import Trace, Value


def forget_blocks(m: Trace) -> None:
    """forget_blocks(physical page, first, last) -> how many blocks with bytes at these offsets in the page are gone.

    The lines of the page are marked anew for those that are left.
    """
    page, first, last = m.arguments
    head = m.get("page_blocks", 64) + ((page >> 12) << 2)
    here, left = m.variable(64, m.load(head, 32).zext(64)), m.variable(32, 0)
    lines, gone, gone_rip = m.variable(64, m.load(_lines_of(m, "kept_lines", page), 64)), m.variable(64, 0), m.variable(64, 0)
    narrow = m.variable(1, 0)
    with m.loop():
        with m.when(here.value == 0):
            m.leave()
        entry = entry_of(m, here.value - 1)
        following = next_of(m, entry)
        physical, length = m.load(entry + PLACED.physical, 64), length_of(m, entry)
        start = physical & 0xFFF
        with m.when(start.ule(last) & (start + length).ugt(first)):
            gone.set(gone.value + 1)
            gone_rip.set(m.load(entry + PLACED.rip, 64))
            mode = m.load(entry + PLACED.mode, 32).zext(64)
            narrow.set(narrow.value | is_narrow(mode))
            tag, place = gone_rip.value & ((1 << 48) - 1) | (mode << 48), jump_place(gone_rip.value)
            with m.when(m.get_at("jumps", place, 64) == tag):
                m.put_at("jumps", place, m.const(NOWHERE, 64))
            m.store(entry + PLACED.mode, m.const(GONE, 32))
        with m.otherwise():
            m.store(entry + PLACED.next, (m.load(entry + PLACED.next, 32) & ~m.const(PLACE, 32)) | left.value)
            left.set(here.value.trunc(32))
            lines.set(lines.value | touched_lines(m, physical, length))
        here.set(following)
    with m.when(narrow.value):
        m.call("flush_jumps", 0, 2)  # one block, entered under any base
    m.store(head, left.value)
    m.store(_lines_of(m, "code_lines", page), lines.value)
    m.put("blocks_forgotten", m.get("blocks_forgotten", 64) + gone.value)
    with m.when((gone.value != 0) & (m.get("chaining", 32) != 0)):
        alone = gone.value == 1
        wanted = alone.select(gone_rip.value, m.const(NOWHERE, 64))
        classes = alone.select(class_of(gone_rip.value), ~m.const(PLACE, 32))
        chain_all(m, left.value.zext(64), classes, wanted)
        serialize(m)
    m.result(gone.value)


def overwrite(m: Trace) -> None:
    """overwrite(physical, size) -> 1: no block is made of these bytes of a page any more; 0: Python must see to that.

    Python's: blocks that it keeps, and the page of the block that runs, which must not go on as it was.
    """
    physical, size = m.arguments
    kept = m.load(_lines_of(m, "kept_lines", physical), 64)
    with m.when((kept & touched_lines(m, physical, size)) != 0, likely=False):
        m.result(0)
    here = m.variable(64, m.load(m.get("page_blocks", 64) + ((physical >> 12) << 2), 32).zext(64))
    rip, long_code = m.get("rip", 64), (m.get("mode", 32) & modes.CODE64) != 0
    space = long_code.select(m.const(NOWHERE, 64), m.const(0xFFFF, 64))  # IP wraps around
    with m.loop():
        with m.when(here.value == 0):
            m.leave()
        entry = entry_of(m, here.value - 1)
        into = (rip - m.load(entry + PLACED.rip, 64)) & space
        with m.when(into.ult(4096), likely=False):
            with m.when(into.ult(length_of(m, entry))):
                m.result(0)
        here.set(next_of(m, entry))
    offset = physical & 0xFFF
    m.call("forget_blocks", 64, physical - offset, offset, offset + size - 1)
    m.result(1)


def forget_offset(m: Trace) -> None:
    """forget_offset(offset): forget the blocks with a byte at this offset in whatever page."""
    (offset,) = m.arguments
    page = m.variable(64, 0)
    with m.loop():
        with m.when(page.value.uge(m.get("ram_high_end", 64))):
            m.leave()
        with m.when(m.load(m.get("page_blocks", 64) + ((page.value >> 12) << 2), 32) != 0):
            m.call("forget_blocks", 64, page.value, offset, offset)
        page.set(page.value + 4096)
    m.result()


def forget_all(m: Trace) -> None:
    """forget_all(): no page has blocks any more; the caller clears the table."""
    page = m.variable(64, 0)
    with m.loop():
        with m.when(page.value.uge(m.get("ram_high_end", 64))):
            m.leave()
        head = m.get("page_blocks", 64) + ((page.value >> 12) << 2)
        with m.when(m.load(head, 32) != 0):
            m.store(head, m.const(0, 32))
            m.store(_lines_of(m, "code_lines", page.value), m.const(0, 64))
        page.set(page.value + 4096)
    m.result()


def _lines_of(m: Trace, table: str, physical: Value) -> Value:
    """Where a page's word in a table of lines is."""
    return m.get(table, 64) + ((physical >> 12) << 3)


FUNCTIONS = {
    "forget_blocks": (forget_blocks, 64, 3),
    "overwrite": (overwrite, 64, 2),
    "forget_offset": (forget_offset, 0, 1),
    "forget_all": (forget_all, 0, 0),
}
