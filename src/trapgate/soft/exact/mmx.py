"""Keeps MMX state in the FXSAVE image: what an MMX instruction makes of the x87 registers (SDM vol. 1, 9.5.1; APM vol. 1, 5.10)."""

from trapgate.arch import xstate
from trapgate.arch.xstate import ST0
from trapgate.soft.state.core import SoftCore

FSW, FTW = xstate.FSW.offset, xstate.FTW.offset
ALL_VALID = 0xFF


def as_mmx(image: bytes, tags: int = ALL_VALID) -> bytes:
    """The image with TOP 0 and these abridged tags; the registers stay, so that ST0 is now register 0."""
    new, top = bytearray(image), image[FSW + 1] >> 3 & 7
    for n in range(8):
        source = ST0 + 16 * (n - top & 7)
        new[ST0 + 16 * n : ST0 + 16 * n + 10] = image[source : source + 10]
    new[FSW + 1] &= ~0x38
    new[FTW] = tags
    return bytes(new)


def faulted_store(cpu: SoftCore) -> None:
    """A store of an MMX register has faulted. Intel's CPUs have made TOP 0 then, but have not touched the tags (as measured);
    AMD's have changed nothing, and do not come here."""
    cpu.state.fxsave[:] = as_mmx(bytes(cpu.state.fxsave), cpu.state.fxsave[FTW])
