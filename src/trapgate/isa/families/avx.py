"""Has AVX, AVX2, FMA and F16C: the host's own instructions (`hosted`), and those with a form of their own.

A YMM register is 32 bytes of the CPU state, its lower half the XMM register: VEX-encoded instructions, which set a register to its
end, store all of it, and SSE ones leave the upper half alone.

Masked moves and gathers reach the elements that are asked for, in order, and may fault amid them. Their bodies here are for
operands all of which can be reached by the TLB; everything else is Python's (`exact.vectors`).
"""

from collections.abc import Iterator
from functools import partial

from iced_x86 import Code_, EncodingKind, Mnemonic, OpCodeInfo

from trapgate.arch import xstate
from trapgate.arch.control import CR0_TS
from trapgate.isa.families.hosted import codes_of, host_forms
from trapgate.isa.families.memory import aligned, probe, reference
from trapgate.isa.families.system import python
from trapgate.isa.forms import Form
from trapgate.isa.state import LAYOUT
from trapgate.isa.vocabulary import Trace

FEATURES = ("AVX", "AVX2", "FMA", "F16C", "AES", "PCLMULQDQ")
GATHERS = {  # bytes of an index and of an element
    Mnemonic.VPGATHERDD: (4, 4), Mnemonic.VGATHERDPS: (4, 4), Mnemonic.VPGATHERDQ: (4, 8), Mnemonic.VGATHERDPD: (4, 8),
    Mnemonic.VPGATHERQD: (8, 4), Mnemonic.VGATHERQPS: (8, 4), Mnemonic.VPGATHERQQ: (8, 8), Mnemonic.VGATHERQPD: (8, 8),
}  # fmt: skip
MASKED = {Mnemonic.VMASKMOVPS: 4, Mnemonic.VMASKMOVPD: 8, Mnemonic.VPMASKMOVD: 4, Mnemonic.VPMASKMOVQ: 8}
_OWN_FORM = {Mnemonic.VZEROUPPER, Mnemonic.VZEROALL, Mnemonic.VLDMXCSR, Mnemonic.VSTMXCSR, Mnemonic.VMASKMOVDQU, *GATHERS}
SIZES = (16, 32)


def codes() -> Iterator[Code_]:
    """Every encoding that has a form of the common kind."""
    for code in codes_of(EncodingKind.VEX, *FEATURES):
        if OpCodeInfo(code).mnemonic not in _OWN_FORM:
            yield code


def gate(m: Trace) -> None:
    """While CR0.EM or CR0.TS is set: #NM if TS is, EM does not count (SDM vol. 2, 2.7)."""
    with m.when((m.get("cr0", 64) & CR0_TS) != 0):
        m.cold("raise_nm")
    m.jump("NEXT")


def zero(m: Trace, registers: int, whole: bool) -> None:
    """VZEROALL, or (not `whole`) VZEROUPPER, of the registers that the mode has."""
    fields = [place.field for part in (xstate.SSE, xstate.AVX)[not whole :] for place in list(part.registers.values())[:registers]]
    stores = "; ".join(f"movaps %xmm0, {LAYOUT[field].offset}($0)" for field in fields)
    m.asm(f"xorps %xmm0, %xmm0; {stores}", "r,~{xmm0},~{memory}", 0, m.address_of("rip"))
    m.jump("NEXT")


def aside(m: Trace) -> None:
    """HOST = where an instruction may store that computes before it reaches its operand."""
    m["HOST"] = m.address_of("scratch")
    m.jump("NEXT")


def from_aside(m: Trace, size: int) -> None:
    """Memory at HOST = what was stored there."""
    m.copy(m["HOST"], m.address_of("scratch"), size)
    m.jump("NEXT")


def masked_reference(m: Trace, size: int, write: bool) -> None:
    """HOST = host address of a masked move's operand at EA, where all of it may be reached."""
    hit, host = probe(m, m["EA"], size, write)
    with m.when(hit, likely=True):
        m["HOST"] = host
        m.jump("NEXT")
    python(m)


def gather(m: Trace, index: int, element: int, count: int, width: int) -> None:
    """Elements at EA + index * scale, `width` bits of it, where R2 has a sign; then R2 is 0. R0 gets them, R1 has the indices."""
    chosen, places, reached = [], [], m.const(1, 1)
    for n in range(count):
        address = m["EA"] + m.get_at("R1", m.const(index * n, 64), 8 * index).sext(64) * m.hole("Uscale")
        hit, host = probe(m, address if width == 64 else address.trunc(width).zext(64), element, write=False)
        chosen.append(m.get_at("R2", m.const(element * n, 64), 8 * element).sign)
        places.append(host)
        reached = reached & (hit | ~chosen[n])
    with m.when(~reached, likely=False):
        python(m)
    for n in range(count):
        with m.when(chosen[n]):
            m.put_at("R0", m.const(element * n, 64), m.load(places[n], 8 * element))
    for at in range(0, 32, 8):
        m.put_at("R2", m.const(at, 64), m.const(0, 64))
        if at >= element * count:
            m.put_at("R0", m.const(at, 64), m.const(0, 64))
    m.jump("NEXT")


def gathers() -> Iterator[tuple[int, int, int]]:
    """Bytes of an index, bytes of an element, and how many of them."""
    for index, element in sorted(set(GATHERS.values())):
        for size in SIZES:
            yield index, element, size // max(index, element)


def forms() -> Iterator[Form]:
    """Every stencil of this family."""
    yield from host_forms(codes())
    yield Form("avx.gate", gate)
    for registers in (8, 16):
        yield Form(f"vzeroupper.{registers}", partial(zero, registers=registers, whole=False))
        yield Form(f"vzeroall.{registers}", partial(zero, registers=registers, whole=True))
    yield Form("aside", aside)
    for size in (8, 16):
        yield Form(f"aside.{size}", partial(from_aside, size=size))
    for size in SIZES:
        yield Form(f"masked.r.{size}", partial(masked_reference, size=size, write=False))
        yield Form(f"masked.w.{size}", partial(masked_reference, size=size, write=True))
    for index, element, count in gathers():
        for width in (32, 64):
            body = partial(gather, index=index, element=element, count=count, width=width)
            yield Form(f"gather.{index}.{element}.{count}.{width}", body)
    yield Form("aligned.32", partial(aligned, size=32))
    yield Form("ref.r.32", partial(reference, size=32, write=False, read=True))
    yield Form("ref.w.32", partial(reference, size=32, write=True, read=False))
