"""Finds the instructions of a block among those met before: which template each of them gets. What is missing is asked of Python.

A *pattern* stands for all instructions that differ only in constants that their code merely carries along: a record with the bytes
they have in common, in one stretch of memory that `blocks.patterns` writes. It has up to two templates, one of them for places
where nobody reads its flags, and knows the branches that a compare was fused with.
"""

from trapgate.isa import modes
from trapgate.isa.native.placing import spread
from trapgate.isa.records import Record
from trapgate.isa.vocabulary import Trace, Value

PREFIX = 4  # patterns are found by at most so many first bytes
PLACES = 1 << 15  # of their index, which comes first: 4 bytes each
MOST = 64  # instructions of a block
NONE = (1 << 64) - 1

# A pattern: its bytes and their mask; its templates, 0 where not made yet; what branches behind it make of it; in `fuses` one bit
# for each `condition` (from 1) of a branch that it can be fused with.
PATTERN = Record(
    next="I", space="I", bytes="16s", mask="16s", length="H", ends="B", has_dead="B",
    live="I", dead="I", pairs="I", fuses="I", condition="I",
)  # fmt: skip
PAIR = Record(next="I", branch="I", pattern="I", unused="I")  # of a list: what a branch made of the compare before it, 0: nothing

# A template. `facts` say what it means for the flags of those before it.
TEMPLATE = Record(facts="I", code_length="I", holes="Q")
READS, SETS, EXPOSES, FINAL = 1, 2, 4, 8  # FINAL: nothing behind it runs in this block

# Behind the index lies what one block is made with: the question to Python, then the parts chosen.
WORK = 4 * PLACES
QUESTION, AT, FIRST, SECOND = (WORK + 4 * n for n in range(4))
WHICH_PATTERN, WHICH_TEMPLATE, WHICH_PAIR = range(1, 4)
"""No pattern has the bytes AT; FIRST lacks its template (SECOND: the one without flags); FIRST and branch SECOND were never met."""
LENGTH_NOW = WORK + 16  # guest bytes of the block
DISPATCH = WORK + 20  # where in the CPU state the address of `dispatch` lies
HEADS = WORK + 24  # templates of the beginning of a block, by its number of instructions
LIMITED_HEADS = HEADS + 4 * (MOST + 1)  # the same where the limit of CS counts
STOP = LIMITED_HEADS + 4 * (MOST + 1)  # the template of a breakpoint
PARTS = WORK + 1024  # (pattern, offset in the block, template), the first for the head
PART_SIZE = 16


def find_pattern(m: Trace) -> None:
    """find_pattern(host address, room, space) -> offset of the pattern of the instruction there, or 0."""
    data, room, space = m.arguments
    base = m.get("patterns", 64)
    low, high = m.variable(64, 0), m.variable(64, 0)
    with m.when(room.uge(16)):
        low.set(m.load(data, 64))
        high.set(m.load(data + 8, 64))
    with m.otherwise():
        at = m.variable(64, room)
        with m.loop():
            at.set(at.value - 1)
            high.set((high.value << 8) | (low.value >> 56))
            low.set((low.value << 8) | m.load(data + at.value, 8).zext(64))
            with m.when(at.value == 0):
                m.leave()
    length = m.variable(64, PREFIX)
    with m.loop():
        prefix = low.value & ((m.const(1, 64) << (length.value << 3)) - 1)
        here = m.variable(64, m.load(base + ((spread(prefix, space, length.value) & (PLACES - 1)) << 2), 32).zext(64))
        with m.loop():
            with m.when(here.value == 0):
                m.leave()
            pattern = base + here.value
            differ = ((m.load(pattern + PATTERN.bytes, 64) ^ low.value) & m.load(pattern + PATTERN.mask, 64)) | (
                (m.load(pattern + PATTERN.bytes + 8, 64) ^ high.value) & m.load(pattern + PATTERN.mask + 8, 64)
            )
            fits = m.load(pattern + PATTERN.length, 16).zext(64).ule(room) & (
                m.load(pattern + PATTERN.space, 32) == space.trunc(32)
            )
            with m.when((differ == 0) & fits):
                m.result(here.value)
            here.set(m.load(pattern + PATTERN.next, 32).zext(64))
        length.set(length.value - 1)
        with m.when(length.value == 0):
            m.leave()
    m.result(0)


def gather(m: Trace) -> None:
    """gather(host address, room, space, most) -> the number of instructions of a block, now in PARTS, or NONE: ask Python."""
    data, room, space, most = m.arguments
    base = m.get("patterns", 64)
    at, count = m.variable(64, 0), m.variable(64, 0)
    with m.loop():
        with m.when((count.value == most) | room.ule(at.value)):
            m.leave()
        here, left, mode = data + at.value, room - at.value, space & 0xFFFFFFFF
        unasked = mode & ~m.const(modes.FLOATING, 64) | modes.ANY_FLOATING
        number = m.variable(64, m.call("find_pattern", 64, here, left, unasked))
        with m.when(number.value == 0):
            number.set(m.call("find_pattern", 64, here, left, mode))
        found = number.value
        with m.when(found == 0):
            m.store(base + AT, at.value.trunc(32))
            _ask(m, WHICH_PATTERN, m.const(0, 64), m.const(0, 64))
            m.result(NONE)
        count.set(count.value + 1)
        part = base + PARTS + count.value * PART_SIZE
        m.store(part, found.trunc(32))
        m.store(part + 4, at.value.trunc(32))
        at.set(at.value + m.load(base + found + PATTERN.length, 16).zext(64))
        with m.when(m.load(base + found + PATTERN.ends, 8) != 0):
            m.leave()
    m.store(base + LENGTH_NOW, at.value.trunc(32))
    m.result(count.value)


def choose_templates(m: Trace) -> None:
    """choose_templates(count) -> 1, or 0: ask Python. Without flags where nobody reads them; a compare fused with its branch."""
    (count,) = m.arguments
    base = m.get("patterns", 64)
    with m.when(count.ugt(1)):
        _fuse(m, base, base + PARTS + count * PART_SIZE)
    needed, at = m.variable(1, 1), m.variable(64, count)
    with m.loop():
        with m.when(at.value == 0):
            m.leave()
        part = base + PARTS + at.value * PART_SIZE
        number = m.load(part, 32).zext(64)
        with m.when(number != 0):
            pattern = base + number
            dead = ~needed.value & (m.load(pattern + PATTERN.has_dead, 8) != 0)
            template = m.load(pattern + dead.select(m.const(PATTERN.dead, 64), m.const(PATTERN.live, 64)), 32)
            with m.when(template == 0):
                _ask(m, WHICH_TEMPLATE, number, dead.zext(64))
                m.result(0)
            m.store(part + 8, template)
            facts = m.load(base + template.zext(64) + TEMPLATE.facts, 32)
            wanted = needed.value | ((facts & EXPOSES) != 0)
            needed.set(((facts & READS) != 0) | (wanted & ((facts & SETS) == 0)))
        with m.otherwise():
            m.store(part + 8, m.const(0, 32))
        at.set(at.value - 1)
    m.result(1)


def _fuse(m: Trace, base: Value, last: Value) -> None:
    """The two last parts become one where they are a compare and its branch; ends `choose_templates` where Python must say."""
    first, branch = m.load(last - PART_SIZE, 32).zext(64), m.load(last, 32).zext(64)
    condition = m.load(base + branch + PATTERN.condition, 32)
    with m.when(((m.load(base + first + PATTERN.fuses, 32) >> condition) & 1) != 0):
        pair = m.variable(64, m.load(base + first + PATTERN.pairs, 32).zext(64))
        with m.loop():
            with m.when(pair.value == 0):
                _ask(m, WHICH_PAIR, first, branch)
                m.result(0)
            with m.when(m.load(base + pair.value + PAIR.branch, 32).zext(64) == branch):
                m.leave()
            pair.set(m.load(base + pair.value + PAIR.next, 32).zext(64))
        fused = m.load(base + pair.value + PAIR.pattern, 32)
        with m.when(fused != 0):
            m.store(last - PART_SIZE, fused)
            m.store(last, m.const(0, 32))


def _ask(m: Trace, question: int, first: Value, second: Value) -> None:
    base = m.get("patterns", 64)
    m.store(base + QUESTION, m.const(question, 32))
    m.store(base + FIRST, first.trunc(32))
    m.store(base + SECOND, second.trunc(32))


FUNCTIONS = {
    "find_pattern": (find_pattern, 64, 3),
    "gather": (gather, 64, 4),
    "choose_templates": (choose_templates, 64, 1),
}
