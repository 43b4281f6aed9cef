"""Lowers a decoded x87 instruction to micro-ops. The forms follow from the opcode table (`isa.families.hosted`)."""

from functools import cache

from iced_x86 import Instruction, Mnemonic, Register

from trapgate.isa.families import hosted, x87
from trapgate.soft.decode.template import Builder, Rip
from trapgate.soft.state.registers import SEGMENT_NAME


@cache
def x87_codes() -> frozenset[int]:
    """Every encoding that `lower_x87` takes."""
    return frozenset(x87.codes())


def lower_x87(i: Instruction, b: Builder) -> bool:
    """Micro-ops of an x87 instruction; False when it is none. The translator has seen to CR0.EM and CR0.TS."""
    name = i.mnemonic
    if name in x87.NOTHING:  # WAIT may still owe a #MF where exceptions are unmasked
        b.op("x87.live", Uop="python")
    elif i.code not in x87_codes():
        return False
    elif hosted.plan(i.code).memory is None:
        b.op("x87.live", Uop="python")
        if name not in x87.KEEP_POINTERS:
            b.op("x87.at", Qhere=Rip(0))
        moves = name in x87.MOVES
        holes = {"Bmodrm": 0xC8 + i.op1_register - Register.ST0} if moves else hosted.holes(i, False)
        b.op(hosted.plan(i.code).form(False), **holes)
        _look(i, b)
    else:
        _with_memory(i, b)
    return True


def _look(i: Instruction, b: Builder, operand: bool = False) -> None:
    """Behind the instruction: what it has raised, or unmasked."""
    if i.mnemonic in x87.CONTROL or i.mnemonic in x87.MASKING:
        b.op("x87.control")
    elif i.mnemonic not in x87.KEEP_POINTERS:
        b.op("x87.look.operand" if operand and not b.amd else "x87.look")


def _with_memory(i: Instruction, b: Builder) -> None:
    p = hosted.plan(i.code)
    assert p.memory is not None
    writes = p.written[p.memory]
    late = writes and i.mnemonic not in x87.KEEP_POINTERS
    b.op("x87.live", Uop="python")  # a pending #MF comes before any fault of the operand
    if late and not b.amd and (b.must_align or not b.unchecked(SEGMENT_NAME[i.memory_segment], True)):
        b.op("x87.refuse", Uop="python")
    b.memory(i, p.size, write=writes)
    if late:
        b.op(f"ref.late.{p.size}", Uop="python")
    else:
        b.ref(p.size, "w" if writes else "r")
    b.op("x87.live", Uop="python")  # Python may have seen to the access
    if i.mnemonic in (Mnemonic.FLDENV, Mnemonic.FRSTOR):
        b.op(f"x87.waits.{p.size}", Uop="python")
    if i.mnemonic not in x87.KEEP_POINTERS:
        b.op("x87.at", Qhere=Rip(0))
        if b.amd:
            b.op("x87.data")
    b.op(p.form(True))
    _look(i, b, operand=True)
    if writes:
        b.commit_ref()
