"""Holds the table of lowerings, a row a mnemonic, and what all of them ask of an instruction's operands."""

from collections.abc import Callable

from iced_x86 import Instruction, OpKind

from trapgate.soft.decode.template import Builder

Lower = Callable[[Builder, Instruction], None]
ROWS: dict[int, Lower] = {}


def row(*mnemonics: int) -> Callable[[Lower], Lower]:
    """Register the lowering of some mnemonics."""

    def register(lower: Lower) -> Lower:
        for mnemonic in mnemonics:
            assert mnemonic not in ROWS
            ROWS[mnemonic] = lower
        return lower

    return register


def immediate(i: Instruction, n: int, width: int) -> dict[str, int]:
    """The hole of an immediate operand of a form `width` bits wide."""
    value = i.immediate(n)
    if width == 64:
        return {"Simm": value - (1 << 64) if value >> 63 else value}
    return {"Bimm" if width == 8 else "Uimm": value & ((1 << width) - 1)}


def is_memory(i: Instruction, n: int) -> bool:
    """Whether operand n lies in memory."""
    return i.op_kind(n) == OpKind.MEMORY


def is_register(i: Instruction, n: int) -> bool:
    """Whether operand n is a register."""
    return i.op_kind(n) == OpKind.REGISTER


def source(b: Builder, i: Instruction, n: int, width: int, index: int = 1) -> tuple[str, dict[str, int]]:
    """Operand n as a source: (kind letter, holes); a memory operand is loaded into T0."""
    if is_register(i, n):
        return "R", {f"R{index}": b.reg(i.op_register(n))}
    if is_memory(i, n):
        b.load_operand(i, width)
        return "T", {}
    return "I", immediate(i, n, width)
