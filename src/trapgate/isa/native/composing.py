"""Composes blocks: templates strung together, the parts out of line behind them, the whole kept as a known block.

A block begins with its own RIP (8 bytes of data, 8 of padding); out-of-line code finds RIP there, relative to itself, and reaches
native functions through the table in the CPU state. So a block can be kept, in memory and on disk, and copied to wherever its
bytes are met again: only the 64-bit constants that contain RIP are filled in, and the branches out are chained. Where the bytes
hold an address, blocks that differ in nothing else are one: the address is a parameter, taken from the guest's bytes at each copy.
"""

from trapgate.isa import modes
from trapgate.isa import state as s
from trapgate.isa.native import gathering as g
from trapgate.isa.native import placing as p
from trapgate.isa.native.placing import (
    EXTENDED,
    LEAST_PARAMETER,
    MOST_PARAMETER,
    PAIR,
    RELATIVE,
    copy_bytes,
    folded,
    padded,
    spread,
)
from trapgate.isa.records import Record
from trapgate.isa.vocabulary import Trace, Value, Variable

# A hole of a template: what is filled in is the base and a constant of the guest's (0 bytes: none), its offset counted from the
# instruction. Kinds as of parameters, and: a way out to RIP + value; a branch to a native function, out of line where it resumes;
# 8 bits of code.
HOLE = Record(constant_at="B", constant_size="B", kind="B", may_be_parameter="B", offset="I", base="Q")
EXIT, NATIVE, NARROW = (RELATIVE + n for n in range(1, 4))
RESUME = HOLE.base + 4  # of a NATIVE hole, whose base is where in the CPU state the function's address lies: 0, or where to resume

# Room behind the parts, more than any block needs: `soft.blocks.patterns` sees to it that templates are small enough.
RIPS, EXITS, NATIVES, CODE = (g.PARTS + 2048 + n * (1 << 18) for n in range(4))
END = CODE + (2 << 20)
MOST_CODE, MOST_HOLES = 1 << 13, 64  # of a template

_LEA_RCX = 0x0D8D48  # lea rcx, [rip + disp32]: RCX holds RESUME at every seam
_LOAD_RAX = 0x058B48  # mov rax, [rip + disp32]
_STORE_RIP = 0x24048949  # mov [r12], rax: RIP is the first field of the state
_JUMP_TABLE = 0x24A4FF41  # jmp [r12 + disp32]
_STORE_NUMBER = 0x2484C749  # mov qword [r12 + disp32], imm32
_ADD_RAX, _ADD_EAX, _ADD_AX = 0x0548, 0x05, 0x0566  # add with an immediate of 32, 32 and 16 bits
_FARTHEST = (1 << 31) - 1


def compose_block(m: Trace) -> None:
    """compose_block(host address, room, space, most) -> the record of a block of at most so many instructions, or 0: ask Python."""
    data, room, space, most = m.arguments
    base, known = m.get("patterns", 64), m.get("known_base", 64)
    m.store(base + g.QUESTION, m.const(0, 32))
    with m.when(p.crowded(m)):  # Python starts over
        m.result(0)
    count = m.call("gather", 64, data, room, space, most)
    with m.when(count == g.NONE):
        m.result(0)
    with m.when(m.call("choose_templates", 64, count) == 0):
        m.result(0)
    last = m.variable(64, base + g.PARTS + count * g.PART_SIZE)
    m.store(base + g.PARTS + 4, m.const(0, 32))
    heads = p.limited(space).select(base + g.LIMITED_HEADS, base + g.HEADS)
    m.store(base + g.PARTS + 8, m.load(heads + (count << 2), 32))
    with m.when(count == 0):  # a breakpoint: whoever planted it decides what happens to the instruction
        last.set(last.value + g.PART_SIZE)
        m.store(last.value + 4, m.const(0, 32))
        m.store(last.value + 8, m.load(base + g.STOP, 32))
    number = m.load(known + p.KNOWN_END, 32).zext(64)
    record, length = known + number, m.load(base + g.LENGTH_NOW, 32).zext(64)
    copy_bytes(m, record + p.RECORD.size, data, length)
    mask = record + p.RECORD.size + padded(length)
    _fill(m, mask, padded(length))
    first = mask + padded(length)
    m.store(record + p.RECORD.guest_length, length.trunc(16))
    m.store(record + p.RECORD.space, space)
    block = _Block(m, base + CODE, base, first)
    free = m.variable(64, length)  # guest bytes in front of the first parameter
    _string(m, block, data, mask, free, last.value, count)
    size = space & modes.CODE
    _out_of_line(m, block, size, base, (space >> s.COUNTING_SHIFT).bit(0))
    _way_outs(m, block, size, base)
    m.store(block.code.value, m.const(0, 64))
    m.store(block.code.value + 8, m.const(0, 64))
    code_length = (block.code.value - block.start + 15) & ~m.const(15, 64)
    to = m.variable(64, block.parameters.value)
    for start, end, counted in (
        (base + RIPS, block.rips.value, p.RECORD.rips),
        (base + EXITS, block.exits.value, p.RECORD.exits),
    ):
        m.store(record + counted, ((end - start) >> 4).trunc(16))
        copy_bytes(m, to.value, start, end - start)
        to.set(to.value + (end - start))
    m.store(record + p.RECORD.parameters, ((block.parameters.value - first) >> 4).trunc(16))
    m.store(record + p.RECORD.code_length, code_length.trunc(32))
    m.store(record + p.RECORD.code_at, (to.value - record).trunc(32))
    copy_bytes(m, to.value, block.start, code_length)
    m.store(record + p.RECORD.run, m.load(known + p.KNOWN_RUN, 16))
    m.store(known + p.KNOWN_END, ((to.value + code_length - known + 15) & ~m.const(15, 64)).trunc(32))
    m.store(known + p.KNOWN_ADDED, m.load(known + p.KNOWN_ADDED, 32) + 1)
    short = free.value.ult(p.SHORT).select(free.value, m.const(p.SHORT, 64))
    m.call("index_block", 0, number, free.value.uge(p.LONG).select(m.const(p.LONG, 64), short))
    m.result(number)


class _Block:
    """How far what a block consists of has come."""

    def __init__(self, m: Trace, start: Value, base: Value, parameters: Value) -> None:
        self.start = start
        self.code, self.parameters = m.variable(64, start + p.ENTRY), m.variable(64, parameters)
        self.rips, self.exits, self.natives = (m.variable(64, base + at) for at in (RIPS, EXITS, NATIVES))


def _add(m: Trace, to: Variable, first: Value, second: Value) -> None:
    """One more pair in a list."""
    m.store(to.value, first)
    m.store(to.value + 8, second)
    to.set(to.value + PAIR)


def _string(m: Trace, block: _Block, data: Value, mask: Value, free: Variable, last: Value, count: Value) -> None:
    """The templates of the parts up to `last`, one behind the other; what depends on RIP or on what comes later is noted.

    `count`: the instructions of the block. Behind the head, which has not taken them off the budget where it leaves, lie none.
    """
    base = m.get("patterns", 64)
    part = m.variable(64, base + g.PARTS)
    final, by, ahead = m.variable(1, 0), m.variable(64, 0), m.variable(64, 0)
    with m.loop():
        number = m.load(part.value + 8, 32).zext(64)
        with m.when(number != 0):
            template = base + number
            by.set(m.load(part.value + 4, 32).zext(64))
            hole = m.variable(64, template + g.TEMPLATE.size)
            end = hole.value + m.load(template + g.TEMPLATE.holes, 32).zext(64) * HOLE.size
            length = m.load(template + g.TEMPLATE.code_length, 32).zext(64)
            code = block.code.value
            copy_bytes(m, code, end, length)
            with m.loop():
                with m.when(hole.value == end):
                    m.leave()
                _fill_in(m, block, hole.value, code, by.value, ahead.value, data, mask, free)
                hole.set(hole.value + HOLE.size)
            block.code.set(code + length)
            final.set((m.load(template + g.TEMPLATE.facts, 32) & g.FINAL) != 0)
        with m.when(part.value == last):
            m.leave()
        part.set(part.value + g.PART_SIZE)
        ahead.set((part.value == base + g.PARTS + g.PART_SIZE).select(count, ahead.value) - (count != 0).zext(64))
    with m.when(~final.value):  # on behind the last instruction
        code = block.code.value
        _add(m, block.exits, code + 1, m.load(base + g.LENGTH_NOW, 32).zext(64))
        m.store(code, m.const(0xE9, 64))
        block.code.set(code + 5)


def _fill_in(
    m: Trace, block: _Block, hole: Value, code: Value, by: Value, ahead: Value, data: Value, mask: Value, free: Variable
) -> None:
    """One hole of the template whose code was copied to `code`; its instruction lies `by` bytes into the block, `ahead` in front
    of its end."""
    kind, at = m.load(hole + HOLE.kind, 8), code + m.load(hole + HOLE.offset, 32).zext(64)
    with m.when(kind == NATIVE):
        _add(m, block.natives, at, m.load(hole + HOLE.base, 32).zext(64) | (by << 32))
        resume = m.load(hole + RESUME, 32).zext(64)
        _add(m, block.natives, (resume == 0).select(m.const(0, 64), code + resume), ahead)
    with m.otherwise():
        place, size = by + m.load(hole + HOLE.constant_at, 8).zext(64), m.load(hole + HOLE.constant_size, 8)
        constant = m.variable(64, 0)
        with m.when(size == 4):
            constant.set(m.load(data + place, 32).sext(64))
        with m.when(size == 1):
            constant.set(m.load(data + place, 8).sext(64))
        with m.when(size == 8):
            constant.set(m.load(data + place, 64))
        value, relative = m.load(hole + HOLE.base, 64), kind == RELATIVE
        looks = (constant.value.trunc(32) - LEAST_PARAMETER).ult(MOST_PARAMETER - LEAST_PARAMETER)
        with m.when(looks & (m.load(hole + HOLE.may_be_parameter, 8) != 0)):
            what = place | (kind.zext(64) << 16) | ((at - block.start) << 32)
            _add(m, block.parameters, what, relative.select(value + by, value))
            m.store(mask + place, m.const(0x80000000, 32))  # of the same sign
            free.set(place.ult(free.value).select(place, free.value))
        with m.otherwise():
            value = value + constant.value
            with m.when(kind.ule(EXTENDED)):
                with m.when(kind == EXTENDED):
                    m.store(at, value)
                with m.otherwise():
                    m.store(at, value.trunc(32))
            with m.otherwise():
                with m.when(relative):
                    _add(m, block.rips, at - block.start, by + value)
                with m.otherwise():
                    with m.when(kind == EXIT):
                        _add(m, block.exits, at, by + value)
                    with m.otherwise():
                        m.store(at, value.trunc(8))


def _out_of_line(m: Trace, block: _Block, size: Value, base: Value, counting: Value) -> None:
    """Where the branches to native functions lead. `counting` (1-bit): they say how many instructions lie ahead."""
    here = m.variable(64, base + NATIVES)
    with m.loop():
        with m.when(here.value == block.natives.value):
            m.leave()
        function, by, resume = m.load(here.value + 8, 32), m.load(here.value + 12, 32).zext(64), m.load(here.value + 16, 64)
        _bind(m, block, m.load(here.value, 64))
        with m.when(counting):
            code = block.code.value
            m.store(code, m.const(_STORE_NUMBER, 32))
            m.store(code + 4, m.const(s.LAYOUT["ahead"].offset, 32))
            m.store(code + 8, m.load(here.value + 24, 32))
            block.code.set(code + 12)
        code = block.code.value
        with m.when(resume == 0):
            m.store(code, m.const(_JUMP_TABLE, 32))
            m.store(code + 4, function)
            block.code.set(code + 8)
        with m.otherwise():
            m.store(code, m.const(_LEA_RCX, 32))
            m.store(code + 3, (resume - code - 7).trunc(32))
            block.code.set(m.call("put_way_out", 64, code + 7, size, by, function.zext(64)))
        here.set(here.value + 2 * PAIR)


def _way_outs(m: Trace, block: _Block, size: Value, base: Value) -> None:
    """The ways out that are not chained, and the list of them as it is kept."""
    here, dispatch = m.variable(64, base + EXITS), m.load(base + g.DISPATCH, 32).zext(64)
    with m.loop():
        with m.when(here.value == block.exits.value):
            m.leave()
        at, code = m.load(here.value, 64), block.code.value
        _bind(m, block, at)
        m.store(here.value, (at - block.start) | ((code - block.start) << 32))
        block.code.set(m.call("put_way_out", 64, code, size, m.load(here.value + 8, 64), dispatch))
        here.set(here.value + PAIR)


def _bind(m: Trace, block: _Block, at: Value) -> None:
    """The branch at `at` goes to the end of what there is."""
    m.store(at, (block.code.value - at - 4).trunc(32))


def put_way_out(m: Trace) -> None:
    """put_way_out(host address, code size, by, function) -> its end: cpu.rip = the block's RIP + by, cut; on at a native function.

    RAX is free at every seam. The block's RIP lies at the start of its code.
    """
    at, size, by, function = m.arguments
    start = m.get("patterns", 64) + CODE
    code = m.variable(64, at + 7)
    m.store(at, m.const(_LOAD_RAX, 32))
    m.store(at + 3, (start - at - 7).trunc(32))
    with m.when(size == 2):
        far = m.const(_FARTHEST, 64).slt(by)  # as far as a branch goes, and its own length
        _put_add(m, code, _ADD_RAX, far.select(m.const(_FARTHEST, 64), by))
        with m.when(far):
            _put_add(m, code, _ADD_RAX, by - _FARTHEST)
    with m.otherwise():
        with m.when(size == 1):
            m.store(code.value, m.const(_ADD_EAX, 8))
            m.store(code.value + 1, by.trunc(32))
            code.set(code.value + 5)
        with m.otherwise():
            m.store(code.value, m.const(_ADD_AX, 16))
            m.store(code.value + 2, by.trunc(16))
            code.set(code.value + 4)
    m.store(code.value, m.const(_STORE_RIP, 32))
    m.store(code.value + 4, m.const(_JUMP_TABLE, 32))
    m.store(code.value + 8, function.trunc(32))
    m.result(code.value + 12)


def _put_add(m: Trace, code: Variable, opcode: int, by: Value) -> None:
    m.store(code.value, m.const(opcode, 16))
    m.store(code.value + 2, by.trunc(32))
    code.set(code.value + 6)


def index_block(m: Trace) -> None:
    """index_block(record, length of the prefix): it is found by so many of its first guest bytes, behind longer ones; 0: never."""
    number, length = m.arguments
    known = m.get("known_base", 64)
    record = known + number
    m.store(record + p.RECORD.prefix_length, length.trunc(16))
    m.store(record + p.RECORD.next, m.const(0, 32))
    with m.when(length != 0):
        long = length == p.LONG
        low = m.load(record + p.RECORD.size, 64) & (
            m.const(g.NONE, 64) >> long.select(m.const(0, 64), m.const(64, 64) - (length << 3))
        )
        prefix = folded(low, long.select(m.load(record + p.RECORD.size + 8, 64), m.const(0, 64)))
        link = m.variable(64, known + (spread(prefix, m.load(record + p.RECORD.space, 64), length) << 2))
        here = m.variable(32, 0)
        with m.loop():
            here.set(m.load(link.value, 32))
            other = known + here.value.zext(64)
            with m.when(here.value == 0):
                m.leave()
            with m.when(m.load(other + p.RECORD.guest_length, 16).ult(m.load(record + p.RECORD.guest_length, 16))):
                m.leave()
            link.set(other + p.RECORD.next)
        m.store(record + p.RECORD.next, here.value)
        m.store(link.value, number.trunc(32))
    m.result()


def _fill(m: Trace, to: Value, length: Value) -> None:
    """Ones in memory; `length` is a multiple of 8."""
    at = m.variable(64, to)
    with m.loop():
        with m.when(at.value == to + length):
            m.leave()
        m.store(at.value, m.const(g.NONE, 64))
        at.set(at.value + 8)


FUNCTIONS = {
    "compose_block": (compose_block, 64, 4),
    "put_way_out": (put_way_out, 64, 4),
    "index_block": (index_block, 0, 2),
}
