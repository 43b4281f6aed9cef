"""Lowers a decoded MMX or SSE instruction to micro-ops: address, reference, the host's own instruction, commit.

There is no table of instructions here: the forms follow from the opcode table (`isa.families.hosted`), so does their use.
"""

from collections.abc import Callable
from functools import cache

from iced_x86 import Instruction, Mnemonic, OpKind, Register

from trapgate.isa import modes
from trapgate.isa.families import fpstate, hosted, sse
from trapgate.isa.state import LAYOUT
from trapgate.soft.decode.template import Builder
from trapgate.soft.state.registers import SEGMENT_NAME


@cache
def _known() -> frozenset[int]:
    return frozenset(sse.codes())


def lower_sse(i: Instruction, b: Builder) -> bool:
    """Micro-ops of an MMX or SSE instruction; False when it is none that these CPUs have."""
    special = _SPECIAL.get(i.mnemonic)
    if special is not None:
        special(i, b)
    elif i.code not in _known():
        return False
    else:
        lower_raising(i, b)
    return True


def lower_raising(i: Instruction, b: Builder) -> None:
    """An instruction that may raise a SIMD floating-point exception, or not."""
    p = hosted.plan(i.code)
    careful = bool(b.floating & modes.SSE_UNMASKED) and hosted.raises(p)
    if careful and not p.aside:
        b.python(i)
    else:
        lower_hosted(i, b, careful)


def lower_hosted(i: Instruction, b: Builder, careful: bool = False) -> None:
    """The common order: nothing changes before the operand in memory has been reached."""
    p = hosted.plan(i.code)
    memory = p.memory is not None and i.op_kind(p.memory) == OpKind.MEMORY
    writes = False
    if memory:
        assert p.memory is not None
        writes = p.written[p.memory]
        enters = p.live and writes and not b.amd  # Intel's enter MMX state even where they fault (as measured)
        if enters and b.must_align:
            b.python(i)  # which knows what #AC leaves behind
            return
        if p.live:
            b.op("x87.live", Uop="python")  # a pending #MF comes before any fault of the operand
        b.memory(i, p.size, write=writes)
        if p.aligned(b.amd):
            b.aligned(p.size)
        b.ref(p.size, "mmx" if enters else ("rw" if p.read[p.memory] else "w") if writes else "r", p.anywhere(b.amd))
    if p.live:
        b.op("x87.live", Uop="python")
    if careful:
        b.op(p.form(memory, careful), Uop="python", **hosted.holes(i, memory))
    else:
        b.op(p.form(memory), **hosted.holes(i, memory))
    if writes:
        b.commit_ref()


def unavailable_sse(b: Builder) -> bool:
    """Whether SSE may not run in this mode: #UD or #NM."""
    if b.floating & modes.NO_SSE:
        b.raises("raise_ud")
    elif b.floating & modes.NO_X87:
        b.raises("raise_nm")
    else:
        return False
    return True


def load_mxcsr(i: Instruction, b: Builder) -> None:
    """LDMXCSR and VLDMXCSR, where they may run."""
    b.load_operand(i, 32)
    b.op("ldmxcsr")


def store_mxcsr(i: Instruction, b: Builder) -> None:
    """STMXCSR and VSTMXCSR, where they may run."""
    b.op("stmxcsr")
    b.memory(i, 4, write=True)
    b.store(32)


def _where_sse_may(lower: Callable[[Instruction, Builder], None]) -> Callable[[Instruction, Builder], None]:
    return lambda i, b: None if unavailable_sse(b) else lower(i, b)


def masked_move(i: Instruction, b: Builder) -> None:
    """MASKMOVQ, MASKMOVDQU and VMASKMOVDQU: at [rDI] of the address size, all of the operand is reached whatever the mask says."""
    width = {OpKind.MEMORY_SEG_DI: 16, OpKind.MEMORY_SEG_EDI: 32}.get(i.op0_kind, 64)
    size = 8 if i.mnemonic == Mnemonic.MASKMOVQ else 16
    segment = SEGMENT_NAME[i.memory_segment]
    if size == 8:
        b.op("x87.live", Uop="python")
        if not b.amd:  # in MMX state even where it faults (as measured)
            b.op("mmx.enter")
    if b.long and segment in ("fs", "gs"):
        b.with_base("pointer", str(width), width, LAYOUT[f"{segment}_base"].offset, R0=LAYOUT["rdi"].offset)
    else:
        b.op(f"pointer.{width}", R0=LAYOUT["rdi"].offset)
        b.segment(segment, size, True)
    if size == 16:
        b.align(8)  # as two halves (as measured)
    b.ref(size, "rw", size == 16)
    if size == 8:
        b.op("x87.live", Uop="python")
        b.op("maskmovq", Bmodrm=0xC0 | (i.op1_register - Register.MM0) << 3 | i.op2_register - Register.MM0)
    else:
        source, mask = (LAYOUT[f"xmm{r - Register.XMM0}"].offset for r in (i.op1_register, i.op2_register))
        b.op("maskmovdqu", R1=source, R2=mask)
    b.commit_ref()


def _empty(i: Instruction, b: Builder) -> None:
    """EMMS, FEMMS."""
    b.op("x87.live", Uop="python")
    b.op("emms")


_WIDE = (
    Mnemonic.FXSAVE64, Mnemonic.FXRSTOR64, Mnemonic.XSAVE64, Mnemonic.XSAVEC64, Mnemonic.XSAVEOPT64, Mnemonic.XSAVES64,
    Mnemonic.XRSTOR64, Mnemonic.XRSTORS64,
)  # fmt: skip
_SUPERVISOR = (Mnemonic.XSAVES, Mnemonic.XSAVES64, Mnemonic.XRSTORS, Mnemonic.XRSTORS64)


def _finish_state(form: str, saves: bool, i: Instruction, b: Builder) -> None:
    """Behind the reference to the area."""
    b.op(f"{form}.{16 if b.long else 8}.{'wide' if i.mnemonic in _WIDE else 'narrow'}")
    if saves:
        b.commit_ref()


def _legacy_state(form: str, saves: bool) -> Callable[[Instruction, Builder], None]:
    """FXSAVE and FXRSTOR."""

    def lower(i: Instruction, b: Builder) -> None:
        if b.floating & modes.NO_X87:
            b.raises("raise_nm")
            return
        b.memory(i, fpstate.FXSAVE_BYTES, write=saves)
        b.align(4)  # before #GP (as measured)
        b.aligned()
        b.ref(fpstate.FXSAVE_BYTES, "rw" if saves else "r")
        _finish_state(form, saves, i, b)

    return lower


def _state(form: str, saves: bool) -> Callable[[Instruction, Builder], None]:
    """XSAVE, XRSTOR and their kin."""

    def lower(i: Instruction, b: Builder) -> None:
        b.op("xsave.check")
        if b.cpl and i.mnemonic in _SUPERVISOR:
            b.raises("raise_gp0")
            return
        b.area(i, write=saves)
        _finish_state(form, saves, i, b)

    return lower


_SPECIAL: dict[int, Callable[[Instruction, Builder], None]] = {
    Mnemonic.LDMXCSR: _where_sse_may(load_mxcsr),
    Mnemonic.STMXCSR: _where_sse_may(store_mxcsr),
    Mnemonic.MASKMOVQ: masked_move,
    Mnemonic.MASKMOVDQU: masked_move,
    **dict.fromkeys((Mnemonic.FXSAVE, Mnemonic.FXSAVE64), _legacy_state("fxsave", True)),
    **dict.fromkeys((Mnemonic.FXRSTOR, Mnemonic.FXRSTOR64), _legacy_state("fxrstor", False)),
    **dict.fromkeys((Mnemonic.XSAVE, Mnemonic.XSAVE64), _state("xsave", True)),
    **dict.fromkeys((Mnemonic.XSAVEOPT, Mnemonic.XSAVEOPT64), _state("xsaveopt", True)),
    **dict.fromkeys((Mnemonic.XSAVEC, Mnemonic.XSAVEC64, Mnemonic.XSAVES, Mnemonic.XSAVES64), _state("xsavec", True)),
    **dict.fromkeys((Mnemonic.XRSTOR, Mnemonic.XRSTOR64), _state("xrstor", False)),
    **dict.fromkeys((Mnemonic.XRSTORS, Mnemonic.XRSTORS64), _state("xrstors", False)),
    Mnemonic.EMMS: _empty,
    Mnemonic.FEMMS: _empty,
}
