"""Packed and floating instructions: whether they may run (CR0.EM, CR0.TS, CR4.OSFXSR), and who lowers them."""

from iced_x86 import CpuidFeature, Instruction, Register, RegisterExt

from trapgate.isa import state as s
from trapgate.soft.template import Builder

_X87 = (CpuidFeature.FPU, CpuidFeature.FPU287, CpuidFeature.FPU387)


def lower_gated(i: Instruction, b: Builder) -> bool:
    """Micro-ops of an x87, MMX or SSE instruction; False when it is none of these."""
    from trapgate.soft.decode_sse import lower_sse
    from trapgate.soft.decode_x87 import lower_x87

    features = i.cpuid_features()
    if any(feature in features for feature in _X87):
        if b.mode & s.MODE_NO_X87:
            b.raises("raise_nm")
            return True
        return lower_x87(i, b)
    registers = [i.op_register(n) for n in range(i.op_count)]
    if not any(RegisterExt.is_xmm(r) or RegisterExt.is_mm(r) for r in registers if r != Register.NONE):
        return lower_sse(i, b)
    if b.mode & s.MODE_NO_SSE:
        b.raises("raise_ud")
        return True
    if b.mode & s.MODE_NO_X87:
        b.raises("raise_nm")
        return True
    return lower_sse(i, b)
