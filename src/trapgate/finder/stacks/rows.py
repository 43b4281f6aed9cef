"""Follows the instructions of call frame information: how a caller's registers are had at each address (DWARF 5, 6.4.2)."""

from dataclasses import field
from enum import Enum

from trapgate.finder.stacks.reading import PC_RELATIVE, Malformed, Reader
from trapgate.values import dataclass

MOST_REMEMBERED = 64  # rows that a function's code may set aside
_ADVANCE, _OFFSET, _RESTORE = 0x40, 0x80, 0xC0  # with an operand in their low six bits
_ADVANCES = {0x02: 1, 0x03: 2, 0x04: 4}  # with one behind them, of so many bytes
_SET_LOCATION = 0x01


class How(Enum):
    """What a rule says of a register of the caller's."""

    UNDEFINED = "undefined"
    """It is lost; of the return address: there is no caller."""
    SAME = "same"
    AT = "at"
    """Saved at the frame's address plus a number."""
    IS = "is"
    """The frame's address plus a number itself."""
    REGISTER = "register"
    """In another."""
    AT_EXPRESSION = "at expression"
    IS_EXPRESSION = "is expression"


@dataclass(frozen=True, slots=True)
class Rule:
    """How a register is had: `value` is a number of bytes from the frame's address, or of a register; `code` an expression."""

    how: How
    value: int = 0
    code: bytes = b""


@dataclass(frozen=True, slots=True)
class Rules:
    """How the caller's registers are had at one instruction, by DWARF's numbers of them.

    The frame's address (CFA) is register `base` plus `offset`, or what `code` comes to. `signal`: it is a signal's frame, and what
    was interrupted is the next instruction, not one behind a call.
    """

    base: int
    offset: int
    code: bytes
    rules: dict[int, Rule]
    return_register: int
    signal: bool


@dataclass(frozen=True, slots=True)
class Factors:
    """What numbers in instructions are multiplied with, how pointers are encoded, and bytes of one."""

    code: int
    data: int
    encoding: int
    word: int


@dataclass(slots=True)
class Row:
    """What holds at the instruction that was reached."""

    base: int = -1
    offset: int = 0
    code: bytes = b""
    rules: dict[int, Rule] = field(default_factory=dict)
    initial: dict[int, Rule] = field(default_factory=dict)
    remembered: list[tuple[int, int, bytes, dict[int, Rule]]] = field(default_factory=list)


def run(program: bytes, row: Row, factors: Factors, at: int = 0, start: int = 0, wanted: int | None = None) -> None:
    """Follow a program, which lies at `at`, from its first address on up to what holds at the wanted one; all of it where None.

    Malformed when it is none.
    """
    reader, here = Reader(program), start
    while reader:
        byte = reader.byte()
        high, low = byte & 0xC0, byte & 0x3F
        if high == _ADVANCE or byte in _ADVANCES or byte == _SET_LOCATION:
            if byte == _SET_LOCATION:
                here = reader.pointer(factors.encoding, factors.word, lambda kind: at if kind == PC_RELATIVE else 0)
            else:
                here += factors.code * (low if high == _ADVANCE else reader.number(_ADVANCES[byte]))
            if wanted is not None and here > wanted:
                return
        elif high == _OFFSET:
            row.rules[low] = Rule(How.AT, reader.uleb() * factors.data)
        elif high == _RESTORE:
            _restore(row, low)
        elif not _frame(byte, reader, row, factors.data):
            _rule(byte, reader, row, factors.data)


def _restore(row: Row, register: int) -> None:
    if register in row.initial:
        row.rules[register] = row.initial[register]
    else:
        row.rules.pop(register, None)


def _frame(byte: int, reader: Reader, row: Row, factor: int) -> bool:
    """Instructions about the frame's address, rows, or nothing; False for another."""
    match byte:
        case 0x00 | 0x2D:
            pass
        case 0x0A:
            if len(row.remembered) >= MOST_REMEMBERED:
                raise Malformed("more rows set aside than anybody needs")
            row.remembered.append((row.base, row.offset, row.code, dict(row.rules)))
        case 0x0B:
            if not row.remembered:
                raise Malformed("a row that was never set aside")
            row.base, row.offset, row.code, row.rules = row.remembered.pop()
        case 0x0C:
            row.base, row.offset, row.code = reader.uleb(), reader.uleb(), b""
        case 0x12:
            row.base, row.offset, row.code = reader.uleb(), reader.sleb() * factor, b""
        case 0x0D:
            row.base, row.code = reader.uleb(), b""
        case 0x0E:
            row.offset = reader.uleb()
        case 0x13:
            row.offset = reader.sleb() * factor
        case 0x0F:
            row.code = reader.block()
        case 0x2E:
            reader.uleb()  # bytes of arguments: nothing of the caller's
        case _:
            return False
    return True


def _rule(byte: int, reader: Reader, row: Row, factor: int) -> None:
    """Instructions about one register."""
    register = reader.uleb()
    match byte:
        case 0x05:
            row.rules[register] = Rule(How.AT, reader.uleb() * factor)
        case 0x06:
            _restore(row, register)
        case 0x07:
            row.rules[register] = Rule(How.UNDEFINED)
        case 0x08:
            row.rules[register] = Rule(How.SAME)
        case 0x09:
            row.rules[register] = Rule(How.REGISTER, reader.uleb())
        case 0x10:
            row.rules[register] = Rule(How.AT_EXPRESSION, code=reader.block())
        case 0x16:
            row.rules[register] = Rule(How.IS_EXPRESSION, code=reader.block())
        case 0x11:
            row.rules[register] = Rule(How.AT, reader.sleb() * factor)
        case 0x14:
            row.rules[register] = Rule(How.IS, reader.uleb() * factor)
        case 0x15:
            row.rules[register] = Rule(How.IS, reader.sleb() * factor)
        case 0x2F:
            row.rules[register] = Rule(How.AT, -reader.uleb() * factor)
        case _:
            raise Malformed(f"an instruction {byte:#x} that is not known")
