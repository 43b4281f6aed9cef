"""The page walk and the TLB (SDM vol. 3, chapter 5; APM vol. 2, chapter 5).

`walk` translates one guest-virtual address, sets accessed and dirty bits, and leaves `walk_physical` and `walk_rights`.
`access` puts the page into the TLB of the present rights and answers the host address, or ACCESS_FAULT with the #PF or #GP
prepared, or ACCESS_HARD when Python must do it: two pages, or (`walk_physical` says where) a device, a hit data breakpoint, a write
into translated code that `overwrite` does not settle. A page that holds breakpoints or code is in the TLB with a mark, see `TLB_*`.
"""

from trapgate.arch.control import CR0_CD, CR0_PG, CR0_WP, CR4_PAE, CR4_PGE, CR4_PSE, CR4_SMAP, CR4_SMEP, EFER_LMA, EFER_NXE
from trapgate.isa import modes
from trapgate.isa import state as s
from trapgate.isa.native.memtypes import mtrr_uncached, pat_uncached
from trapgate.isa.native.placing import touched_lines
from trapgate.isa.native.watching import hit, marks
from trapgate.isa.vocabulary import Trace, Value

PRESENT, WRITABLE, USER, _, _, ACCESSED, DIRTY, LARGE, GLOBAL = (1 << n for n in range(9))
NO_EXECUTE = 1 << 63
PF_PRESENT, PF_WRITE, PF_USER, PF_RESERVED, PF_FETCH = 1, 2, 4, 8, 16
PAE_RESERVED = 0x7FF0000000000000  # bits 62:52, available in long mode only
NOWHERE = (1 << 64) - 1


def in_ram(m: Trace, physical: Value, size: int) -> Value:
    """1-bit: all of [physical, physical + size) is RAM."""
    last = physical + size
    low = last.ule(m.get("ram_low_end", 64))
    high = physical.uge(1 << 32) & last.ule(m.get("ram_high_end", 64))
    return low | high


def page_fault(m: Trace, address: Value, wanted: Value, code: Value | int) -> None:
    """Prepare #PF for an access and return NOWHERE. Nothing is prepared for a debugger's peek."""
    with m.when((wanted & s.ACCESS_PEEK) == 0):
        error = m.lift(code, 64) | ((wanted & s.ACCESS_WRITE) << 1) | (wanted & s.ACCESS_USER)
        cr4 = m.get("cr4", 64)
        fetch_reported = ((m.get("efer", 64) & EFER_NXE) != 0) & ((cr4 & CR4_PAE) != 0) | ((cr4 & CR4_SMEP) != 0)
        fetching = (wanted & s.ACCESS_FETCH) != 0
        error = error | (fetching & fetch_reported).select(m.const(PF_FETCH, 64), m.const(0, 64))
        m.put("cr2", address)
        m.put("fault_vector", m.const(14, 32))
        m.put("fault_error", error.trunc(32))
        m.put("fault_has_error", m.const(1, 32))
    m.result(NOWHERE)


def walk(m: Trace) -> None:
    """walk(address, wanted) -> guest-physical address or NOWHERE."""
    address, wanted = m.arguments
    cr0, cr4, efer = m.get("cr0", 64), m.get("cr4", 64), m.get("efer", 64)
    with m.when((cr0 & CR0_PG) == 0):
        uncached = ((cr0 & CR0_CD) != 0) | mtrr_uncached(m, address)
        type_bit = uncached.select(m.const(s.RIGHT_UNCACHED, 64), m.const(0, 64))
        m.put("walk_rights", type_bit | (s.RIGHT_READ | s.RIGHT_WRITE | s.RIGHT_FETCH))
        m.result(address)
    long_mode = (efer & EFER_LMA) != 0
    with m.when(long_mode & ((address << 16).sar(16) != address), likely=False):
        with m.when((wanted & s.ACCESS_PEEK) == 0):
            m.put("fault_vector", m.const(13, 32))
            m.put("fault_error", m.const(0, 32))
            m.put("fault_has_error", m.const(s.NOT_CANONICAL, 32))  # Python finds out whether it is #SS
        m.result(NOWHERE)
    wide = ((cr4 & CR4_PAE) != 0) | long_mode  # a debugger may write one register without the other
    address_bits = m.get("physical_mask", 64) & ~m.const(0xFFF, 64)
    cr3 = m.get("cr3", 64)
    shift = m.variable(64, long_mode.select(m.const(39, 64), wide.select(m.const(30, 64), m.const(22, 64))))
    first = long_mode.select(cr3 & address_bits, wide.select(cr3 & 0xFFFFFFE0, cr3 & 0xFFFFF000))
    table, rights, entry, place = m.variable(64, first), m.variable(64, WRITABLE | USER), m.variable(64, 0), m.variable(64, 0)
    step = wide.select(m.const(9, 64), m.const(10, 64))
    pae_top = wide & ~long_mode
    with m.loop():
        level_mask = wide.select(m.const(0x1FF, 64), m.const(0x3FF, 64))
        index = (address >> shift.value) & level_mask
        top = pae_top & (shift.value == 30)
        index = top.select(index & 3, index)
        place.set(table.value + (index << wide.select(m.const(3, 64), m.const(2, 64))))
        inside = in_ram(m, place.value, 8)
        entry.set(wide.select(m.const(NOWHERE, 64), m.const(0xFFFFFFFF, 64)))  # no memory there: the bus reads as ones
        with m.when(inside):
            host = m.get("ram_base", 64) + place.value
            entry.set(wide.select(m.load(host, 64), m.load(host, 32).zext(64)))
        found = entry.value
        with m.when((found & PRESENT) == 0):
            page_fault(m, address, wanted, 0)
        leaf = (shift.value == 12) | (
            ((found & LARGE) != 0) & ((shift.value == 21) | (shift.value == 22) | (shift.value == 30)) & ~top
        )
        leaf = leaf & ((shift.value != 22) | ((cr4 & CR4_PSE) != 0))
        no_nx = ((efer & EFER_NXE) == 0).select(m.const(NO_EXECUTE, 64), m.const(0, 64))
        outside = ~m.get("physical_mask", 64) & 0x000FFFFFFFFFFFFF
        low_bits = (leaf & (shift.value != 12)).select(((m.const(1, 64) << shift.value) - 1) & 0xFFFFFFFFFFFFE000, m.const(0, 64))
        reserved = wide.select(outside | no_nx | low_bits, m.const(0, 64))
        upper = (shift.value == 39) | ((shift.value == 30) & ~leaf)
        reserved = reserved | (shift.value == 39).select(m.const(LARGE, 64), m.const(0, 64))
        reserved = reserved | upper.select(m.get("table_reserved", 64), m.const(0, 64))
        reserved = reserved | long_mode.select(m.const(0, 64), m.const(PAE_RESERVED, 64))
        pse36 = leaf & (shift.value == 22)
        reserved = wide.select(reserved, pse36.select(m.const(1 << 21, 64), m.const(0, 64)))
        reserved = top.select(outside | NO_EXECUTE | 0x1E6, reserved)
        with m.when((found & reserved) != 0, likely=False):
            page_fault(m, address, wanted, PF_PRESENT | PF_RESERVED)
        with m.when(~top):
            rights.set((rights.value & (found | ~m.const(WRITABLE | USER, 64))) | (found & NO_EXECUTE))
        with m.when(leaf):
            m.leave()
        unset = ((found & ACCESSED) == 0) & ~top & ((wanted & s.ACCESS_PEEK) == 0)
        with m.when(unset):
            m.store(m.get("ram_base", 64) + place.value, found.trunc(8) | ACCESSED)
        table.set(wide.select(found & address_bits, found & 0xFFFFF000))
        shift.set(shift.value - step)
    found = entry.value
    offset_mask = (m.const(1, 64) << shift.value) - 1
    base = wide.select(found & address_bits, found & 0xFFFFF000) & ~offset_mask
    high = (shift.value == 22).select((found & (0xFF << 13)) << 19, m.const(0, 64))  # PSE-36: bits 20:13 are address bits 39:32
    base = base | high & address_bits
    physical = base | (address & offset_mask)
    user_page, writable = (rights.value & USER) != 0, (rights.value & WRITABLE) != 0
    executable = ((rights.value & NO_EXECUTE) == 0) | ((efer & EFER_NXE) == 0)
    user = (wanted & s.ACCESS_USER) != 0
    smep, smap = (cr4 & CR4_SMEP) != 0, (cr4 & CR4_SMAP) != 0
    kernel_reads = ~user_page | ~smap | ((wanted & s.ACCESS_AC) != 0)
    may_read = user.select(user_page, kernel_reads)
    may_write = user.select(user_page & writable, kernel_reads & (writable | ((cr0 & CR0_WP) == 0)))
    may_fetch = executable & user.select(user_page, ~user_page | ~smep)
    writing, fetching = (wanted & s.ACCESS_WRITE) != 0, (wanted & s.ACCESS_FETCH) != 0
    allowed = writing.select(may_write, fetching.select(may_fetch, may_read)) | ((wanted & s.ACCESS_PEEK) != 0)
    with m.when(~allowed):
        page_fault(m, address, wanted, PF_PRESENT)
    new = found | ACCESSED | writing.select(m.const(DIRTY, 64), m.const(0, 64))
    with m.when((new != found) & ((wanted & s.ACCESS_PEEK) == 0)):
        m.store(m.get("ram_base", 64) + place.value, new.trunc(8))
    uncached = pat_uncached(m, found, shift.value == 12) | ((cr0 & CR0_CD) != 0) | mtrr_uncached(m, physical)
    bits = m.const(0, 64)
    for condition, bit in (
        (may_read, s.RIGHT_READ),
        (may_write & ((new & DIRTY) != 0), s.RIGHT_WRITE),
        (may_fetch, s.RIGHT_FETCH),
        (((found & GLOBAL) != 0) & ((cr4 & CR4_PGE) != 0), s.RIGHT_GLOBAL),
        (uncached, s.RIGHT_UNCACHED),
        (shift.value != 12, s.RIGHT_LARGE),
        (shift.value == 21, s.RIGHT_2M),
    ):
        bits = bits | condition.select(m.const(bit, 64), m.const(0, 64))
    m.put("walk_rights", bits)
    m.put("walk_entry", found)
    m.result(physical)


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
    plain = (rights & s.RIGHT_UNCACHED) == 0
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


def jump_filter(m: Trace, rip: Value) -> tuple[Value, Value]:
    """(offset of the 64-bit word, mask) of a code page in `jump_pages`."""
    page = (rip >> 12) & 0xFFF
    return ((page >> 6) << 3) + (rip >> 63) * s.JUMP_FILTER_BYTES, m.const(1, 64) << (page & 63)


def large_filter(address: Value) -> tuple[Value, Value]:
    """(offset of the 64-bit word, mask) of a 2 MiB page in `large_filter`."""
    number = (address >> 21) & 0xFFF
    return (number >> 6) << 3, address.trace.const(1, 64) << (number & 63)


def flush_page(m: Trace) -> None:
    """flush_page(address): INVLPG. Where large pages are about, every fragment in the same GiB goes, too."""
    (address,) = m.arguments
    page = address & ~m.const(0xFFF, 64)
    word, bit = large_filter(address)
    inside = (page.uge(m.get("large_start", 64)) & page.ule(m.get("large_end", 64))) | (
        (m.get_at("large_filter", word, 64) & bit) != 0
    )
    with m.when(inside):
        slot = m.variable(64, 0)
        with m.loop():
            with m.when(slot.value == 3 * s.TLB_ENTRIES):
                m.leave()
            large = (m.get_at("tlb_flags", slot.value, 8) & 2) != 0
            gone = m.variable(1, 0)
            for tag in range(3):
                held = m.get_at("tlb", (slot.value << 5) + 8 * tag, 64)
                gone.set(gone.value | (large & ((held >> 30) == (address >> 30))))
            with m.when(gone.value):
                _invalidate(m, slot.value)
            slot.set(slot.value + 1)
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
    "walk": (walk, 64, 2),
    "access": (access, 64, 3),
    "flush": (flush, 0, 1),
    "flush_jumps": (flush_jumps, 0, 1),
    "flush_page": (flush_page, 0, 1),
    "protect": (protect, 0, 1),
}
