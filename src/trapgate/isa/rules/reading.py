"""Says how a rule reaches the guest's memory and ends, in the two readings that each rule has.

A *rule* is a body that settles an event or an instruction in every mode: interrupts, IRET. It is written once, and recorded twice.
Native code (`Native`) maps a whole frame at a time, and hands over what is not plain memory: then Python evaluates the other record
(`Exact`), which asks for each word in turn. A rule changes registers only behind its last access, so that it may start again.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from trapgate.arch import vectors
from trapgate.arch.segments import ATTR_DB, TYPE_CODE, TYPE_EXPAND_DOWN
from trapgate.isa import modes
from trapgate.isa import state as s
from trapgate.isa.native.mode import has
from trapgate.isa.native.paging import present_rights
from trapgate.isa.native.segments import is_canonical, level, linear
from trapgate.isa.vocabulary import Operand, Trace, Value

HARD, DONE, FAULTED = range(
    3
)  # what a rule ends with: nothing has changed and Python is asked, or all is done, or `fault_*` says why

Word = tuple[Value | None, Value]
"""A word of a frame: whether there is one (None: always), and what it holds."""


class Stack:
    """Where a rule pushes or pops: SS:rSP as it stands or as it will be. `pointer` moves; the CPU's follows in `commit`.

    `bits`: 16, 32 or 64; where `long`, there is no segment. `error`: of the #SS that an access outside the segment raises. `inner`:
    1-bit, it belongs to another level, whose accesses are the supervisor's; otherwise they are those of the running mode.
    """

    def __init__(self, reading: "Reading", pointer: Value, inner: Value, error: Operand, segment: Sequence[Value] = ()) -> None:
        m = self.m = reading.m
        self.long = not segment
        self.inner, self.error = inner, m.lift(error, 64)
        self.bits, self.base, self.limit, self.attributes = segment or (m.const(64, 64), *(m.const(0, 64),) * 3)
        self.mask = m.const(-1, 64) if self.long else (self.bits == 16).select(m.const(0xFFFF, 64), m.const(0xFFFFFFFF, 64))
        self.pointer = m.variable(64, pointer)
        self.number = reading.opened(self)

    def moved(self, by: Value) -> Value:
        """The pointer moved, in the width of the stack."""
        pointer = self.pointer.value
        return (pointer & ~self.mask) | ((pointer + by) & self.mask)


def running_stack(reading: "Reading", long: bool, error: Operand = 0) -> Stack:
    """SS:rSP as it stands."""
    m = reading.m
    return Stack(reading, m.get("rsp", 64), m.const(0, 1), error, () if long else running_segment(m))


def running_segment(m: Trace) -> tuple[Value, Value, Value, Value]:
    """(bits, base, limit, attributes) of the running stack outside of 64-bit code."""
    bits = has(m.get("mode", 32), modes.STACK32).select(m.const(32, 64), m.const(16, 64))
    return bits, m.get("ss_base", 64), m.get("ss_limit", 32).zext(64), m.get("ss_attributes", 32).zext(64)


def width_of(attributes: Value) -> Value:
    """The width of the pointer of a stack segment, in bits."""
    m = attributes.trace
    return has(attributes, ATTR_DB).select(m.const(32, 64), m.const(16, 64))


def move_pointer(m: Trace, bits: Value, value: Value) -> None:
    """RSP becomes a value, in the width of a stack: 16 bits leave the upper ones alone."""
    low = (m.get("rsp", 64) & ~m.const(0xFFFF, 64)) | (value & 0xFFFF)
    m.put("rsp", (bits == 16).select(low, (bits == 32).select(value & 0xFFFFFFFF, value)))


class Reading(ABC):
    """What a rule may do besides looking at the state and changing it."""

    def __init__(self, m: Trace) -> None:
        self.m = m

    @abstractmethod
    def read(self, address: Value, size: int) -> Value:
        """Bytes at a linear address, by an implicit access of the supervisor; 64 bits wide."""

    @abstractmethod
    def read_two(self, address: Value) -> tuple[Value, Value]:
        """Sixteen bytes, the lower half first."""

    @abstractmethod
    def write(self, address: Value, size: int, value: Value) -> None:
        """Store bytes at a linear address, by an implicit access of the supervisor."""

    @abstractmethod
    def push(self, stack: Stack, words: Sequence[Word], size: int) -> None:
        """Push words of `size` bytes, in this order."""

    @abstractmethod
    def pop(self, stack: Stack, count: int, size: int) -> list[Value]:
        """Pop so many words, 64 bits wide each."""

    @abstractmethod
    def skip(self, stack: Stack, by: Value) -> None:
        """Let the pointer of a stack rise."""

    @abstractmethod
    def copy(self, source: Stack, stack: Stack, count: Value, size: int) -> None:
        """Push what lies on another stack, so many words in the order that they have there."""

    @abstractmethod
    def opened(self, stack: Stack) -> Value:
        """How `push` and `pop` know a stack."""

    @abstractmethod
    def fault(self, vector: int, error: Operand) -> None:
        """The rule ends with an exception that has an error code."""

    def gp(self, error: Operand = 0) -> None:
        """The rule ends with #GP."""
        self.fault(vectors.GP, error)

    def done(self) -> None:
        """The rule ends, all is done."""
        self.m.result(DONE)

    def commit(self, stack: Stack) -> None:
        """The CPU's stack pointer becomes that of a stack."""
        move_pointer(self.m, stack.bits, stack.pointer.value)


class Native(Reading):
    """The reading of native code."""

    def _hard_unless(self, plain: Value) -> None:
        with self.m.when(~plain, likely=False):
            self.m.result(HARD)

    def _host(self, address: Value, size: int, write: int) -> Value:
        m = self.m
        host = m.call("system_host", 64, linear(m, address), m.const(size, 64), m.const(write, 64))
        self._hard_unless(host != 0)
        return host

    def read(self, address: Value, size: int) -> Value:
        """One page of RAM."""
        return self.m.load(self._host(address, size, 0), 8 * size).zext(64)

    def read_two(self, address: Value) -> tuple[Value, Value]:
        """One page of RAM."""
        host = self._host(address, 16, 0)
        return self.m.load(host, 64), self.m.load(host + 8, 64)

    def write(self, address: Value, size: int, value: Value) -> None:
        """One page of RAM."""
        self.m.store(self._host(address, size, s.ACCESS_WRITE), value.trunc(8 * size))

    def opened(self, stack: Stack) -> Value:
        """It is known by what it is."""
        return self.m.const(0, 64)

    def push(self, stack: Stack, words: Sequence[Word], size: int) -> None:
        """The frame is mapped, then written upwards from its lowest word."""
        m, total = self.m, self.m.const(0, 64)
        lengths = [m.const(size, 64) if there is None else there.zext(64) * size for there, _ in words]
        for length in lengths:
            total = total + length
        bottom = stack.moved(m.const(0, 64) - total)
        host, beyond, first = self._frame(stack, bottom & stack.mask, total, size, s.ACCESS_WRITE)
        at = m.const(0, 64)
        for (there, value), length in zip(reversed(words), reversed(lengths), strict=True):
            place = at.ult(first).select(host, beyond) + at
            if there is None:
                m.store(place, value.trunc(8 * size))
            else:
                with m.when(there):
                    m.store(place, value.trunc(8 * size))
            at = at + length
        stack.pointer.set(bottom)

    def pop(self, stack: Stack, count: int, size: int) -> list[Value]:
        """The words are mapped together."""
        m, total = self.m, self.m.const(count * size, 64)
        host, beyond, first = self._frame(stack, stack.pointer.value & stack.mask, total, size, 0)
        places = (m.const(n * size, 64) for n in range(count))
        words = [m.load(at.ult(first).select(host, beyond) + at, 8 * size).zext(64) for at in places]
        stack.pointer.set(stack.moved(total))
        return words

    def skip(self, stack: Stack, by: Value) -> None:
        """Nothing is read."""
        stack.pointer.set(stack.moved(by))

    def copy(self, source: Stack, stack: Stack, count: Value, size: int) -> None:
        """Nothing to copy."""
        self._hard_unless(count == 0)

    def _frame(self, stack: Stack, offset: Value, total: Value, size: int, write: int) -> tuple[Value, Value, Value]:
        """(host address of words in the first page, where they would be if all lay in the second, bytes in the first)."""
        m, last = self.m, offset + total - 1
        if stack.long:
            address, inside = offset, is_canonical(offset) & is_canonical(last)
        else:
            down = (stack.attributes & (TYPE_CODE | TYPE_EXPAND_DOWN)) == TYPE_EXPAND_DOWN
            top = has(stack.attributes, ATTR_DB).select(m.const(0xFFFFFFFF, 64), m.const(0xFFFF, 64))
            inside = down.select(offset.ugt(stack.limit) & last.ule(top), last.ule(stack.limit)) & last.ule(stack.mask)
            address = (stack.base + offset) & 0xFFFFFFFF
            inside = inside & (address + total).ule(1 << 32)
        aligned = has(m.get("mode", 32), modes.AC) & (level(m) == 3) & ~stack.inner
        self._hard_unless(inside & ~aligned)
        wanted = stack.inner.select(m.const(0, 64), present_rights(m)) | write
        first = m.const(4096, 64) - (address & 0xFFF)
        crosses = total.ugt(first)
        host = m.call("page_host", 64, address, crosses.select(first, total), wanted)
        self._hard_unless(host.uge(4096))
        beyond = m.variable(64, host)
        with m.when(crosses, likely=False):
            self._hard_unless((address & (size - 1)) == 0)
            second = m.call("page_host", 64, address + first, total - first, wanted)
            self._hard_unless(second.uge(4096))
            beyond.set(second - first)
        return host, beyond.value, first

    def fault(self, vector: int, error: Operand) -> None:
        """`fault_*` has the exception."""
        m = self.m
        m.put("fault_vector", m.const(vector, 32))
        m.put("fault_error", m.lift(error, 64).trunc(32))
        m.put("fault_has_error", m.const(1, 32))
        m.result(FAULTED)


class Exact(Reading):
    """The reading that Python evaluates, by functions of its own: each access for itself, with all that may become of it."""

    def read(self, address: Value, size: int) -> Value:
        """By `read`."""
        return self.m.call("read", 64, address, size)

    def read_two(self, address: Value) -> tuple[Value, Value]:
        """By `read`."""
        return self.read(address, 8), self.read(address + 8, 8)

    def write(self, address: Value, size: int, value: Value) -> None:
        """By `write`."""
        self.m.call("write", 0, address, size, value)

    def opened(self, stack: Stack) -> Value:
        """Its number."""
        pointer, inner = stack.pointer.value, stack.inner.zext(64)
        segment = (stack.bits, stack.base, stack.limit, stack.attributes)
        return self.m.call("stack", 64, pointer, *segment, stack.error, inner)

    def push(self, stack: Stack, words: Sequence[Word], size: int) -> None:
        """By `push`, in order."""
        m = self.m
        for there, value in words:
            if there is None:
                m.call("push", 0, stack.number, value, size)
            else:
                with m.when(there):
                    m.call("push", 0, stack.number, value, size)
        stack.pointer.set(m.call("pointer", 64, stack.number))

    def pop(self, stack: Stack, count: int, size: int) -> list[Value]:
        """By `pop`, in order."""
        words = [self.m.call("pop", 64, stack.number, size) for _ in range(count)]
        stack.pointer.set(self.m.call("pointer", 64, stack.number))
        return words

    def skip(self, stack: Stack, by: Value) -> None:
        """By `skip`."""
        self.m.call("skip", 0, stack.number, by)
        stack.pointer.set(self.m.call("pointer", 64, stack.number))

    def copy(self, source: Stack, stack: Stack, count: Value, size: int) -> None:
        """By `copy`."""
        self.m.call("copy", 0, source.number, stack.number, count, size)
        stack.pointer.set(self.m.call("pointer", 64, stack.number))

    def fault(self, vector: int, error: Operand) -> None:
        """By `fault`, which does not return."""
        self.m.call("fault", 0, vector, error)
        self.m.result(FAULTED)
