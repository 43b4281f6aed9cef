"""Decides whether packed and floating instructions may run (CR0.EM, CR0.MP, CR0.TS, CR4.OSFXSR), and who lowers them.

SDM vol. 3, 2.5 (table 2-1 and what follows) and 12.1: x87 is #NM under EM or TS; SSE is #UD under EM or without OSFXSR, then #NM
under TS; MMX is #UD under EM, #NM under TS; WAIT is #NM only while both MP and TS are set.
"""

from iced_x86 import Instruction, Mnemonic, RegisterExt

from trapgate.isa import modes
from trapgate.isa.families import x87
from trapgate.soft.decode.avx import is_vex, lower_avx
from trapgate.soft.decode.sse import lower_sse, unavailable_sse
from trapgate.soft.decode.template import Builder
from trapgate.soft.decode.x87 import lower_x87, x87_codes

_EMPTY = (Mnemonic.EMMS, Mnemonic.FEMMS)


def lower_gated(i: Instruction, b: Builder) -> bool:
    """Micro-ops of an x87, MMX, SSE or AVX instruction; False when it is none of these."""
    if is_vex(i):
        return lower_avx(i, b)
    registers = [i.op_register(n) for n in range(i.op_count)]
    if i.mnemonic == Mnemonic.WAIT and b.floating & modes.NO_X87:
        b.op("wait.gate")
        return True
    if i.code in x87_codes() or i.mnemonic in x87.NOTHING:
        if b.floating & modes.NO_X87:
            b.raises("raise_nm")
            return True
        return lower_x87(i, b)
    if any(RegisterExt.is_xmm(r) for r in registers):
        return unavailable_sse(b) or lower_sse(i, b)
    if (any(RegisterExt.is_mm(r) for r in registers) or i.mnemonic in _EMPTY) and b.floating & modes.NO_X87:
        b.raises("mmx.gate")
        return True
    return lower_sse(i, b)
