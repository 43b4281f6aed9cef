"""Lowers general-purpose instructions that change operand 0 where it is: in a register, or in memory, where LOCK may stand."""

from iced_x86 import Instruction, Mnemonic, Register

from trapgate.isa.state import LAYOUT
from trapgate.soft.decode.rows import ROWS, Lower, is_memory, is_register, row, source
from trapgate.soft.decode.template import Builder, operand_width
from trapgate.soft.state.registers import GENERAL, SEGMENT_NAME


def modify(b: Builder, i: Instruction, width: int, locked: bool) -> None:
    """T0 = the memory operand, proven writable; `finish_modify` stores it back."""
    b.memory(i, width // 8, write=True)
    b.op(f"{'lock' if locked else 'modify'}.{width}")


def finish_modify(b: Builder, width: int, locked: bool) -> None:
    """Store T0 back; behind a locked instruction a debug exception may be due."""
    b.op(f"commit.{width}")
    if locked:
        b.op("lock_end")


def change(b: Builder, i: Instruction, name: str, kind: str, holes: dict[str, int], exchanges: bool = False) -> None:
    """Operand 0 by a form of the kinds R and T: in its register, or as T0 between its load and its store.

    `kind`: of the other source, which has `holes`. `exchanges`: behind the store, the register of hole R1 is what memory held.
    """
    width = operand_width(i, 0)
    if is_register(i, 0):
        b.op(f"{name}.R{kind}.{width}", R0=b.reg(i.op0_register), **holes)
        return
    modify(b, i, width, i.has_lock_prefix)
    b.op(f"{name}.T{kind}.{width}", **holes)
    b.op(f"commit.{width}")
    if exchanges:
        b.op(f"from_t1.{width}", R0=holes["R1"])
    if i.has_lock_prefix:
        b.op("lock_end")


def _binary(name: str) -> Lower:
    def lower(b: Builder, i: Instruction) -> None:
        kind, holes = source(b, i, 1, operand_width(i, 0))
        change(b, i, name, kind, holes)

    return lower


for _name in ("add", "adc", "sub", "sbb", "and", "or", "xor"):
    ROWS[getattr(Mnemonic, _name.upper())] = _binary(_name)


def _unary(name: str) -> Lower:
    return lambda b, i: change(b, i, name, "", {})


for _name in ("inc", "dec", "neg", "not"):
    ROWS[getattr(Mnemonic, _name.upper())] = _unary(_name)


def _shift(name: str) -> Lower:
    def lower(b: Builder, i: Instruction) -> None:
        width = operand_width(i, 0)
        by_register = is_register(i, 1)
        count = 0 if by_register else i.immediate(1) & (63 if width == 64 else 31)
        kind = "C" if by_register else "I"
        holes: dict[str, int] = {} if by_register else {"Uimm": count}
        if is_register(i, 0):
            if by_register or count:
                b.op(f"{name}.R{kind}.{width}", R0=b.reg(i.op0_register), **holes)
            elif width == 32:
                b.op("mov.RR.32", R0=b.reg(i.op0_register), R1=b.reg(i.op0_register))
            return
        modify(b, i, width, False)
        if by_register or count:
            b.op(f"{name}.T{kind}.{width}", **holes)
        finish_modify(b, width, False)

    return lower


for _name in ("shl", "shr", "sar", "rol", "ror", "rcl", "rcr"):
    ROWS[getattr(Mnemonic, _name.upper())] = _shift(_name)
ROWS[Mnemonic.SAL] = ROWS[Mnemonic.SHL]


def _double_shift(name: str) -> Lower:
    def lower(b: Builder, i: Instruction) -> None:
        by_register = is_register(i, 2)
        count = {} if by_register else {"Uimm": i.immediate(2) & 0xFF}
        change(b, i, name, "C" if by_register else "I", {"R1": b.reg(i.op1_register), **count})

    return lower


ROWS[Mnemonic.SHLD], ROWS[Mnemonic.SHRD] = _double_shift("shld"), _double_shift("shrd")


@row(Mnemonic.XCHG)
def _xchg(b: Builder, i: Instruction) -> None:
    """Locked whether it says so or not."""
    width = operand_width(i, 0)
    if is_register(i, 0) and is_register(i, 1):
        b.op(f"xchg.RR.{width}", R0=b.reg(i.op0_register), R1=b.reg(i.op1_register))
        return
    register = b.reg(i.op1_register if is_memory(i, 0) else i.op0_register)
    modify(b, i, width, True)
    b.op(f"xchg.T.{width}", R1=register)
    b.op(f"commit.{width}")
    b.op(f"from_t1.{width}", R0=register)
    b.op("lock_end")


@row(Mnemonic.XADD)
def _xadd(b: Builder, i: Instruction) -> None:
    change(b, i, "xadd", "", {"R1": b.reg(i.op1_register)}, exchanges=True)


@row(Mnemonic.CMPXCHG)
def _cmpxchg(b: Builder, i: Instruction) -> None:
    change(b, i, "cmpxchg", "", {"R1": b.reg(i.op1_register)})


@row(Mnemonic.CMPXCHG8B)
def _cmpxchg8b(b: Builder, i: Instruction) -> None:
    modify(b, i, 64, i.has_lock_prefix)
    b.op("cmpxchg8b")
    finish_modify(b, 64, i.has_lock_prefix)


@row(Mnemonic.CMPXCHG16B)
def _cmpxchg16b(b: Builder, i: Instruction) -> None:
    b.memory(i, 16, write=True)
    b.aligned(16)
    b.ref(16, "lock" if i.has_lock_prefix else "rw")
    b.op("cmpxchg16b")
    b.commit_ref()
    if i.has_lock_prefix:
        b.op("lock_end")


def _bit_test(name: str) -> Lower:
    def lower(b: Builder, i: Instruction) -> None:
        width = operand_width(i, 0)
        kind = "R" if is_register(i, 1) else "I"
        holes = {"R1": b.reg(i.op1_register)} if kind == "R" else {"Uimm": i.immediate8}
        if is_register(i, 0):
            b.op(f"{name}.R{kind}.{width}", R0=b.reg(i.op0_register), **holes)
            return
        write = name != "bt"
        if kind == "R":  # the offset moves before the segment is checked
            b.address(i)
            offsets, segment = _address_width(i), SEGMENT_NAME[i.memory_segment]
            ends = f"{width}.{offsets}"
            if b.long and segment in ("fs", "gs"):
                b.with_base("bit_address", ends, offsets, LAYOUT[f"{segment}_base"].offset, **holes)
            else:
                b.op(f"bit_address.{ends}", **holes)
                b.segment(segment, width // 8, write)
        else:
            b.memory(i, width // 8, write=write)
        if not write:
            b.load(width)
            b.op(f"bt.T{kind}.{width}", **holes)
            return
        b.op(f"{'lock' if i.has_lock_prefix else 'modify'}.{width}")
        b.op(f"{name}.T{kind}.{width}", **holes)
        finish_modify(b, width, i.has_lock_prefix)

    return lower


def _address_width(i: Instruction) -> int:
    """Bits of the address size of a memory operand."""
    for register in (i.memory_base, i.memory_index):
        if register in GENERAL:
            return GENERAL[register][1]
    return {Register.RIP: 64, Register.EIP: 32}.get(i.memory_base, 8 * i.memory_displ_size)


for _name in ("bt", "bts", "btr", "btc"):
    ROWS[getattr(Mnemonic, _name.upper())] = _bit_test(_name)
