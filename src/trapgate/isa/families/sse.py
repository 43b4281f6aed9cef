"""Lists SSE to SSE4.2, AES, PCLMULQDQ, SHA, and all of MMX that has an operand: the host's own instructions (see `hosted`).

MXCSR needs no care while its exceptions are masked: during translated code the host's MXCSR is the guest's. With an unmasked one
the mode of translation says so (`modes.SSE_UNMASKED`), and instructions that may raise #XM look at what they have raised (`mxcsr`).
"""

from collections.abc import Iterator

from iced_x86 import Code_, EncodingKind, Mnemonic, OpCodeInfo, OpCodeOperandKind

from trapgate.isa.families import mxcsr
from trapgate.isa.families.hosted import codes_of, host_forms
from trapgate.isa.families.system import enter_native
from trapgate.isa.forms import Form
from trapgate.isa.vocabulary import Trace

FEATURES = ("MMX", "SSE", "SSE2", "SSE3", "SSSE3", "SSE4_1", "SSE4_2", "AES", "PCLMULQDQ", "SHA")
_OWN_FORM = (Mnemonic.MASKMOVQ, Mnemonic.MASKMOVDQU)
_K = OpCodeOperandKind
_VECTORS = {_K.XMM_REG, _K.XMM_RM, _K.XMM_OR_MEM, _K.MM_REG, _K.MM_RM, _K.MM_OR_MEM}


def codes() -> Iterator[Code_]:
    """Every encoding that has a form of the common kind."""
    for code in codes_of(EncodingKind.LEGACY, *FEATURES):
        info = OpCodeInfo(code)
        if info.mnemonic not in _OWN_FORM and any(kind in _VECTORS for kind in info.op_kinds()):
            yield code


def masked_move(m: Trace) -> None:
    """MASKMOVDQU: bytes of R1 whose mask byte in R2 has its sign set, to HOST. SFENCE makes it a plain store."""
    text = "movaps R1($0), %xmm0; movaps R2($0), %xmm1; maskmovdqu %xmm1, %xmm0; sfence"
    m.asm(text, "r,{rdi},~{xmm0},~{xmm1},~{memory}", 0, m.address_of("rip"), m["HOST"])
    m.jump("NEXT")


def masked_move_mmx(m: Trace) -> None:
    """MASKMOVQ: the same with two MMX registers."""
    m.asm(".byte 0x0f,0xf7,Bmodrm+192; sfence", "{rdi},~{memory}", 0, m["HOST"])
    m.jump("NEXT")


def load_mxcsr(m: Trace) -> None:
    """LDMXCSR of T0 (zero-extended): #GP(0) for reserved bits."""
    new = m["T0"]
    with m.when((new & mxcsr.RESERVED) != 0, likely=False):
        m.cold("raise_gp0")
    with m.when(mxcsr.put(m, new.trunc(32)), likely=False):
        enter_native(m, "floating_changed")
    m.jump("NEXT")


def store_mxcsr(m: Trace) -> None:
    """STMXCSR: T0 = MXCSR."""
    m["T0"] = mxcsr.get(m).zext(64)
    m.jump("NEXT")


def forms() -> Iterator[Form]:
    """Every stencil of this family."""
    yield from host_forms(codes())
    yield Form("maskmovdqu", masked_move)
    yield Form("maskmovq", masked_move_mmx)
    yield Form("ldmxcsr", load_mxcsr)
    yield Form("stmxcsr", store_mxcsr)
