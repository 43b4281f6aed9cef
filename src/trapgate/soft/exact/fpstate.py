"""FXRSTOR, XRSTOR and XRSTORS where an exception is unmasked, before or behind them: everything else of their kind is native."""

from iced_x86 import Instruction, Mnemonic

from trapgate.arch import vectors
from trapgate.arch.control import EFER_FFXSR
from trapgate.exits import Exit
from trapgate.isa import modes
from trapgate.isa.families.fpstate import (
    BITS,
    COMPACT,
    COMPACTED,
    FXSAVE_BYTES,
    INITIAL_MXCSR,
    MXCSR,
    SSE,
    ST0,
    SUPPORTED,
    X87,
    XMM,
    XSAVE_BYTES,
)  # fmt: skip
from trapgate.isa.families.sse import RESERVED
from trapgate.soft.exact.careful import get_mxcsr, set_mxcsr
from trapgate.soft.exact.operands import effective_address
from trapgate.soft.state.core import SoftCore
from trapgate.soft.state.fault import GuestFault
from trapgate.soft.state.guest_cpu import GuestCpu
from trapgate.soft.state.instructions import handles

INITIAL_X87 = (0x37F).to_bytes(2, "little") + bytes(22)


def _load_x87(cpu: SoftCore, data: bytes, wide: bool) -> None:
    image = bytearray(data[:24])
    if not wide:  # FIP and FDP have 32 bits, selectors behind them
        image[12:16] = image[20:24] = bytes(4)
    cpu.state.fxsave[:24] = bytes(image)
    cpu.state.fxsave[ST0:XMM] = data[ST0:XMM]


def _load_xmm(cpu: SoftCore, data: bytes) -> None:
    for n in range(16 if cpu.state.mode & modes.CODE64 else 8):
        getattr(cpu.state, f"xmm{n}")[:] = data[XMM + 16 * n : XMM + 16 * n + 16]


@handles(Mnemonic.FXRSTOR, Mnemonic.FXRSTOR64)
def fxrstor(cpu: GuestCpu, i: Instruction) -> Exit | None:
    """FXRSTOR. #GP(0): operand not on a 16-byte boundary, reserved bits of MXCSR."""
    address = effective_address(cpu, i, FXSAVE_BYTES)
    data = cpu.read_bytes(address, FXSAVE_BYTES)
    mxcsr = int.from_bytes(data[MXCSR : MXCSR + 4], "little")
    if address & 15 or mxcsr & RESERVED:
        raise GuestFault(vectors.GP, 0)
    _load_x87(cpu, data, i.mnemonic == Mnemonic.FXRSTOR64)
    if not (cpu.state.efer & EFER_FFXSR and cpu.state.mode & modes.CODE64 and not cpu.state.cpl):
        _load_xmm(cpu, data)
    set_mxcsr(cpu, mxcsr)
    return None


@handles(Mnemonic.XRSTOR, Mnemonic.XRSTOR64, Mnemonic.XRSTORS, Mnemonic.XRSTORS64)
def xrstor(cpu: GuestCpu, i: Instruction) -> Exit | None:
    """XRSTOR, XRSTORS (SDM vol. 1, 13.8, 13.12); the stencil has raised what #GP(0) there is before it came here."""
    st = cpu.state
    address = effective_address(cpu, i, XSAVE_BYTES)
    data = cpu.read_bytes(address, XSAVE_BYTES)
    wanted = st.rax & st.xcr0 & SUPPORTED
    present, compacted = (int.from_bytes(data[at : at + 8], "little") for at in (BITS, COMPACTED))
    mxcsr = int.from_bytes(data[MXCSR : MXCSR + 4], "little")
    if compacted & COMPACT and not present & SSE:
        mxcsr = INITIAL_MXCSR
    if wanted & X87:
        image = data if present & X87 else INITIAL_X87 + bytes(XMM - len(INITIAL_X87))
        _load_x87(cpu, image, i.mnemonic in (Mnemonic.XRSTOR64, Mnemonic.XRSTORS64))
    if wanted & SSE:
        _load_xmm(cpu, data if present & SSE else bytes(XSAVE_BYTES))
    set_mxcsr(cpu, mxcsr if wanted & SSE else get_mxcsr(cpu))
    return None
