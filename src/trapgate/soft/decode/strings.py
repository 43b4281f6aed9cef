"""Lowers string instructions to loops of micro-ops: see `isa.families.string`.

Two rules of repeated ones are the vendor's (docs/vendors.md). With a 32-bit address size in 64-bit mode Intel's CPUs begin by
zero-extending RCX, for MOVS and STOS the pointers as well, even where ECX is 0 or the first iteration faults; AMD's change nothing
before an iteration is complete. Between two iterations of REPE or REPNE, and where one faults, Intel's have the flags from before
the instruction (SDM vol. 2, REP), AMD's those of the last iteration.
"""

from iced_x86 import Instruction, Mnemonic, OpKind

from trapgate.isa.state import LAYOUT
from trapgate.soft.decode.rows import ROWS, Lower
from trapgate.soft.decode.template import Builder, Rip
from trapgate.soft.state.registers import SEGMENT_NAME

RAX, RCX, RSI, RDI = (LAYOUT[name].offset for name in ("rax", "rcx", "rsi", "rdi"))
_EXTENDED = {"MOVS": (RCX, RSI, RDI), "STOS": (RCX, RDI)}
_SOURCE_KINDS = {OpKind.MEMORY_SEG_RSI: 64, OpKind.MEMORY_SEG_ESI: 32, OpKind.MEMORY_SEG_SI: 16}
_TARGET_KINDS = {OpKind.MEMORY_ESRDI: 64, OpKind.MEMORY_ESEDI: 32, OpKind.MEMORY_ESDI: 16}
_WIDTH_OF = _SOURCE_KINDS | _TARGET_KINDS


def _address_width(i: Instruction) -> int:
    return next(_WIDTH_OF[i.op_kind(n)] for n in range(i.op_count) if i.op_kind(n) in _WIDTH_OF)


def _source(b: Builder, i: Instruction, size: int, width: int) -> None:
    """T0 = the element at [rSI]."""
    segment = SEGMENT_NAME[i.memory_segment]
    if b.long and segment in ("fs", "gs"):
        b.with_base("pointer", str(width), width, LAYOUT[f"{segment}_base"].offset, R0=RSI)
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
        until = ("e" if i.has_repe_prefix else "ne") if compares and repeated else ""
        held = bool(until) and not b.amd  # the flags change behind the last iteration only
        clock = ".count" if b.counting else ""
        if repeated:
            if not b.amd and b.long and width == 32:
                for register in _EXTENDED.get(name[:4], (RCX,)):
                    b.op("mov.RR.32", R0=register, R1=register)
            b.op(f"rep_head.{width}", TAKEN="out")
            b.label("iteration")
            flat = name[:4] == "STOS" or (name[:4] == "MOVS" and SEGMENT_NAME[i.memory_segment] not in ("fs", "gs"))
            if b.long and width == 64 and not b.step and flat and not b.must_align:
                b.op(f"bulk.{name[:4].lower()}.{size}{clock}", TAKEN="again")
        _iteration(b, i, name[:4], size, width)
        if compares and not held:
            b.op(f"cmps.{8 * size}") if name[:4] == "CMPS" else b.op(f"cmp.RT.{8 * size}", R0=RAX)
        if moves_source:
            b.op(f"advance.{size}.{width}", R0=RSI)
        if moves_target:
            b.op(f"advance.{size}.{width}", R0=RDI)
        if repeated:
            if held:
                if name[:4] == "SCAS":
                    b.op("T1=T0")
                    b.op(f"mov.TR.{8 * size}", R1=RAX)
                b.op(f"rep_while{until}.{8 * size}.{width}", TAKEN="again")
                b.op(f"cmps.{8 * size}")
            else:  # where ZF ends a REPE/REPNE, fall through to `skip`
                b.op(f"rep_next{until}.{width}", TAKEN="again")
            b.op("skip", TAKEN="out")
            b.label("again")
            if not held:
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
    """One element; SCAS leaves it in T0, CMPS what it compares in T0 and T1."""
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
        case _:
            _target(b, size, width, False)  # first: as AMD, where both fault (no manual says)
            b.load(8 * size)
            b.op("T1=T0")
            _source(b, i, size, width)


_STRINGS = (("MOVS", True, True), ("STOS", False, True), ("LODS", True, False), ("SCAS", False, True), ("CMPS", True, True))
for _name, _moves_source, _moves_target in _STRINGS:
    for _letter in "BWDQ":
        ROWS[getattr(Mnemonic, _name + _letter)] = _string(_name + _letter, _moves_source, _moves_target)
