"""Reads x87 and MXCSR by name, out of the image that holds them while no translated code runs (`arch.xstate`)."""

from trapgate.arch import xstate
from trapgate.soft.exact import careful
from trapgate.soft.state.guest_cpu import GuestCpu


def get(cpu: GuestCpu, register: str) -> int:
    """mxcsr, st0-st7 (80 bits), fctrl, fstat, ftag (full tag word), fiseg, fioff, foseg, fooff, fop; KeyError for anything else."""
    if register == "mxcsr":
        return careful.get_mxcsr(cpu)
    return xstate.read(bytes(cpu.state.fxsave), register)


def set_(cpu: GuestCpu, register: str, value: int) -> None:
    """Change one of them; ValueError for reserved bits of MXCSR."""
    if register == "mxcsr":
        careful.set_mxcsr(cpu, xstate.check_mxcsr(value))
    else:
        xstate.write(cpu.state.fxsave, register, value)
