"""Evaluates conditions of breakpoints here instead of in gdb: the agent expression bytecode (gdb manual, appendix F).

A stack of 64-bit integers; operands in the code are big-endian. Only what conditions need: nothing that collects trace data.
"""

from collections.abc import Callable, Iterable, Iterator

_MASK = (1 << 64) - 1
MOST_STEPS = 10_000  # of one stop: while they are made, nobody hears the client
_DEEPEST = 1_000

LONGEST = 4096
"""Bytes of one expression."""


class AgentError(Exception):
    """An expression that cannot be evaluated: bad code, unmapped memory, division by zero, or too long a run."""


def _signed(value: int, bits: int = 64) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _divide(a: int, b: int) -> int:
    if b == 0:
        raise AgentError("division by zero")
    return -(abs(a) // abs(b)) if (a < 0) != (b < 0) else abs(a) // abs(b)


def _remainder(a: int, b: int) -> int:
    return a - _divide(a, b) * b


_BINARY: dict[int, Callable[[int, int], int]] = {
    0x02: lambda a, b: a + b,
    0x03: lambda a, b: a - b,
    0x04: lambda a, b: a * b,
    0x05: lambda a, b: _divide(_signed(a), _signed(b)),
    0x06: _divide,
    0x07: lambda a, b: _remainder(_signed(a), _signed(b)),
    0x08: _remainder,
    0x09: lambda a, b: a << b if b < 64 else 0,
    0x0A: lambda a, b: _signed(a) >> min(b, 63),
    0x0B: lambda a, b: a >> b if b < 64 else 0,
    0x0F: lambda a, b: a & b,
    0x10: lambda a, b: a | b,
    0x11: lambda a, b: a ^ b,
    0x13: lambda a, b: int(a == b),
    0x14: lambda a, b: int(_signed(a) < _signed(b)),
    0x15: lambda a, b: int(a < b),
}
_UNARY: dict[int, Callable[[int], int]] = {0x0E: lambda a: int(a == 0), 0x12: lambda a: ~a}
_REFERENCE = {0x17: 1, 0x18: 2, 0x19: 4, 0x1A: 8}  # opcode: bytes read
_CONSTANT = {0x22: 1, 0x23: 2, 0x24: 4, 0x25: 8}  # opcode: bytes of operand
_IF_GOTO, _GOTO, _REGISTER, _END, _DUP, _POP, _SWAP, _PICK, _ROT = 0x20, 0x21, 0x26, 0x27, 0x28, 0x29, 0x2B, 0x32, 0x33
_SIGN_EXTEND, _ZERO_EXTEND = 0x16, 0x2A
_OPERANDS = _CONSTANT | {_IF_GOTO: 2, _GOTO: 2, _REGISTER: 2, _PICK: 1, _SIGN_EXTEND: 1, _ZERO_EXTEND: 1}


def any_holds(codes: Iterable[bytes], register: Callable[[int], int], memory: Callable[[int, int], bytes]) -> bool:
    """Whether one of some expressions, which have their steps in common, is not 0; `evaluate`."""
    steps = iter(range(MOST_STEPS))
    return any(evaluate(code, register, memory, steps) for code in codes)


def evaluate(
    code: bytes, register: Callable[[int], int], memory: Callable[[int, int], bytes], steps: Iterator[int] | None = None
) -> int:
    """The value that an expression leaves on its stack (64 bits, unsigned).

    `register` gives a register by its number in `p` packets, `memory` the bytes at an address (short where unmapped). AgentError.
    """
    stack: list[int] = []
    at = 0
    for _ in steps if steps is not None else range(MOST_STEPS):
        if at >= len(code):
            raise AgentError("the expression has no end")
        opcode = code[at]
        width = _OPERANDS.get(opcode, 0)
        operand = int.from_bytes(code[at + 1 : at + 1 + width], "big")
        at += 1 + width
        if at > len(code) or len(stack) > _DEEPEST:
            raise AgentError("the expression is cut off, or its stack overflows")
        try:
            if opcode == _END:
                return stack[-1]
            if opcode == _GOTO or (opcode == _IF_GOTO and stack.pop()):
                at = operand
            elif opcode != _IF_GOTO:
                _execute(opcode, operand, stack, register, memory)
        except IndexError:
            raise AgentError("the stack is empty") from None
    raise AgentError(f"it does not end within {MOST_STEPS} steps")


def _execute(
    opcode: int, operand: int, stack: list[int], register: Callable[[int], int], memory: Callable[[int, int], bytes]
) -> None:
    """Every operation but jumps and the end."""
    if opcode in _BINARY:
        right = stack.pop()
        stack.append(_BINARY[opcode](stack.pop(), right) & _MASK)
    elif opcode in _UNARY:
        stack.append(_UNARY[opcode](stack.pop()) & _MASK)
    elif opcode in _CONSTANT:
        stack.append(operand)
    elif opcode in _REFERENCE:
        data = memory(stack.pop(), _REFERENCE[opcode])
        if len(data) < _REFERENCE[opcode]:
            raise AgentError("unmapped memory")
        stack.append(int.from_bytes(data, "little"))
    elif opcode == _REGISTER:
        stack.append(register(operand) & _MASK)
    elif opcode == _SIGN_EXTEND and operand > 0:
        stack.append(_signed(stack.pop(), min(operand, 64)) & _MASK)
    elif opcode == _ZERO_EXTEND:
        stack.append(stack.pop() & ((1 << min(operand, 64)) - 1))
    elif opcode == _DUP:
        stack.append(stack[-1])
    elif opcode == _POP:
        stack.pop()
    elif opcode == _SWAP:
        stack[-2], stack[-1] = stack[-1], stack[-2]
    elif opcode == _PICK:
        stack.append(stack[-1 - operand])
    elif opcode == _ROT:
        stack[-3], stack[-2], stack[-1] = stack[-1], stack[-3], stack[-2]
    else:
        raise AgentError(f"unknown operation {opcode:#x}")
