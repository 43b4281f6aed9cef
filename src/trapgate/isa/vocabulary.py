"""Defines the words in which instruction bodies are written, and the trace that a body leaves behind.

A body is an ordinary Python function that is handed a `Trace` and speaks only in its words. Running the body once *records* what it
does: a list of operations on `Value`s, with nested lists for control flow. Everything else reads that record: `stencil.lower` makes
LLVM IR of it, `isa.facts` finds what it touches. Nothing is executed while a body is recorded, so `bool(value)` raises.

Theory: a Value is the result of one operation, has a width in bits and never changes. What changes is named: a *field* of the CPU
state, a byte of host memory, a `Variable` of the body itself, and the *transients*, a few values that stay in host registers
between one stencil and the next (`T0`-`T2`, the effective address `EA`, a host address `HOST`, the address to `RESUME` at). A
*hole* is a constant that is known only when the stencil is copied: a register's offset, an immediate, an address.

Ugly but needed: shifts by the width or more are undefined here, as in LLVM; a body masks its counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

TRANSIENTS = ("T0", "T1", "T2", "EA", "HOST", "X", "RESUME")


class Value:
    """The result of one recorded operation, `width` bits wide."""

    __slots__ = ("args", "attr", "op", "trace", "width")

    def __init__(self, trace: Trace, op: str, width: int, args: tuple[Value, ...], attr: Any = None) -> None:
        self.trace, self.op, self.width, self.args, self.attr = trace, op, width, args, attr

    def __bool__(self) -> bool:
        raise TypeError("a guest value has no truth yet: use select() or when()")

    def _binary(self, op: str, other: Operand) -> Value:
        right = self.trace.lift(other, self.width)
        assert right.width == self.width, f"{op}: {self.width} and {right.width} bits"
        return self.trace.emit(op, self.width, self, right)

    def _compare(self, op: str, other: Operand) -> Value:
        right = self.trace.lift(other, self.width)
        assert right.width == self.width, f"{op}: {self.width} and {right.width} bits"
        return self.trace.emit("icmp", 1, self, right, attr=op)

    def __add__(self, other: Operand) -> Value:
        return self._binary("add", other)

    def __sub__(self, other: Operand) -> Value:
        return self._binary("sub", other)

    def __mul__(self, other: Operand) -> Value:
        return self._binary("mul", other)

    def __and__(self, other: Operand) -> Value:
        return self._binary("and", other)

    def __or__(self, other: Operand) -> Value:
        return self._binary("or", other)

    def __xor__(self, other: Operand) -> Value:
        return self._binary("xor", other)

    def __lshift__(self, other: Operand) -> Value:
        return self._binary("shl", other)

    def __rshift__(self, other: Operand) -> Value:
        """Logical shift right."""
        return self._binary("lshr", other)

    def sar(self, other: Operand) -> Value:
        """Arithmetic shift right."""
        return self._binary("ashr", other)

    def __invert__(self) -> Value:
        return self ^ ((1 << self.width) - 1)

    def __neg__(self) -> Value:
        return self.trace.const(0, self.width) - self

    def __eq__(self, other: object) -> Value:  # type: ignore[override]
        assert isinstance(other, (int, Value))
        return self._compare("eq", other)

    def __ne__(self, other: object) -> Value:  # type: ignore[override]
        assert isinstance(other, (int, Value))
        return self._compare("ne", other)

    __hash__ = object.__hash__

    def ult(self, other: Operand) -> Value:
        """Unsigned less than."""
        return self._compare("ult", other)

    def ule(self, other: Operand) -> Value:
        """Unsigned less than or equal."""
        return self._compare("ule", other)

    def ugt(self, other: Operand) -> Value:
        """Unsigned greater than."""
        return self._compare("ugt", other)

    def uge(self, other: Operand) -> Value:
        """Unsigned greater than or equal."""
        return self._compare("uge", other)

    def slt(self, other: Operand) -> Value:
        """Signed less than."""
        return self._compare("slt", other)

    def sle(self, other: Operand) -> Value:
        """Signed less than or equal."""
        return self._compare("sle", other)

    def zext(self, width: int) -> Value:
        """Widened (or left alone, or cut) to `width` bits, with zeros."""
        return self._resize("zext", width)

    def sext(self, width: int) -> Value:
        """Widened (or left alone, or cut) to `width` bits, with copies of the sign."""
        return self._resize("sext", width)

    def trunc(self, width: int) -> Value:
        """The low `width` bits."""
        assert width <= self.width
        return self._resize("trunc", width)

    def _resize(self, op: str, width: int) -> Value:
        if width == self.width:
            return self
        return self.trace.emit(op if width > self.width else "trunc", width, self)

    def bit(self, index: int) -> Value:
        """Bit `index` as a 1-bit value."""
        return (self >> index).trunc(1)

    @property
    def sign(self) -> Value:
        """The most significant bit, as a 1-bit value."""
        return self.slt(0)

    def select(self, yes: Operand, no: Operand) -> Value:
        """`yes` where this 1-bit value is 1, else `no`."""
        assert self.width == 1
        width = yes.width if isinstance(yes, Value) else no.width if isinstance(no, Value) else 0
        assert width, "one of the two must have a width"
        return self.trace.emit("select", width, self, self.trace.lift(yes, width), self.trace.lift(no, width))

    def popcount(self) -> Value:
        """The number of ones."""
        return self.trace.emit("ctpop", self.width, self)

    def leading_zeros(self) -> Value:
        """Zeros above the highest one; the width for 0."""
        return self.trace.emit("ctlz", self.width, self)

    def trailing_zeros(self) -> Value:
        """Zeros below the lowest one; the width for 0."""
        return self.trace.emit("cttz", self.width, self)

    def bswap(self) -> Value:
        """The bytes in reverse order."""
        return self.trace.emit("bswap", self.width, self)

    def rotl(self, count: Value) -> Value:
        """Rotated left by count modulo the width."""
        return self.trace.emit("fshl", self.width, self, self, count)

    def rotr(self, count: Value) -> Value:
        """Rotated right by count modulo the width."""
        return self.trace.emit("fshr", self.width, self, self, count)


Operand = Value | int


class Variable:
    """A value of the body's own that may change, also inside `when` and `loop`."""

    __slots__ = ("name", "trace", "width")

    def __init__(self, trace: Trace, name: str, width: int) -> None:
        self.trace, self.name, self.width = trace, name, width

    @property
    def value(self) -> Value:
        """What it holds at this point."""
        return self.trace.emit("var_get", self.width, attr=self.name)

    def set(self, value: Operand) -> None:
        """Holds `value` from here on."""
        value = self.trace.lift(value, self.width)
        assert value.width == self.width
        self.trace.emit("var_set", 0, value, attr=self.name)


class Block:
    """A nested list of operations: the body of a `when` or a `loop`."""

    def __init__(self, kind: str, likely: bool | None = None) -> None:
        self.kind, self.likely, self.operations = kind, likely, list[Value]()
        self.otherwise: Block | None = None


class Trace:
    """Records what a body does. One trace is one stencil or one native function."""

    def __init__(self, arguments: Sequence[int] = ()) -> None:
        self.operations: list[Value] = []
        self._lists = [self.operations]
        self.variables: dict[str, int] = {}
        self.memo: dict[str, Any] = {}  # what bodies tell each other inside one trace, e.g. how the flags were set
        self.arguments = [Value(self, "argument", width, (), index) for index, width in enumerate(arguments)]

    # --- recording

    def emit(self, op: str, width: int, *args: Value, attr: Any = None) -> Value:
        """Record one operation and give its result."""
        value = Value(self, op, width, args, attr)
        self._lists[-1].append(value)
        return value

    def const(self, number: int, width: int) -> Value:
        """A constant."""
        return Value(self, "const", width, (), number & ((1 << width) - 1))

    def lift(self, operand: Operand, width: int) -> Value:
        """Python ints become constants of the width that is expected."""
        return self.const(operand, width) if isinstance(operand, int) else operand

    def hole(self, name: str, width: int = 64) -> Value:
        """A constant known only when the stencil is copied. `S...` signed 32 bits, `U...` unsigned, `Q...` any 64 bits."""
        return self.emit("hole", width, attr=name)

    def variable(self, width: int, initial: Operand) -> Variable:
        """A new variable with a first value."""
        name = f"v{len(self.variables)}"
        self.variables[name] = width
        variable = Variable(self, name, width)
        variable.set(initial)
        return variable

    # --- transients

    def __getitem__(self, transient: str) -> Value:
        """The present value of a transient (64 bits)."""
        return self.emit("var_get", 64, attr=transient)

    def __setitem__(self, transient: str, value: Operand) -> None:
        value = self.lift(value, 64)
        assert transient in TRANSIENTS and value.width == 64
        self.emit("var_set", 0, value, attr=transient)

    # --- CPU state and memory

    def get(self, field: str, width: int) -> Value:
        """A field of the CPU state, by its name in `isa.state`, or by a hole `R...` that stands for a field's offset."""
        return self.emit("get", width, attr=field)

    def put(self, field: str, value: Value) -> None:
        """Change a field of the CPU state."""
        self.emit("put", 0, value, attr=field)

    def get_at(self, field: str, index: Value, width: int) -> Value:
        """The CPU state `index` bytes behind a field."""
        return self.emit("get_at", width, index, attr=field)

    def put_at(self, field: str, index: Value, value: Value) -> None:
        """Change the CPU state `index` bytes behind a field."""
        self.emit("put_at", 0, index, value, attr=field)

    def address_of(self, field: str) -> Value:
        """The host address of a field."""
        return self.emit("address_of", 64, attr=field)

    def load(self, host: Value, width: int) -> Value:
        """Host memory at an address that some check has proven to be guest RAM or a table of ours."""
        return self.emit("load", width, host)

    def store(self, host: Value, value: Value) -> None:
        """Change host memory; the same condition."""
        self.emit("store", 0, host, value)

    def copy(self, destination: Value, source: Value, length: int) -> None:
        """Copy `length` bytes of host memory."""
        for done in range(0, length, 8):
            width = 8 * min(8, length - done)
            self.store(destination + done, self.load(source + done, width))

    def asm(self, template: str, constraints: str, width: int, *args: Value) -> Value:
        """One host instruction, where the guest's instruction *is* the host's (packed, x87, DIV). `width` 0: no result."""
        return self.emit("asm", width, *args, attr=(template, constraints))

    def call(self, function: str, width: int, *args: Operand) -> Value:
        """Call another native function (64-bit arguments)."""
        return self.emit("call", width, *(self.lift(a, 64) for a in args), attr=function)

    def call_host(self, address: Value, width: int, *args: Operand) -> Value:
        """Call a C function of the host at an address (System V ABI, 64-bit integer arguments). It must leave the x87 alone."""
        return self.emit("call_host", width, address, *(self.lift(a, 64) for a in args))

    # --- control flow

    @contextmanager
    def when(self, condition: Value, likely: bool | None = None) -> Iterator[None]:
        """What is recorded inside happens only where the condition is 1."""
        block = Block("when", likely)
        self.emit("when", 0, condition, attr=block)
        self._lists.append(block.operations)
        yield
        self._lists.pop()

    @contextmanager
    def otherwise(self) -> Iterator[None]:
        """Directly behind a `when`: what happens in the other case."""
        block: Block = self._lists[-1][-1].attr
        assert isinstance(block, Block) and block.kind == "when" and block.otherwise is None
        block.otherwise = Block("otherwise")
        self._lists.append(block.otherwise.operations)
        yield
        self._lists.pop()

    @contextmanager
    def loop(self) -> Iterator[None]:
        """Repeats what is recorded inside until `leave`."""
        block = Block("loop")
        self.emit("loop", 0, attr=block)
        self._lists.append(block.operations)
        yield
        self._lists.pop()

    def leave(self) -> None:
        """Leave the innermost loop."""
        self.emit("leave", 0)

    def jump(self, target: str) -> None:
        """Go on at another stencil or native function, transients in hand: `NEXT`, `TAKEN`, `COLD_name` or a native one's name."""
        self.emit("jump", 0, attr=target)

    def cold(self, function: str) -> None:
        """Go on, out of line, at a native function that may RESUME behind this stencil; cpu.rip is set to the instruction."""
        self.jump(f"COLD_{function}")

    def jump_to(self, host: Value) -> None:
        """Go on at computed host code."""
        self.emit("jump_to", 0, host)

    def result(self, value: Operand | None = None) -> None:
        """End of a native function, with its result."""
        self.emit("return", 0, *(() if value is None else (self.lift(value, 64),)))
