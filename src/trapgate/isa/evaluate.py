"""Evaluates the record of a body on Python ints, plainly. Slow; the definition that compiled stencils are compared with.

What the vocabulary leaves undefined (a shift by the width or more, a division by 0) raises `Undefined` instead of giving some
number, so a body that forgets to mask a count is found here. Host instructions (`asm`) are the host's to define: the few that are
easily said on ints are at the end of this file, every other raises `HostInstruction`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Final, Literal

from trapgate.isa.state import LAYOUT, STATE_BYTES
from trapgate.isa.vocabulary import TRANSIENTS, Block, Trace, Value
from trapgate.values import dataclass

STATE_ADDRESS: Final = 1 << 40  # where the CPU state lies if the caller does not care
_HOLE_RANGES = {"S": (-(1 << 31), 1 << 31), "U": (0, 1 << 32), "R": (0, 1 << 31), "B": (0, 1 << 8), "Q": (-(1 << 63), 1 << 64)}


class HostInstruction(NotImplementedError):
    """A host instruction whose meaning on ints is not written down here; `template` is its assembler text."""

    def __init__(self, template: str) -> None:
        super().__init__(f"the evaluator does not know the host instruction {template!r}")
        self.template = template


class Undefined(Exception):
    """A body did what the vocabulary leaves undefined."""


class OutOfReach(Exception):
    """A body loaded or stored where the caller put no memory."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a body ended: a `jump` to a name (NEXT, TAKEN, COLD_x, a native function), a `jump_to` a host address, a `return`."""

    how: Literal["jump", "jump_to", "return"]
    target: str = ""
    value: int | None = None  # the address of `jump_to`, or the result of `return`


@dataclass(slots=True)
class Host:
    """What a body may reach: the CPU state, host memory by address (regions of bytes), native functions it may call."""

    state: bytearray | memoryview = field(default_factory=lambda: bytearray(STATE_BYTES))
    state_address: int = STATE_ADDRESS
    regions: Sequence[tuple[int, bytearray | memoryview]] = ()
    functions: Mapping[str, Callable[..., int | None]] = field(default_factory=dict)

    def place(self, address: int, size: int) -> tuple[bytearray | memoryview, int]:
        """The bytes that `size` bytes at a host address lie in, and where; OutOfReach."""
        for base, memory in ((self.state_address, self.state), *self.regions):
            if base <= address and address + size <= base + len(memory):
                return memory, address - base
        raise OutOfReach(f"{size} bytes at host address {address:#x}")

    def load(self, address: int, size: int) -> int:
        """A little-endian integer of `size` bytes; OutOfReach."""
        memory, at = self.place(address, size)
        return int.from_bytes(memory[at : at + size], "little")

    def store(self, address: int, size: int, value: int) -> None:
        """Store a little-endian integer of `size` bytes; OutOfReach."""
        memory, at = self.place(address, size)
        memory[at : at + size] = value.to_bytes(size, "little")


def evaluate(
    trace: Trace, host: Host, transients: dict[str, int], holes: Mapping[str, int] | None = None, arguments: Sequence[int] = ()
) -> Ending:
    """Do what a body recorded, to `host` and `transients` (64-bit ints, changed in place), and say how it ended.

    `holes`: values by name; those that begin with R are byte offsets into the CPU state. `arguments`: of a function that is called.
    Raises HostInstruction, Undefined, OutOfReach; KeyError for a hole, transient or function without a value.
    """
    run = _Run(trace, host, transients, holes or {})
    for value, number in zip(trace.arguments, arguments, strict=True):
        run.numbers[id(value)] = number & _mask(value.width)
    ended = run.operations(trace.operations)
    assert ended is not _LEFT, "leave outside a loop"
    return ended if isinstance(ended, Ending) else Ending("return")


class _Left:
    """What a list of operations gives when it left the innermost loop."""


_LEFT: Final = _Left()


def _mask(width: int) -> int:
    return (1 << width) - 1


def _signed(number: int, width: int) -> int:
    return number - (1 << width) if number >> (width - 1) else number


def _count(count: int, width: int) -> int:
    if count >= width:
        raise Undefined(f"a shift of {width} bits by {count}")
    return count


def _divisor(divisor: int) -> int:
    if not divisor:
        raise Undefined("a division by 0")
    return divisor


def _funnel(left: bool, high: int, low: int, count: int, width: int) -> int:
    count %= width
    both = (high << width) | low
    return both << count >> width if left else both >> count


# Operations on ints: (arguments, width of the arguments) to a number that is then cut to the width of the result.
_PURE: dict[str, Callable[[tuple[int, ...], int], int]] = {
    "add": lambda a, w: a[0] + a[1],
    "sub": lambda a, w: a[0] - a[1],
    "mul": lambda a, w: a[0] * a[1],
    "and": lambda a, w: a[0] & a[1],
    "or": lambda a, w: a[0] | a[1],
    "xor": lambda a, w: a[0] ^ a[1],
    "shl": lambda a, w: a[0] << _count(a[1], w),
    "lshr": lambda a, w: a[0] >> _count(a[1], w),
    "ashr": lambda a, w: _signed(a[0], w) >> _count(a[1], w),
    "udiv": lambda a, w: a[0] // _divisor(a[1]),
    "urem": lambda a, w: a[0] % _divisor(a[1]),
    "zext": lambda a, w: a[0],
    "sext": lambda a, w: _signed(a[0], w),
    "trunc": lambda a, w: a[0],
    "select": lambda a, w: a[1] if a[0] else a[2],
    "ctpop": lambda a, w: a[0].bit_count(),
    "ctlz": lambda a, w: w - a[0].bit_length(),
    "cttz": lambda a, w: (a[0] & -a[0]).bit_length() - 1 if a[0] else w,
    "bswap": lambda a, w: int.from_bytes(a[0].to_bytes(w // 8, "little"), "big"),
    "fshl": lambda a, w: _funnel(True, a[0], a[1], a[2], w),
    "fshr": lambda a, w: _funnel(False, a[0], a[1], a[2], w),
}
_COMPARE: dict[str, Callable[[int, int, int], bool]] = {
    "eq": lambda a, b, w: a == b,
    "ne": lambda a, b, w: a != b,
    "ult": lambda a, b, w: a < b,
    "ule": lambda a, b, w: a <= b,
    "ugt": lambda a, b, w: a > b,
    "uge": lambda a, b, w: a >= b,
    "slt": lambda a, b, w: _signed(a, w) < _signed(b, w),
    "sle": lambda a, b, w: _signed(a, w) <= _signed(b, w),
}


class _Run:
    """One evaluation: the numbers that values have got so far."""

    def __init__(self, trace: Trace, host: Host, transients: dict[str, int], holes: Mapping[str, int]) -> None:
        self.host, self.transients, self.holes = host, transients, holes
        self.numbers: dict[int, int] = {}
        self.variables: dict[str, int] = {}

    def number(self, value: Value) -> int:
        """What a value is at this point."""
        return int(value.attr) if value.op == "const" else self.numbers[id(value)]

    def operations(self, operations: Sequence[Value]) -> Ending | _Left | None:
        """Do a list of operations; None when its end was reached."""
        for value in operations:
            pure = _PURE.get(value.op)
            if pure is not None:
                arguments = tuple(self.number(argument) for argument in value.args)
                self.numbers[id(value)] = pure(arguments, value.args[0].width) & _mask(value.width)
                continue
            ended = getattr(self, f"_op_{value.op}")(value)
            if isinstance(ended, (Ending, _Left)):
                return ended
            if value.width:
                assert isinstance(ended, int), value.op
                self.numbers[id(value)] = ended & _mask(value.width)
        return None

    def _op_icmp(self, value: Value) -> int:
        left, right = value.args
        return _COMPARE[value.attr](self.number(left), self.number(right), left.width)

    def _op_hole(self, value: Value) -> int:
        return self._hole(value.attr)

    def _hole(self, name: str) -> int:
        number = self.holes[name]
        low, high = _HOLE_RANGES[name[0]]
        assert low <= number < high, f"hole {name} = {number:#x}"
        return number

    # --- CPU state and memory

    def _field(self, name: str) -> int:
        return LAYOUT[name].offset if name in LAYOUT else self._hole(name)

    def _op_get(self, value: Value) -> int:
        at = self._field(value.attr)
        return int.from_bytes(self.host.state[at : at + (value.width + 7) // 8], "little")

    def _op_put(self, value: Value) -> None:
        self._store_state(self._field(value.attr), value.args[0])

    def _op_get_at(self, value: Value) -> int:
        at = self.host.state_address + self._field(value.attr) + _signed(self.number(value.args[0]), 64)
        return self.host.load(at, (value.width + 7) // 8)

    def _op_put_at(self, value: Value) -> None:
        at = self.host.state_address + self._field(value.attr) + _signed(self.number(value.args[0]), 64)
        self.host.store(at, (value.args[1].width + 7) // 8, self.number(value.args[1]))

    def _store_state(self, at: int, stored: Value) -> None:
        size = (stored.width + 7) // 8
        assert at + size <= len(self.host.state)
        self.host.state[at : at + size] = self.number(stored).to_bytes(size, "little")

    def _op_address_of(self, value: Value) -> int:
        return self.host.state_address + self._field(value.attr)

    def _op_load(self, value: Value) -> int:
        return self.host.load(self.number(value.args[0]), (value.width + 7) // 8)

    def _op_store(self, value: Value) -> None:
        address, stored = value.args
        self.host.store(self.number(address), (stored.width + 7) // 8, self.number(stored))

    def _op_var_get(self, value: Value) -> int:
        name = value.attr
        return self.transients[name] if name in TRANSIENTS else self.variables[name]

    def _op_var_set(self, value: Value) -> None:
        table = self.transients if value.attr in TRANSIENTS else self.variables
        table[value.attr] = self.number(value.args[0])

    # --- the host's instructions and native functions

    def _op_asm(self, value: Value) -> int | None:
        template, _ = value.attr
        meaning = host_instruction(template)
        if meaning is None:
            raise HostInstruction(template)
        return meaning(self.host, *(self.number(argument) for argument in value.args))

    def _op_call(self, value: Value) -> int | None:
        return self.host.functions[value.attr](*(self.number(argument) for argument in value.args))

    def _op_call_host(self, value: Value) -> int:
        raise HostInstruction("call")

    # --- control flow

    def _op_when(self, value: Value) -> Ending | _Left | None:
        block: Block = value.attr
        if self.number(value.args[0]):
            return self.operations(block.operations)
        return self.operations(block.otherwise.operations) if block.otherwise else None

    def _op_loop(self, value: Value) -> Ending | None:
        while True:
            ended = self.operations(value.attr.operations)
            if isinstance(ended, Ending):
                return ended
            if ended is _LEFT:
                return None

    def _op_leave(self, value: Value) -> _Left:
        return _LEFT

    def _op_jump(self, value: Value) -> Ending:
        return Ending("jump", value.attr)

    def _op_jump_to(self, value: Value) -> Ending:
        return Ending("jump_to", value=self.number(value.args[0]))

    def _op_return(self, value: Value) -> Ending:
        return Ending("return", value=self.number(value.args[0]) if value.args else None)


# --- host instructions that are easily said on ints


def _div(host: Host, low: int, high: int, divisor: int) -> int:
    """DIV r64: the quotient."""
    quotient = ((high << 64) | low) // _divisor(divisor)
    if quotient >> 64:
        raise Undefined("a quotient of more than 64 bits")
    return quotient


def _crc32(size: int) -> Callable[[Host, int, int], int]:
    def meaning(host: Host, total: int, data: int) -> int:
        """CRC32: polynomial 11EDC6F41h, bits reflected (SDM vol. 2, CRC32)."""
        crc = (total & 0xFFFFFFFF) ^ (data & _mask(8 * size))
        for _ in range(8 * size):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        return crc

    return meaning


def _rep_movsb(host: Host, target: int, source: int, count: int) -> None:
    """REP MOVSB upwards, a byte a time."""
    for at in range(count):
        host.store(target + at, 1, host.load(source + at, 1))


def _rep_stos(size: int) -> Callable[[Host, int, int, int], None]:
    def meaning(host: Host, target: int, value: int, count: int) -> None:
        """REP STOS upwards."""
        for at in range(count):
            host.store(target + at * size, size, value & _mask(8 * size))

    return meaning


_SIZES = {"b": 1, "w": 2, "l": 4, "q": 8}
_MEANINGS: dict[str, Callable[..., int | None]] = {"divq": _div, "rep movsb": _rep_movsb}
_MEANINGS |= {f"crc32{letter}": _crc32(size) for letter, size in _SIZES.items()}
_MEANINGS |= {f"rep stos{letter}": _rep_stos(size) for letter, size in _SIZES.items()}


def host_instruction(template: str) -> Callable[..., int | None] | None:
    """The meaning of a host instruction by its assembler text, or None where only the host knows it."""
    return _MEANINGS.get(template.partition(" $")[0])
