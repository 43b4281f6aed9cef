"""Finds known blocks by their guest bytes, copies them to where they run, chains them to the others of their page.

What was translated once, in this run or an earlier one, needs no Python to run again. Known blocks are *records* in one stretch of
memory, which `blocks.known` writes: an index by hash of the first guest bytes, then the records, each with its guest bytes, a mask
of those that must be equal, the holes and the host code. Blocks that have a place are *entries* of the table of blocks, which
the dispatcher searches; those of one guest-physical page hang together, so that a store into the page finds them.
"""

from trapgate.isa import modes
from trapgate.isa import state as s
from trapgate.isa.records import Record
from trapgate.isa.vocabulary import Trace, Value

NOWHERE = (1 << 64) - 1
GONE = (1 << 32) - 1  # the mode of an entry whose block was dropped
TURNS = 256  # places of the table at which an entry may lie: even at three quarters full, runs are shorter
LONG, SHORT = 16, 8  # records are found by so many first guest bytes; where a parameter or the end comes first, by fewer than SHORT
PAIR = 16  # bytes of a hole, an exit, a parameter
KNOWN_RUN, KNOWN_END, KNOWN_ADDED = (4 * s.KNOWN_PLACES + 4 * n for n in range(3))
"""Behind the index: the number of this run, where the next record goes, how many this run has made."""
KNOWN_ROOM = 192 << 20  # bytes of memory for records: reserved, not touched
MOST_RECORDS = 1 << 18  # made in one run
LARGEST_RECORD = 1 << 20  # bytes: none comes near

# A known block. Behind the fields: guest bytes and mask, each padded to 8; parameters, RIP holes, exits; the code.
RECORD = Record(
    next="I", prefix_length="H", run="H", space="Q", code_length="I", code_at="I",
    guest_length="H", parameters="H", rips="H", exits="H",
)  # fmt: skip
# A parameter (offset in the guest bytes, kind, offset in the code, addend) is a 32-bit constant of the guest's whose value the
# code was not made for: in the code as 32 bits, sign-extended to 64, or added to RIP.
PLAIN, EXTENDED, RELATIVE = range(3)
LEAST_PARAMETER, MOST_PARAMETER = 0x40000000, 0xFFFF0000  # [least, most): what addresses and distances in a kernel look like

# A block that has a place: an entry of the table of blocks.
PLACED = Record(rip="Q", physical="Q", mode="I", next="I", code="I", record="I")
ENTRY_SHIFT = (PLACED.size - 1).bit_length()
# `next` is 1 + the place of the next block of the page, 0 for none; above that one bit for each class of RIP that it branches to.
NEXT_BITS = 19
PLACE, CLASSES = (1 << NEXT_BITS) - 1, 32 - NEXT_BITS


OF_PREFIX, OF_SPACE, OF_LENGTH, OF_HIGH = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x9FB21C651E98DF25
"""What `spread` and `folded` multiply by."""


def spread(prefix: Value, space: Value, length: Value) -> Value:
    """Where a record's place in the index is; `blocks.known` computes the same on ints."""
    mixed = prefix * OF_PREFIX ^ space * OF_SPACE ^ length * OF_LENGTH
    return (mixed ^ mixed >> 29) & (s.KNOWN_PLACES - 1)


def folded(low: Value, high: Value) -> Value:
    """A prefix of LONG bytes in one word; a shorter one is itself."""
    return low ^ high * OF_HIGH


def crowded(m: Trace) -> Value:
    """1-bit: there is no room for another record. A guest that makes ever new code must not fill the host's memory."""
    known = m.get("known_base", 64)
    full = m.const(KNOWN_ROOM - LARGEST_RECORD, 32).ult(m.load(known + KNOWN_END, 32))
    return full | m.const(MOST_RECORDS, 32).ult(m.load(known + KNOWN_ADDED, 32))


def find_block(m: Trace) -> None:
    """find_block(host address, room, space) -> a known record that the `room` bytes there begin with, or 0.

    The one with the longest prefix, and of those the longest.
    """
    data, room, _ = m.arguments
    with m.when(room.uge(LONG)):
        _search(m, folded(m.load(data, 64), m.load(data + 8, 64)), m.const(LONG, 64))
    prefix, length = m.variable(64, 0), m.variable(64, room.ult(SHORT).select(room, m.const(SHORT, 64)))
    at = m.variable(64, length.value)
    with m.loop():
        at.set(at.value - 1)
        prefix.set((prefix.value << 8) | m.load(data + at.value, 8).zext(64))
        with m.when(at.value == 0):
            m.leave()
    with m.loop():
        _search(m, prefix.value, length.value)
        length.set(length.value - 1)
        with m.when(length.value == 0):
            m.leave()
        prefix.set(prefix.value & (m.const(NOWHERE, 64) >> (m.const(64, 64) - (length.value << 3))))
    m.result(0)


def _search(m: Trace, prefix: Value, length: Value) -> None:
    """In `find_block`: its result, if that is among the records with a prefix of this length."""
    data, room, space = m.arguments
    base = m.get("known_base", 64)
    record = m.variable(64, m.load(base + (spread(prefix, space, length) << 2), 32).zext(64))
    with m.loop():
        with m.when(record.value == 0):
            m.leave()
        place = base + record.value
        fits = (m.load(place + RECORD.space, 64) == space) & (m.load(place + RECORD.prefix_length, 16).zext(64) == length)
        with m.when(fits & m.load(place + RECORD.guest_length, 16).zext(64).ule(room)):
            with m.when(m.call("same_bytes", 64, place, data) != 0):
                m.result(record.value)
        record.set(m.load(place + RECORD.next, 32).zext(64))


def same_bytes(m: Trace) -> None:
    """same_bytes(record's address, guest bytes' address) -> 1 where the record was made of such bytes, else 0."""
    record, data = m.arguments
    length = m.load(record + RECORD.guest_length, 16).zext(64)
    guest = record + RECORD.size
    mask = guest + padded(length)
    at = m.variable(64, 0)
    with m.loop():
        with m.when((at.value + 8).ugt(length)):
            m.leave()
        differ = (m.load(guest + at.value, 64) ^ m.load(data + at.value, 64)) & m.load(mask + at.value, 64)
        with m.when(differ != 0):
            m.result(0)
        at.set(at.value + 8)
    with m.loop():
        with m.when(at.value == length):
            m.leave()
        differ = (m.load(guest + at.value, 8) ^ m.load(data + at.value, 8)) & m.load(mask + at.value, 8)
        with m.when(differ != 0):
            m.result(0)
        at.set(at.value + 1)
    parameter = m.variable(64, mask + padded(length))
    end = parameter.value + m.load(record + RECORD.parameters, 16).zext(64) * PAIR
    with m.loop():
        with m.when(parameter.value == end):
            m.leave()
        value = m.load(data + m.load(parameter.value, 16).zext(64), 32)
        with m.when((value - LEAST_PARAMETER).uge(MOST_PARAMETER - LEAST_PARAMETER)):
            m.result(0)
        parameter.set(parameter.value + PAIR)
    m.result(1)


def copy_block(m: Trace) -> None:
    """copy_block(record, RIP, guest bytes' address) -> offset of the copy in the code buffer, its holes filled."""
    number, rip, data = m.arguments
    record = m.get("known_base", 64) + number
    start = m.get("code_end", 64)
    target = m.get("code_write", 64) + start
    length = m.load(record + RECORD.code_length, 32).zext(64)
    copy_bytes(m, target, record + m.load(record + RECORD.code_at, 32).zext(64), length)
    m.put("code_end", start + length)
    m.store(record + RECORD.run, m.load(m.get("known_base", 64) + KNOWN_RUN, 16))  # the number of this run
    m.store(target, rip)
    mask = rip_mask(m.load(record + RECORD.space, 64))
    at = m.variable(64, record + RECORD.size + (padded(m.load(record + RECORD.guest_length, 16).zext(64)) << 1))
    end = m.variable(64, at.value + m.load(record + RECORD.parameters, 16).zext(64) * PAIR)
    with m.loop():
        with m.when(at.value == end.value):
            m.leave()
        value = m.load(data + m.load(at.value, 16).zext(64), 32).sext(64) + m.load(at.value + 8, 64)
        kind = m.load(at.value + 2, 16)
        hole = target + m.load(at.value + 4, 32).zext(64)
        with m.when(kind == PLAIN):
            m.store(hole, value.trunc(32))
        with m.otherwise():
            m.store(hole, (kind == RELATIVE).select(rip + value, value))
        at.set(at.value + PAIR)
    end.set(at.value + m.load(record + RECORD.rips, 16).zext(64) * PAIR)
    reach = m.variable(64, 0)
    with m.when(limited(m.load(record + RECORD.space, 64))):
        reach.set(_reach(m, record, rip, end.value, mask))
    with m.loop():
        with m.when(at.value == end.value):
            m.leave()
        by = m.load(at.value + 8, 64)
        m.store(target + m.load(at.value, 32).zext(64), (by == s.REACH).select(reach.value, (rip + by) & mask))
        at.set(at.value + PAIR)
    m.result(start)


def _reach(m: Trace, record: Value, rip: Value, exits: Value, mask: Value) -> Value:
    """The farthest offset that a copy of a record fetches from, or branches to; beyond all limits where RIP has to be cut."""
    length = m.load(record + RECORD.guest_length, 16).zext(64)
    behind = rip + length
    reach = m.variable(64, behind.ugt(mask).select(m.const(NOWHERE, 64), behind - 1))
    here = m.variable(64, exits)
    end = exits + m.load(record + RECORD.exits, 16).zext(64) * PAIR
    with m.loop():
        with m.when(here.value == end):
            m.leave()
        target = rip + m.load(here.value + 8, 64)
        with m.when((target != behind) & target.ugt(reach.value)):
            reach.set(target)
        here.set(here.value + PAIR)
    return reach.value.ugt(mask).select(m.const(NOWHERE, 64), reach.value)


def place_block(m: Trace) -> None:
    """place_block(record, physical) -> host address of a new block at the present RIP in the present mode, or 0: no room."""
    number, physical = m.arguments
    record = m.get("known_base", 64) + number
    room = m.get("code_limit", 64) - m.get("code_end", 64)
    with m.when(room.ult(m.load(record + RECORD.code_length, 32).zext(64)), likely=False):
        m.result(0)
    rip, mode = m.get("rip", 64), m.get("mode", 32)
    place = m.variable(64, block_hash(physical, rip, mode.zext(64)))
    turns = m.variable(64, 0)
    with m.loop():
        entry = entry_of(m, place.value & m.get("block_mask", 64))
        with m.when((m.load(entry + PLACED.code, 32) == 0) | (m.load(entry + PLACED.mode, 32) == GONE)):
            m.leave()
        place.set(place.value + 1)
        turns.set(turns.value + 1)
        with m.when(turns.value == TURNS):
            m.result(0)
    slot = place.value & m.get("block_mask", 64)
    entry = entry_of(m, slot)
    fresh = m.load(entry + PLACED.code, 32) == 0
    m.put("block_count", m.get("block_count", 64) + fresh.zext(64))
    code = m.call("copy_block", 64, number, rip, m.get("ram_base", 64) + physical)
    head = m.get("page_blocks", 64) + ((physical >> 12) << 2)
    m.store(entry + PLACED.rip, rip)
    m.store(entry + PLACED.physical, physical)
    m.store(entry + PLACED.mode, mode)
    m.store(entry + PLACED.next, m.load(head, 32))
    m.store(entry + PLACED.code, code.trunc(32))
    m.store(entry + PLACED.record, number.trunc(32))
    m.store(head, (slot + 1).trunc(32))
    lines = m.get("code_lines", 64) + ((physical >> 12) << 3)
    old = m.load(lines, 64)
    m.store(lines, old | touched_lines(m, physical, length_of(m, entry)))
    with m.when(old == 0):
        m.put("pages_marked", m.get("pages_marked", 64) + 1)
        m.call("protect", 0, physical & ~m.const(0xFFF, 64))
    with m.when(m.get("chaining", 32) != 0):
        m.call("chain", 0, slot, NOWHERE)
        chain_all(m, next_of(m, entry), class_of(rip), rip)
    m.put("count_placed", m.get("count_placed", 64) + 1)
    serialize(m)
    m.result(m.get("code_base", 64) + code)


def serialize(m: Trace) -> None:
    """What was written through `code_write` is what `code_base` runs from here on.

    Code that is changed by another linear address than it runs at may be fetched as it was until a serializing instruction (SDM
    vol. 3, 9.1.3, 9.3, 12.6; APM vol. 2, 7.6.1). IRET is the only one that any user may execute and that no hypervisor intercepts.
    """
    m.asm(
        "movq %rsp, %rax; subq $$128, %rsp; movl %ss, %ecx; pushq %rcx; pushq %rax; pushfq; movl %cs, %ecx; pushq %rcx; "
        "leaq 1f(%rip), %rcx; pushq %rcx; iretq; 1:",
        "~{rax},~{rcx},~{memory},~{flags}",
        0,
    )


def chain_all(m: Trace, first: Value, classes: Value, wanted: Value) -> None:
    """`chain` for the blocks of a page from `first` (1 + its place) on, so far as they may branch to RIPs of these classes."""
    here = m.variable(64, first)
    with m.loop():
        with m.when(here.value == 0):
            m.leave()
        entry = entry_of(m, here.value - 1)
        with m.when((m.load(entry + PLACED.next, 32) & classes) != 0):
            m.call("chain", 0, here.value - 1, wanted)
        here.set(next_of(m, entry))


def chain(m: Trace) -> None:
    """chain(slot, wanted): set a block's branches out, all or those to one RIP: to the block of this page, or unlinked."""
    slot, wanted = m.arguments
    entry = entry_of(m, slot)
    rip, physical, mode = m.load(entry + PLACED.rip, 64), m.load(entry + PLACED.physical, 64), m.load(entry + PLACED.mode, 32)
    record = m.get("known_base", 64) + m.load(entry + PLACED.record, 32).zext(64)
    mask = rip_mask(mode)
    page = ~m.const(0xFFF, 64)
    before = m.load(record + RECORD.parameters, 16).zext(64) + m.load(record + RECORD.rips, 16).zext(64)
    at = m.variable(64, record + RECORD.size + (padded(m.load(record + RECORD.guest_length, 16).zext(64)) << 1) + before * PAIR)
    end = at.value + m.load(record + RECORD.exits, 16).zext(64) * PAIR
    code = m.load(entry + PLACED.code, 32)
    lines, link = m.load(m.get("code_lines", 64) + ((physical >> 12) << 3), 64), m.variable(32, m.load(entry + PLACED.next, 32))
    with m.loop():
        with m.when(at.value == end):
            m.leave()
        target = (rip + m.load(at.value + 8, 64)) & mask
        near = ((target ^ rip) & page) == 0
        with m.when(near & ((wanted == NOWHERE) | (wanted == target))):
            link.set(link.value | class_of(target))
            site = code + m.load(at.value, 32)
            to = m.variable(32, code + m.load(at.value + 4, 32))
            with m.when((lines >> ((target & 0xFFF) >> 6)).bit(0)):
                found = m.call("lookup_block", 64, target, (physical & page) | (target & 0xFFF), mode.zext(64))
                with m.when(found != 0):
                    to.set(m.load(found + PLACED.code, 32) + ENTRY)
            m.store(m.get("code_write", 64) + site.zext(64), to.value - site - 4)
        at.set(at.value + PAIR)
    m.store(entry + PLACED.next, link.value)
    m.result()


ENTRY = 16  # where in its code a block begins


def lookup_block(m: Trace) -> None:
    """lookup_block(RIP, physical, mode) -> the host address of the block's entry in the table, or 0."""
    rip, physical, mode = m.arguments
    place, turns = m.variable(64, block_hash(physical, rip, mode)), m.variable(64, 0)
    with m.loop():
        entry = entry_of(m, place.value & m.get("block_mask", 64))
        with m.when((m.load(entry + PLACED.code, 32) == 0) | (turns.value == TURNS)):
            m.leave()
        same = (m.load(entry + PLACED.rip, 64) == rip) & (m.load(entry + PLACED.physical, 64) == physical)
        with m.when(same & (m.load(entry + PLACED.mode, 32).zext(64) == mode)):
            m.result(entry)
        place.set(place.value + 1)
        turns.set(turns.value + 1)
    m.result(0)


def block_hash(physical: Value, rip: Value, mode: Value) -> Value:
    """Where the search in the table of blocks starts, before the mask."""
    mixed = physical ^ (rip >> 12) * 0x9E3779B1 ^ mode * 0x1003F
    return (mixed * 0x9E3779B97F4A7C15) >> 40  # spread evenly: dense code of pages that meet would fill all places of a few entries


def next_of(m: Trace, entry: Value) -> Value:
    """1 + the place of the block behind this one in the list of its page, or 0."""
    return (m.load(entry + PLACED.next, 32) & PLACE).zext(64)


def rip_mask(mode: Value) -> Value:
    """The bits that RIP has in a mode."""
    m, size = mode.trace, mode & modes.CODE
    return (size == 2).select(m.const(NOWHERE, 64), (size == 1).select(m.const(0xFFFFFFFF, 64), m.const(0xFFFF, 64)))


def limited(mode: Value) -> Value:
    """1-bit: blocks of this mode look at the limit of CS."""
    return (mode & modes.UNLIMITED) == 0


def class_of(rip: Value) -> Value:
    """The bit in PLACED.next of blocks that may branch to a RIP: most of a page's blocks need not be looked at any closer."""
    number = (((rip * 0x9E3779B97F4A7C15) >> 48) * CLASSES) >> 16
    return (rip.trace.const(1 << NEXT_BITS, 64) << number).trunc(32)


def jump_entry(rip: Value, mode: Value) -> tuple[Value, Value]:
    """(tag, offset in `jumps`) of the one entry of the jump cache that may hold a block, in the running code segment."""
    m = rip.trace
    key = is_narrow(mode).select(rip | m.get("cs_base", 64) << 16, rip)
    return (key & ((1 << 48) - 1)) | (mode << 48), jump_place(key)


def jump_place(key: Value) -> Value:
    """The offset in `jumps` of a key: RIP, in 16-bit code with the base of its segment above it."""
    return (((key ^ (key >> 11)) & (s.JUMP_ENTRIES - 1)) << 4) + (key >> 63) * s.JUMP_BYTES


def is_narrow(mode: Value) -> Value:
    """1-bit: 16-bit code."""
    return (mode & modes.CODE) == 0


def touched_lines(m: Trace, address: Value, size: Value) -> Value:
    """One bit for each 64-byte line of its page that an access touches."""
    first = (address & 0xFFF) >> 6
    span = (((address & 0xFFF) + size - 1) >> 6) - first
    return span.uge(63).select(m.const(NOWHERE, 64), (m.const(2, 64) << span) - 1) << first


def stops_in_page(m: Trace, linear: Value) -> Value:
    """1-bit: there may be a breakpoint in the page of a linear address, so that blocks may have to end early."""
    page = (linear >> 12) & 0xFFF
    return ((m.get_at("stop_pages", (page >> 6) << 3, 64) >> (page & 63)) & 1) != 0


def entry_of(m: Trace, slot: Value) -> Value:
    """The host address of an entry of the table of blocks."""
    return m.get("block_table", 64) + (slot << ENTRY_SHIFT)


def length_of(m: Trace, entry: Value) -> Value:
    """Guest bytes of a block; a breakpoint's has none, but goes with those behind it."""
    record = m.get("known_base", 64) + m.load(entry + PLACED.record, 32).zext(64)
    length = m.load(record + RECORD.guest_length, 16).zext(64)
    return (length == 0).select(m.const(1, 64), length)


def copy_bytes(m: Trace, to: Value, start: Value, length: Value) -> None:
    """Host memory copied; it must not overlap."""
    m.asm("rep movsb", "={di},={si},={cx},0,1,2,~{memory}", 0, to, start, length)


def padded(length: Value) -> Value:
    """Rounded up to 8."""
    return (length + 7) & ~length.trace.const(7, 64)


FUNCTIONS = {
    "find_block": (find_block, 64, 3),
    "same_bytes": (same_bytes, 64, 2),
    "copy_block": (copy_block, 64, 3),
    "place_block": (place_block, 64, 2),
    "chain": (chain, 0, 2),
    "lookup_block": (lookup_block, 64, 3),
}
