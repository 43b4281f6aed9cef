"""Lowers AVX, AVX2, FMA and F16C: VEX-encoded instructions with vector registers. Where they may run is settled here, too.

They are #UD outside protected mode, and unless CR4.OSXSAVE is set and XCR0 has SSE and AVX; then #NM while CR0.TS (SDM vol. 2, 2.7;
APM vol. 4, 1.3.4). CR0.EM and CR4.OSFXSR do not count. VEX-encoded instructions on general registers need none of this.
"""

from collections.abc import Callable
from functools import cache

from iced_x86 import EncodingKind, Instruction, Mnemonic, OpKind

from trapgate.isa import modes
from trapgate.isa.families import avx, hosted
from trapgate.isa.state import LAYOUT
from trapgate.soft.decode.sse import load_mxcsr, lower_hosted, lower_raising, masked_move, store_mxcsr
from trapgate.soft.decode.template import Builder
from trapgate.soft.state.registers import SEGMENT_NAME


@cache
def _known() -> frozenset[int]:
    return frozenset(avx.codes())


def is_vex(i: Instruction) -> bool:
    """Whether it is VEX-encoded."""
    return i.op_code().encoding == EncodingKind.VEX


def lower_avx(i: Instruction, b: Builder) -> bool:
    """Micro-ops of an AVX instruction; False when it is none that these CPUs have."""
    special = _SPECIAL.get(i.mnemonic)
    if i.code not in _known() and special is None:
        return False
    if not b.floating & modes.AVX:
        b.raises("raise_ud")
        return True
    if b.floating & modes.NO_X87:
        b.op("avx.gate")
    if special is not None:
        special(i, b)
    else:
        lower_raising(i, b)
    return True


def _zero(i: Instruction, b: Builder) -> None:
    b.op(f"{'vzeroall' if i.mnemonic == Mnemonic.VZEROALL else 'vzeroupper'}.{16 if b.long else 8}")


def _linear(i: Instruction, b: Builder) -> bool:
    """Whether the operand's offset is its linear address, so that each element of it can be looked up by itself."""
    segment = SEGMENT_NAME[i.memory_segment]
    return b.flat and segment not in ("fs", "gs") and (b.long or segment != "cs")  # which is never written


def _half_precision(i: Instruction, b: Builder) -> None:
    """VCVTPS2PH. Intel's CPUs have set MXCSR's flags before they reach memory, even where the store faults (as measured)."""
    if b.floating & modes.SSE_UNMASKED:
        b.python(i)
        return
    if b.amd or i.op0_kind != OpKind.MEMORY:
        lower_hosted(i, b)
        return
    p = hosted.plan(i.code)
    b.op("aside")
    b.op(p.form(True), **hosted.holes(i, True))
    b.memory(i, p.size, write=True)
    b.ref(p.size, "w", p.anywhere(b.amd))
    b.op(f"aside.{p.size}")
    b.commit_ref()


def _masked(i: Instruction, b: Builder) -> None:
    """VMASKMOVPS and its like: the plain case is the host's own instruction."""
    p = hosted.plan(i.code)
    assert p.memory is not None
    if not _linear(i, b):
        b.python(i)
        return
    b.address(i)
    b.op(f"masked.{'w' if p.written[p.memory] else 'r'}.{hosted.vector_bytes(i)}", Uop="python")
    b.op(p.form(True), **hosted.holes(i, True))


def _gather(i: Instruction, b: Builder) -> None:
    index, element = avx.GATHERS[i.mnemonic]
    width = b.address_without_index(i) if _linear(i, b) else 0
    if width not in (32, 64):
        b.python(i)
        return
    count = hosted.vector_bytes(i) // max(index, element)
    value, indices, mask = (LAYOUT[f"xmm{hosted.number(r)}"].offset for r in (i.op0_register, i.memory_index, i.op2_register))
    name = f"gather.{index}.{element}.{count}.{width}"
    b.op(name, Uop="python", Uscale=i.memory_index_scale, R0=value, R1=indices, R2=mask)


_SPECIAL: dict[int, Callable[[Instruction, Builder], None]] = {
    Mnemonic.VZEROUPPER: _zero,
    Mnemonic.VZEROALL: _zero,
    Mnemonic.VLDMXCSR: load_mxcsr,
    Mnemonic.VSTMXCSR: store_mxcsr,
    Mnemonic.VMASKMOVDQU: masked_move,
    Mnemonic.VCVTPS2PH: _half_precision,
    **dict.fromkeys(avx.MASKED, _masked),
    **dict.fromkeys(avx.GATHERS, _gather),
}
