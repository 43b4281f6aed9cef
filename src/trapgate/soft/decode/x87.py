"""Lowers a decoded x87 instruction to micro-ops. The forms follow from the opcode table (`isa.families.hosted`)."""

from functools import cache

from iced_x86 import Instruction, Register

from trapgate.isa.families import hosted, x87
from trapgate.soft.decode.template import Builder, Rip


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
    elif name in x87.MOVES:
        b.op("x87.live", Uop="python")
        b.op("x87.at", Qhere=Rip(0))
        b.op(hosted.plan(i.code).form(False), Bmodrm=0xC8 + i.op1_register - Register.ST0)
    elif hosted.plan(i.code).memory is None:
        b.op("x87.live", Uop="python")
        if name not in x87.KEEP_POINTERS:
            b.op("x87.at", Qhere=Rip(0))
        b.op(hosted.plan(i.code).form(False), **hosted.holes(i, False))
    else:
        _with_memory(i, b)
    return True


def _with_memory(i: Instruction, b: Builder) -> None:
    p = hosted.plan(i.code)
    assert p.memory is not None
    writes = p.written[p.memory]
    b.op("x87.live", Uop="python")  # a pending #MF comes before any fault of the operand
    b.memory(i, p.size, write=writes)
    b.ref(p.size, "w" if writes else "r")
    b.op("x87.live", Uop="python")  # Python may have seen to the access
    if i.mnemonic in x87.CONTROL:
        b.op(f"x87.masked.{p.size}", Uop="python")
    if i.mnemonic not in x87.KEEP_POINTERS:
        b.op("x87.at", Qhere=Rip(0))
        if b.amd:
            b.op("x87.data")
    b.op(p.form(True))
    if writes:
        b.commit_ref()
