"""Names the field `request` of the CPU state: native code leaves at its next block where it is not 0. Other threads write it."""

from trapgate.isa.vocabulary import Trace, Value


def leave_soon(m: Trace, wanted: Value) -> None:
    """Leave where `wanted` is not 0. What another thread has asked for meanwhile stands: nothing but 1 is ever stored."""
    with m.when(wanted != 0, likely=False):
        m.put("request", m.const(1, 32))
