"""String instructions as loops of micro-ops: see `isa.families.string`."""

from iced_x86 import Instruction, Mnemonic, OpKind

from trapgate.isa.state import LAYOUT
from trapgate.soft.decode import ROWS, Lower
from trapgate.soft.registers import SEGMENT_NAME
from trapgate.soft.template import Builder, Rip

RAX, RSI, RDI = (LAYOUT[name].offset for name in ("rax", "rsi", "rdi"))
_SOURCE_KINDS = {OpKind.MEMORY_SEG_RSI: 64, OpKind.MEMORY_SEG_ESI: 32, OpKind.MEMORY_SEG_SI: 16}
_TARGET_KINDS = {OpKind.MEMORY_ESRDI: 64, OpKind.MEMORY_ESEDI: 32, OpKind.MEMORY_ESDI: 16}
_WIDTH_OF = _SOURCE_KINDS | _TARGET_KINDS


def _address_width(i: Instruction) -> int:
    return next(_WIDTH_OF[i.op_kind(n)] for n in range(i.op_count) if i.op_kind(n) in _WIDTH_OF)


def _source(b: Builder, i: Instruction, size: int, width: int) -> None:
    """T0 = the element at [rSI]."""
    segment = SEGMENT_NAME[i.memory_segment]
    if b.long and segment in ("fs", "gs"):
        b.op(f"pointer.seg.{width}", R0=RSI, Rseg=LAYOUT[f"{segment}_base"].offset)
    else:
        b.op(f"pointer.{width}", R0=RSI)
        b.segment(segment, size, False)
    b.load(8 * size)


def _target(b: Builder, size: int, width: int, write: bool) -> None:
    """EA = ES:rDI."""
    b.op(f"pointer.{width}", R0=RDI)
    b.segment("es", size, write)


def _string(name: str, moves_source: bool, moves_target: bool) -> Lower:
    def lower(b: Builder, i: Instruction) -> None:
        size = {"B": 1, "W": 2, "D": 4, "Q": 8}[name[-1]]
        width = _address_width(i)
        repeated = i.has_rep_prefix or i.has_repne_prefix
        compares = name[:4] in ("CMPS", "SCAS")
        clock = ".count" if b.counting else ""
        if repeated:
            b.op(f"rep_head.{width}", TAKEN="out")
            b.label("iteration")
            flat = name[:4] == "STOS" or (name[:4] == "MOVS" and SEGMENT_NAME[i.memory_segment] not in ("fs", "gs"))
            if b.long and width == 64 and not b.step and flat and not b.must_align:
                b.op(f"bulk.{name[:4].lower()}.{size}{clock}", TAKEN="again")
        _iteration(b, i, name[:4], size, width)
        if moves_source:
            b.op(f"advance.{size}.{width}", R0=RSI)
        if moves_target:
            b.op(f"advance.{size}.{width}", R0=RDI)
        if repeated:
            until = ("e" if i.has_repe_prefix else "ne") if compares else ""
            # where ZF ends a REPE/REPNE, fall through to `skip`
            b.op(f"rep_next{until}.{width}", TAKEN="again")
            b.op("skip", TAKEN="out")
            b.label("again")
            b.op(f"rep_head.{width}", TAKEN="out")
            if b.step:  # one iteration a step; the last one ends behind the instruction
                b.op("rip", Qtarget=Rip(0))
            else:
                b.op(f"rep_seam{clock}")
                b.op("skip", TAKEN="iteration")
            b.label("out")
            if b.counting:  # the block ends: when an iteration leaves it, nothing behind has been counted
                b.jump(b.length)

    return lower


def _iteration(b: Builder, i: Instruction, name: str, size: int, width: int) -> None:
    match name:
        case "MOVS":
            _source(b, i, size, width)
            _target(b, size, width, True)
            b.store(8 * size)
        case "STOS":
            b.op(f"mov.TR.{8 * size}", R1=RAX)
            _target(b, size, width, True)
            b.store(8 * size)
        case "LODS":
            _source(b, i, size, width)
            b.op(f"mov.RT.{8 * size}", R0=RAX)
        case "SCAS":
            _target(b, size, width, False)
            b.load(8 * size)
            b.op(f"cmp.RT.{8 * size}", R0=RAX)
        case _:
            _target(b, size, width, False)  # first: as AMD, where both fault (no manual says)
            b.load(8 * size)
            b.op("T1=T0")
            _source(b, i, size, width)
            b.op(f"cmps.{8 * size}")


_STRINGS = (("MOVS", True, True), ("STOS", False, True), ("LODS", True, False), ("SCAS", False, True), ("CMPS", True, True))
for _name, _moves_source, _moves_target in _STRINGS:
    for _letter in "BWDQ":
        ROWS[getattr(Mnemonic, _name + _letter)] = _string(_name + _letter, _moves_source, _moves_target)
