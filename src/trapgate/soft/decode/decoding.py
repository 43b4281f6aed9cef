"""Decodes guest code as the vendor's CPUs do it.

In 64-bit mode AMD's CPUs honour a 16-bit operand size of near branches, which Intel's ignore: the displacement has 16 bits, RIP is
cut, RET and CALL move two bytes (APM vol. 3, JMP, CALL and RET near; SDM vol. 2, JMP). On AMD's REX.W makes no 64-bit offset of a
far pointer in memory (APM vol. 3, JMP far and LSS; SDM vol. 2, JMP and LDS). UD0 has a ModRM byte on Intel's only (SDM vol. 2, UD;
APM vol. 3, UD0).
"""

from iced_x86 import Code, Decoder, DecoderOptions, DecoderOptions_, Instruction

from trapgate.arch.models import CpuModel

_MOVE_CONTROL = (Code.MOV_R32_CR, Code.MOV_R64_CR, Code.MOV_CR_R32, Code.MOV_CR_R64)
LOCK = 0xF0


def options(model: CpuModel) -> DecoderOptions_:
    """What iced-x86's decoder is to be told."""
    return DecoderOptions.AMD if model.amd else DecoderOptions.NONE


def decoder(model: CpuModel, bits: int, data: bytes, ip: int = 0) -> Decoder:
    """A decoder of code of 16, 32 or 64 bits that begins at `ip`."""
    return Decoder(bits, data, options(model), ip=ip)


def is_locked_move(i: Instruction, raw: bytes) -> bool:
    """Whether this is LOCK MOV CR0, which is decoded as MOV CR8: right where CPUID has AltMovCr8 (APM vol. 3, MOV CRn), as none of
    our models does."""
    return i.code in _MOVE_CONTROL and LOCK in raw[: i.len - 3]
