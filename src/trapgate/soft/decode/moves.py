"""Lowers MOV between general and control, debug or segment registers. At CPL 0 native code does what is plain, Python the rest."""

from iced_x86 import Instruction, OpKind, Register

from trapgate.arch.debugregs import SLOTS
from trapgate.isa.state import LAYOUT
from trapgate.soft.decode.template import Builder
from trapgate.soft.state.registers import GENERAL, SEGMENT_NAME

READABLE: dict[int, str] = {Register.CR0: "cr0", Register.CR2: "cr2", Register.CR3: "cr3", Register.CR4: "cr4"}
WRITABLE: dict[int, str] = {Register.CR0: "write_cr0", Register.CR3: "write_cr3", Register.CR4: "write_cr4"}
DEBUG: dict[int, str] = {
    **{getattr(Register, f"DR{n}"): f"dr{n}" for n in range(SLOTS)},  # DR4 and DR5 are what CR4.DE says
    Register.DR6: "dr6",
    Register.DR7: "dr7",
}


def from_system_register(b: Builder, i: Instruction) -> None:
    """MOV r, CRn or DRn."""
    source: int = i.op1_register
    width, offset = GENERAL[i.op0_register][1], b.reg(i.op0_register)
    if b.cpl or source not in READABLE | DEBUG:
        b.python(i)
    elif source in READABLE:
        b.op(f"mov.RR.{width}", R0=offset, R1=LAYOUT[READABLE[source]].offset)
    else:
        b.op("refuse.general_detect", Uop="python")
        if source == Register.DR6:
            b.op("dr6.read")
            b.op(f"mov.RT.{width}", R0=offset)
        else:
            b.op(f"mov.RR.{width}", R0=offset, R1=LAYOUT[DEBUG[source]].offset)
        b.end_if_counted()


def to_system_register(b: Builder, i: Instruction) -> None:
    """MOV CRn, DRn or Sreg."""
    target: int = i.op0_register
    if target in SEGMENT_NAME:
        _to_segment(b, i, SEGMENT_NAME[target])
        return
    if b.cpl or i.op1_kind != OpKind.REGISTER or target not in WRITABLE | DEBUG:
        b.python(i)
        return
    b.op(f"mov.TR.{GENERAL[i.op1_register][1]}", R1=b.reg(i.op1_register))
    if target in WRITABLE:
        b.numbered(WRITABLE[target])
        b.ends = True
    elif target == Register.DR6:
        b.op("refuse.general_detect", Uop="python")
        b.op("dr6.write", Uop="python")
        b.end_if_counted()
    else:
        b.numbered(f"write_{DEBUG[target]}")
        b.end_if_counted()


def _to_segment(b: Builder, i: Instruction, name: str) -> None:
    if name == "cs":
        b.raises("raise_ud")
        return
    b.selector(i, 1)
    b.load_segment(name)
    b.segment_loaded(name, shadow=True)
