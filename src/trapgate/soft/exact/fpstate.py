"""Executes FXRSTOR, XRSTOR and XRSTORS where an exception is unmasked, before or after; all else of their kind is native."""

from itertools import islice

from iced_x86 import Instruction, Mnemonic

from trapgate.arch import vectors, xstate
from trapgate.arch.control import EFER_FFXSR
from trapgate.exits import Exit
from trapgate.isa import modes
from trapgate.isa.families.fpstate import AVX, SSE, X87
from trapgate.isa.families.sse import RESERVED
from trapgate.soft.exact.careful import get_mxcsr, set_mxcsr
from trapgate.soft.exact.operands import effective_address
from trapgate.soft.state.core import SoftCore
from trapgate.soft.state.fault import GuestFault
from trapgate.soft.state.guest_cpu import GuestCpu
from trapgate.soft.state.instructions import handles

_POINTERS_END = xstate.MXCSR.offset


def initial() -> bytes:
    """An area of the initial configuration (SDM vol. 1, 13.6)."""
    area = bytearray(xstate.standard_size(xstate.ALL))
    xstate.write(area, "fctrl", xstate.INITIAL_FCW)
    return bytes(area)


def _load_x87(cpu: SoftCore, data: bytes, wide: bool) -> None:
    image = bytearray(data)
    if not wide:
        for pointer in (xstate.FIP, xstate.FDP):
            image[pointer.offset + 4 : pointer.offset + pointer.size] = bytes(4)
    cpu.state.fxsave[:_POINTERS_END] = bytes(image[:_POINTERS_END])
    cpu.state.fxsave[xstate.ST0 : xstate.XMM0] = data[xstate.ST0 : xstate.XMM0]


def _load(cpu: SoftCore, component: xstate.Component, data: bytes) -> None:
    """The vector registers of a component that the mode has."""
    for place in islice(component.registers.values(), 16 if cpu.state.mode & modes.CODE64 else 8):
        getattr(cpu.state, place.field)[:] = data[place.offset : place.offset + place.size]


@handles(Mnemonic.FXRSTOR, Mnemonic.FXRSTOR64)
def fxrstor(cpu: GuestCpu, i: Instruction) -> Exit | None:
    """FXRSTOR. #GP(0): operand not on a 16-byte boundary, reserved bits of MXCSR."""
    address = effective_address(cpu, i, xstate.LEGACY_BYTES)
    data = cpu.read_bytes(address, xstate.LEGACY_BYTES)
    mxcsr = xstate.read(data, "mxcsr")
    if address & 15 or mxcsr & RESERVED:
        raise GuestFault(vectors.GP, 0)
    _load_x87(cpu, data, i.mnemonic == Mnemonic.FXRSTOR64)
    if not (cpu.state.efer & EFER_FFXSR and cpu.state.mode & modes.CODE64 and not cpu.state.cpl):
        _load(cpu, xstate.SSE, data)
    set_mxcsr(cpu, mxcsr)
    return None


@handles(Mnemonic.XRSTOR, Mnemonic.XRSTOR64, Mnemonic.XRSTORS, Mnemonic.XRSTORS64)
def xrstor(cpu: GuestCpu, i: Instruction) -> Exit | None:
    """XRSTOR, XRSTORS (SDM vol. 1, 13.8, 13.12); the stencil has raised what #GP(0) there is before it came here."""
    st = cpu.state
    wanted = st.rax & st.xcr0
    size = xstate.standard_size(wanted)
    data = cpu.read_bytes(effective_address(cpu, i, size), size)
    present, compacted = (int.from_bytes(data[at : at + 8], "little") for at in (xstate.XSTATE_BV, xstate.XCOMP_BV))
    compact = bool(compacted & xstate.COMPACTED)
    mxcsr = xstate.INITIAL_MXCSR if compact and not present & SSE else xstate.read(data, "mxcsr")
    if wanted & X87:
        _load_x87(cpu, data if present & X87 else initial(), i.mnemonic in (Mnemonic.XRSTOR64, Mnemonic.XRSTORS64))
    for component in (xstate.SSE, xstate.AVX):
        if wanted & component.bit:
            _load(cpu, component, data if present & component.bit else initial())
    set_mxcsr(cpu, mxcsr if wanted & (SSE if compact else SSE | AVX) else get_mxcsr(cpu))
    return None
