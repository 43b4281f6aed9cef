"""Works out DWARF expressions, where a rule of call frames is one: as in signal trampolines and linkage tables (DWARF 5, 2.5).

What needs more than registers and memory, as values on other threads or entries of debug information, is not known here.
"""

import operator
from collections.abc import Callable

from trapgate.finder.stacks.reading import Malformed, Reader

MOST_STEPS = 1000  # an expression may branch back
MOST_VALUES = 256
_CONSTANTS = {0x08: (1, False), 0x09: (1, True), 0x0A: (2, False), 0x0B: (2, True), 0x0C: (4, False), 0x0D: (4, True)}
_CONSTANTS |= {0x0E: (8, False), 0x0F: (8, True)}
_ADDRESS, _DEREFERENCE, _CONSTU, _CONSTS, _PICK, _PLUS_CONSTANT, _BRANCH, _SKIP = 0x03, 0x06, 0x10, 0x11, 0x15, 0x23, 0x28, 0x2F
_LITERALS, _REGISTERS, _REGISTER, _DEREFERENCE_SIZE, _NOTHING = range(0x30, 0x50), range(0x70, 0x90), 0x92, 0x94, 0x96


def _divided(a: int, b: int) -> int:
    if not b:
        raise Malformed("a division by zero")
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


_SIGNED: dict[int, Callable[[int, int], int]] = {
    0x1B: _divided,
    0x29: operator.eq,
    0x2A: operator.ge,
    0x2B: operator.gt,
    0x2C: operator.le,
    0x2D: operator.lt,
    0x2E: operator.ne,
}
_PLAIN: dict[int, Callable[[int, int], int]] = {
    0x1A: operator.and_,
    0x1C: operator.sub,
    0x1E: operator.mul,
    0x21: operator.or_,
    0x22: operator.add,
    0x24: lambda a, b: a << b if b < 64 else 0,
    0x25: lambda a, b: a >> b,
    0x27: operator.xor,
}
_MODULO, _SHIFT_SIGNED = 0x1D, 0x26
_STACKED: dict[int, Callable[[list[int]], None]] = {
    0x12: lambda s: s.append(s[-1]),
    0x13: lambda s: s.__delitem__(-1),
    0x14: lambda s: s.append(s[-2]),
    0x16: lambda s: s.__setitem__(slice(-2, None), s[:-3:-1]),
    0x17: lambda s: s.__setitem__(slice(-3, None), [s[-1], s[-3], s[-2]]),
}
_ABSOLUTE, _NEGATED, _INVERTED = 0x19, 0x1F, 0x20


def value(code: bytes, word: int, first: list[int], register: Callable[[int], int], memory: Callable[[int, int], int]) -> int:
    """What an expression comes to. `first`: what lies on its stack before; `memory`: a number of so many bytes at an address.

    Malformed when it is none, or needs what is not known here; `register` and `memory` may raise what they like.
    """
    mask, stack, reader = (1 << 8 * word) - 1, list(first), Reader(code)
    try:
        for _ in range(MOST_STEPS):
            if not reader:
                return stack[-1]
            _step(reader, stack, word, register, memory)
            if len(stack) > MOST_VALUES:
                break
            if stack:
                stack[-1] &= mask
    except IndexError as error:
        raise Malformed("an expression takes more than there is") from error
    raise Malformed("an expression without an end")


def _step(reader: Reader, s: list[int], word: int, register: Callable[[int], int], memory: Callable[[int, int], int]) -> None:
    code = reader.byte()
    if code in _LITERALS:
        s.append(code - _LITERALS.start)
    elif code in _REGISTERS:
        s.append(register(code - _REGISTERS.start) + reader.sleb())
    elif code in _STACKED:
        _STACKED[code](s)
    elif code in _CONSTANTS:
        size, signed = _CONSTANTS[code]
        s.append(reader.number(size, signed=signed))
    elif code in _PLAIN:
        second, first = s.pop(), s.pop()
        s.append(_PLAIN[code](first, second))
    elif code in _SIGNED:
        second, first = _signed(s.pop(), word), _signed(s.pop(), word)
        s.append(int(_SIGNED[code](first, second)))
    elif code not in _OTHERS:
        raise Malformed(f"an expression with operation {code:#x}")
    else:
        _OTHERS[code](reader, s, word, register, memory)


def _signed(number: int, word: int) -> int:
    return number - (1 << 8 * word) if number >> 8 * word - 1 else number


def _modulo(s: list[int]) -> None:
    second, first = s.pop(), s.pop()
    if not second:
        raise Malformed("a division by zero")
    s.append(first % second)


def _branch(reader: Reader, taken: bool) -> None:
    distance = reader.number(2, signed=True)
    if taken:
        reader.at += distance
        if not 0 <= reader.at <= reader.end:
            raise Malformed("an expression branches out of itself")


def _shift(s: list[int], word: int) -> None:
    count = s.pop()
    s.append(_signed(s.pop(), word) >> count)


_Other = Callable[[Reader, list[int], int, Callable[[int], int], Callable[[int, int], int]], None]
_OTHERS: dict[int, _Other] = {
    _ADDRESS: lambda r, s, word, *_: s.append(r.number(word)),
    _DEREFERENCE: lambda r, s, word, _, memory: s.append(memory(s.pop(), word)),
    _DEREFERENCE_SIZE: lambda r, s, word, _, memory: s.append(memory(s.pop(), min(r.byte(), word))),
    _CONSTU: lambda r, s, *_: s.append(r.uleb()),
    _CONSTS: lambda r, s, *_: s.append(r.sleb()),
    _PICK: lambda r, s, *_: s.append(s[-1 - r.byte()]),
    _PLUS_CONSTANT: lambda r, s, *_: s.append(s.pop() + r.uleb()),
    _BRANCH: lambda r, s, *_: _branch(r, bool(s.pop())),
    _SKIP: lambda r, s, *_: _branch(r, True),
    _REGISTER: lambda r, s, word, register, _: s.append(register(r.uleb()) + r.sleb()),
    _NOTHING: lambda r, s, *_: None,
    _MODULO: lambda r, s, *_: _modulo(s),
    _SHIFT_SIGNED: lambda r, s, word, *_: _shift(s, word),
    _ABSOLUTE: lambda r, s, word, *_: s.append(abs(_signed(s.pop(), word))),
    _NEGATED: lambda r, s, *_: s.append(-s.pop()),
    _INVERTED: lambda r, s, *_: s.append(~s.pop()),
}
