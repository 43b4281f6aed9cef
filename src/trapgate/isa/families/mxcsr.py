"""Keeps MXCSR, which the host never gets as it is while the guest unmasks an exception: no #XM may come from translated code.

While all are masked, the guest's MXCSR is the host's. Otherwise they differ, in bits that `mxcsr_difference` has:

- masks: the host has them set;
- flags of unmasked exceptions that the guest has set: the host has them clear, so that the next such exception shows;
- FTZ where underflow is unmasked: the host has it set. The guest's counts for nothing then (SDM vol. 1, 10.2.3.3), and the host's
  makes every tiny result raise UE, exact ones, too, which is what unmasked underflow is (SDM vol. 1, 4.9.1.5).

An instruction that may raise leaves its results aside, looks for flags of unmasked exceptions, and either takes over both, or has
changed nothing and leaves for Python (`soft.exact.careful`), which finds out what to raise.
"""

from trapgate.isa.families.system import python
from trapgate.isa.vocabulary import Trace, Value

MASKS, RESERVED = 0x3F << 7, 0xFFFF0000
FLAGS, UNDERFLOW_MASK, FTZ = 0x3F, 1 << 11, 1 << 15


def difference(mxcsr: int) -> int:
    """In which bits the host's MXCSR is another."""
    unmasked = ~mxcsr & MASKS
    return unmasked | mxcsr & unmasked >> 7 | (~mxcsr & FTZ if unmasked & UNDERFLOW_MASK else 0)


def put(m: Trace, mxcsr: Value) -> Value:
    """MXCSR = a value of 32 bits; 1-bit: whether the mode follows."""
    unmasked = ~mxcsr & MASKS
    flush = ((unmasked & UNDERFLOW_MASK) != 0).select(~mxcsr & FTZ, m.const(0, 32))
    new = unmasked | mxcsr & (unmasked >> 7) | flush
    follows = (m.get("mxcsr_difference", 32) != 0) ^ (new != 0)
    m.put("mxcsr_difference", new)
    m.put("guest_mxcsr", mxcsr ^ new)
    _load(m)
    return follows


def get(m: Trace) -> Value:
    """MXCSR, of 32 bits."""
    m.asm("stmxcsr ($0)", "r,~{memory}", 0, m.address_of("guest_mxcsr"))
    return m.get("guest_mxcsr", 32) ^ m.get("mxcsr_difference", 32)


def settle(m: Trace, raised: Value) -> None:
    """Behind an instruction that may raise, `raised` being the host's MXCSR: to Python where an unmasked exception did."""
    with m.when((raised & (m.get("mxcsr_difference", 32) >> 7) & FLAGS) != 0, likely=False):
        _load(m)
        python(m)
    m.put("guest_mxcsr", raised)


def _load(m: Trace) -> None:
    m.asm("ldmxcsr ($0)", "r,~{memory},~{fpsr}", 0, m.address_of("guest_mxcsr"))
