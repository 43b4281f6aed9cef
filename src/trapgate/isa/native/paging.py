"""Keeps the TLB (SDM vol. 3, 5.10; APM vol. 2, 5.5): pages enter it by `isa.native.walking`, and are forgotten.

`access` puts the page into the TLB of the present rights and answers the host address, or ACCESS_FAULT with the #PF or #GP
prepared, or ACCESS_HARD when Python must do it: two pages, or (`walk_physical` says where) a device, a hit data breakpoint, a write
into translated code that `overwrite` does not settle. A page that holds breakpoints or code is in the TLB with a mark, see `TLB_*`.
"""

from trapgate.isa import modes
from trapgate.isa import state as s
from trapgate.isa.native.placing import touched_lines
from trapgate.isa.native.walking import NOWHERE, in_ram, mark_dirty
from trapgate.isa.native.watching import hit, marks
from trapgate.isa.vocabulary import Trace, Value


def present_rights(m: Trace) -> Value:
    """ACCESS_USER and ACCESS_AC as the running mode has them."""
    mode = m.get("mode", 32).zext(64)
    user = (mode & modes.CPL) == modes.CPL
    ac = ((mode & modes.AC) != 0).select(m.const(s.ACCESS_AC, 64), m.const(0, 64))
    return user.select(m.const(s.ACCESS_USER, 64), ac)


def tlb_slot(m: Trace, address: Value, wanted: Value) -> Value:
    """The number of the one TLB entry that may hold a page for accesses with ACCESS_USER or ACCESS_AC as in `wanted`."""
    user, ac = (wanted & s.ACCESS_USER) != 0, (wanted & s.ACCESS_AC) != 0
    table = user.select(m.const(s.TLB_USER, 64), ac.select(m.const(s.TLB_KERNEL_AC, 64), m.const(s.TLB_KERNEL, 64)))
    return (table * s.TLB_ENTRIES) | ((address >> 12) & (s.TLB_ENTRIES - 1))


def access(m: Trace) -> None:
    """access(address, size, wanted) -> host address, ACCESS_FAULT or ACCESS_HARD. The page enters the TLB where it may."""
    address, size, wanted = m.arguments
    with m.when(((address & 0xFFF) + size).ugt(0x1000), likely=False):
        m.result(s.ACCESS_HARD)
    page = address & ~m.const(0xFFF, 64)
    slot = tlb_slot(m, address, wanted)
    entry = slot << 5
    writing, fetching = (wanted & s.ACCESS_WRITE) != 0, (wanted & s.ACCESS_FETCH) != 0
    mark = m.get_at("tlb", entry + ((wanted & s.ACCESS_WRITE) << 3), 64) - page
    with m.when((mark - 1).ult(s.TLB_WATCHED | s.TLB_CODE) & ~fetching):
        marked_access(m, address, size, wanted, mark, m.get_at("tlb", entry + 24, 64))
    m.put("count_walks", m.get("count_walks", 64) + 1)
    physical = m.call("walk", 64, address, wanted)
    with m.when(physical == NOWHERE, likely=False):
        m.result(s.ACCESS_FAULT)
    physical_page = physical & ~m.const(0xFFF, 64)
    with m.when(~in_ram(m, physical_page, 4096), likely=False):
        m.put("walk_physical", physical)
        m.result(s.ACCESS_HARD)
    m.put("walk_physical", physical)
    rights = m.get("walk_rights", 64)
    read_mark, write_mark = marks(m, page)
    lines_at = m.get("code_lines", 64) + ((physical_page >> 12) << 3)
    lines = m.load(lines_at, 64)
    code_mark = (lines != 0).select(m.const(s.TLB_CODE, 64), m.const(0, 64))
    none = m.const(s.TLB_INVALID, 64)
    with m.when(writing):
        mark_dirty(m, physical)
    dirty = m.load(m.get("dirty_pages", 64) + (physical >> 12), 8) != 0
    plain = ((rights & s.RIGHT_UNCACHED) == 0) & dirty
    m.put_at("tlb", entry, ((rights & s.RIGHT_READ) != 0).select(page | read_mark, none))
    m.put_at("tlb", entry + 8, (((rights & s.RIGHT_WRITE) != 0) & plain).select(page | write_mark | code_mark, none))
    m.put_at("tlb", entry + 16, ((rights & s.RIGHT_FETCH) != 0).select(page, none))
    addend = m.get("ram_base", 64) + physical_page - page
    m.put_at("tlb", entry + 24, addend)
    local = ((rights & s.RIGHT_GLOBAL) == 0).select(m.const(s.FLAG_LOCAL, 64), m.const(s.FLAG_GLOBAL, 64))
    flags = local | ((rights & s.RIGHT_LARGE) >> 4)
    m.put_at("tlb_flags", slot, flags.trunc(8))
    with m.when((rights & s.RIGHT_GLOBAL) == 0):
        word, group = (slot >> s.TLB_BITS) << 3, (slot & (s.TLB_ENTRIES - 1)) >> s.TLB_GROUP_BITS
        m.put_at("tlb_local", word, m.get_at("tlb_local", word, 64) | (m.const(1, 64) << group))
    with m.when((rights & s.RIGHT_2M) != 0):
        word, bit = large_filter(address)
        m.put_at("large_filter", word, m.get_at("large_filter", word, 64) | bit)
    with m.when((rights & (s.RIGHT_LARGE | s.RIGHT_2M)) == s.RIGHT_LARGE):
        with m.when(page.ult(m.get("large_start", 64))):
            m.put("large_start", page)
        with m.when(page.ugt(m.get("large_end", 64))):
            m.put("large_end", page)
    with m.when(fetching & address.sign & ((rights & s.RIGHT_GLOBAL) == 0), likely=False):
        m.put("nonglobal_code", m.const(1, 64))
    with m.when((writing.select(write_mark, read_mark) != 0) & ~fetching, likely=False):
        with m.when(hit(m, address, size, wanted), likely=False):
            m.result(s.ACCESS_HARD)
    with m.when(writing & (lines != 0), likely=False):
        forget_written(m, physical, size, lines)
    m.result(address + addend)


def page_host(m: Trace) -> None:
    """page_host(address, size, wanted): `access`, but a page in the TLB needs no walk."""
    address, size, wanted = m.arguments
    entry, page = tlb_slot(m, address, wanted) << 5, address & ~m.const(0xFFF, 64)
    with m.when(m.get_at("tlb", entry + ((wanted & s.ACCESS_WRITE) << 3), 64) == page):
        m.result(address + m.get_at("tlb", entry + 24, 64))
    m.result(m.call("access", 64, address, size, wanted))


def marked_access(m: Trace, address: Value, size: Value, wanted: Value, mark: Value, addend: Value) -> None:
    """In `access`, where the page is in the TLB with a mark: ends there, unless the page is neither watched nor code any more."""
    host = address + addend
    physical = host - m.get("ram_base", 64)
    watches = (mark & s.TLB_WATCHED) != 0
    with m.when(watches):
        with m.when(hit(m, address, size, wanted), likely=False):
            m.put("walk_physical", physical)
            m.result(s.ACCESS_HARD)
    lines = m.variable(64, 0)
    with m.when((wanted & s.ACCESS_WRITE) != 0):
        mark_dirty(m, physical)
        lines.set(m.load(m.get("code_lines", 64) + ((physical >> 12) << 3), 64))
        with m.when(lines.value != 0):
            m.put("count_code_stores", m.get("count_code_stores", 64) + 1)
            m.put("walk_physical", physical)
            forget_written(m, physical, size, lines.value)
    with m.when(watches | (lines.value != 0)):
        m.result(host)


def forget_written(m: Trace, physical: Value, size: Value, lines: Value) -> None:
    """In `access`, before a store into a page of code with these `lines`: what was made of the bytes goes, or ACCESS_HARD."""
    with m.when((lines & touched_lines(m, physical, size)) != 0, likely=False):
        with m.when(m.call("overwrite", 64, physical, size) == 0):
            m.result(s.ACCESS_HARD)


def flush(m: Trace) -> None:
    """flush(keep_global): forget translations; the jump caches of the address space go with them.

    Only the groups in which there may be something to forget are looked at, the flags of eight entries together.
    """
    (keep_global,) = m.arguments
    keep = keep_global != 0
    doomed = keep.select(m.const(s.FLAG_LOCAL * 0x0101010101010101, 64), m.const(NOWHERE, 64))
    at, end, groups = m.variable(64, 0), m.variable(64, 0), m.variable(64, 0)
    for table in range(3):
        groups.set(keep.select(m.get_at("tlb_local", m.const(8 * table, 64), 64), m.const(NOWHERE, 64)))
        m.put_at("tlb_local", m.const(8 * table, 64), m.const(0, 64))
        with m.loop():
            with m.when(groups.value == 0):
                m.leave()
            at.set(groups.value.trailing_zeros() * (1 << s.TLB_GROUP_BITS) + table * s.TLB_ENTRIES)
            groups.set(groups.value & (groups.value - 1))
            end.set(at.value + (1 << s.TLB_GROUP_BITS))
            with m.loop():
                with m.when(at.value == end.value):
                    m.leave()
                with m.when((m.get_at("tlb_flags", at.value, 64) & doomed) != 0):
                    for slot in range(8):
                        with m.when((m.get_at("tlb_flags", at.value + slot, 8) & doomed.trunc(8)) != 0):
                            _invalidate(m, at.value + slot)
                at.set(at.value + 8)
    with m.when(~keep):
        m.put("large_start", m.const(NOWHERE, 64))
        m.put("large_end", m.const(0, 64))
        at.set(0)
        with m.loop():
            with m.when(at.value == 512):
                m.leave()
            m.put_at("large_filter", at.value, m.const(0, 64))
            at.set(at.value + 8)
    everything = ~keep | (m.get("nonglobal_code", 64) != 0)
    m.call("flush_jumps", 0, everything.select(m.const(2, 64), m.const(1, 64)))
    m.result()


def flush_jumps(m: Trace) -> None:
    """flush_jumps(halves): forget the jump cache of the user half (1) or of both halves (2)."""
    (halves,) = m.arguments
    length = halves * s.JUMP_ENTRIES
    turn = m.variable(64, 0)
    with m.loop():
        with m.when(turn.value == length):
            m.leave()
        m.put_at("jumps", turn.value << 4, m.const(NOWHERE, 64))
        turn.set(turn.value + 1)
    turn.set(0)
    with m.loop():
        with m.when(turn.value == halves * s.JUMP_FILTER_BYTES):
            m.leave()
        m.put_at("jump_pages", turn.value, m.const(0, 64))
        turn.set(turn.value + 8)
    with m.when(halves == 2):
        m.put("nonglobal_code", m.const(0, 64))
    m.result()


def jump_filter(m: Trace, linear: Value) -> tuple[Value, Value]:
    """(offset of the 64-bit word, mask) of the page of a linear address in `jump_pages`."""
    page = (linear >> 12) & 0xFFF
    return ((page >> 6) << 3) + (linear >> 63) * s.JUMP_FILTER_BYTES, m.const(1, 64) << (page & 63)


def large_filter(address: Value) -> tuple[Value, Value]:
    """(offset of the 64-bit word, mask) of a 2 MiB page in `large_filter`."""
    number = (address >> 21) & 0xFFF
    return (number >> 6) << 3, address.trace.const(1, 64) << (number & 63)


def flush_page(m: Trace) -> None:
    """flush_page(address): INVLPG. Where larger pages are about, every fragment in the same 2 MiB, or GiB, goes, too."""
    (address,) = m.arguments
    page = address & ~m.const(0xFFF, 64)
    word, bit = large_filter(address)
    larger = page.uge(m.get("large_start", 64)) & page.ule(m.get("large_end", 64))
    inside = larger | ((m.get_at("large_filter", word, 64) & bit) != 0)
    with m.when(inside):
        whole = m.const(s.TLB_ENTRIES, 64)
        first = larger.select(m.const(0, 64), (address >> 12) & (s.TLB_ENTRIES - 512))
        length = larger.select(whole, m.const(512, 64))
        shift = larger.select(m.const(30, 64), m.const(21, 64))
        for table in range(3):
            _invalidate_large(m, first + table * s.TLB_ENTRIES, length, address >> shift, shift)
    for table in range(3):
        place = ((address >> 12) & (s.TLB_ENTRIES - 1)) + table * s.TLB_ENTRIES
        same = m.variable(1, 0)
        for tag in range(3):
            held = m.get_at("tlb", (place << 5) + 8 * tag, 64) & ~m.const(s.TLB_WATCHED | s.TLB_CODE, 64)
            same.set(same.value | (held == page))
        with m.when(same.value):
            _invalidate(m, place)
    word, bit = jump_filter(m, address)
    with m.when(((m.get_at("jump_pages", word, 64) & bit) != 0) | inside):
        m.call("flush_jumps", 0, address.sign.select(m.const(2, 64), m.const(1, 64)))
    m.result()


def _invalidate_large(m: Trace, first: Value, length: Value, wanted: Value, shift: Value) -> None:
    """Forget fragments of large pages among so many entries where their addresses, shifted, are as wanted."""
    at, end = m.variable(64, first), first + length
    with m.loop():
        with m.when(at.value == end):
            m.leave()
        with m.when((m.get_at("tlb_flags", at.value, 64) & (s.FLAG_LARGE * 0x0101010101010101)) != 0):
            for slot in range(8):
                large = (m.get_at("tlb_flags", at.value + slot, 8) & s.FLAG_LARGE) != 0
                gone = m.const(0, 1)
                for tag in range(3):
                    gone = gone | ((m.get_at("tlb", ((at.value + slot) << 5) + 8 * tag, 64) >> shift) == wanted)
                with m.when(large & gone):
                    _invalidate(m, at.value + slot)
        at.set(at.value + 8)


def _invalidate(m: Trace, slot: Value) -> None:
    for tag in range(3):
        m.put_at("tlb", (slot << 5) + 8 * tag, m.const(s.TLB_INVALID, 64))
    m.put_at("tlb_flags", slot, m.const(0, 8))


def protect(m: Trace) -> None:
    """protect(physical_page): a page holds translated code now: stores to it must be seen, as those to marked pages are."""
    (physical,) = m.arguments
    slot = m.variable(64, 0)
    with m.loop():
        with m.when(slot.value == 3 * s.TLB_ENTRIES):
            m.leave()
        entry = slot.value << 5
        tag, addend = m.get_at("tlb", entry + 8, 64), m.get_at("tlb", entry + 24, 64)
        with m.when((tag + addend - m.get("ram_base", 64)) == physical):
            m.put_at("tlb", entry + 8, m.const(s.TLB_INVALID, 64))
        slot.set(slot.value + 1)
    m.result()


FUNCTIONS = {
    "access": (access, 64, 3),
    "page_host": (page_host, 64, 3),
    "flush": (flush, 0, 1),
    "flush_jumps": (flush_jumps, 0, 1),
    "flush_page": (flush_page, 0, 1),
    "protect": (protect, 0, 1),
}
