"""Writes DR0-DR3 and DR7 where that changes nothing that is armed (SDM vol. 3, 18.2).

Python's (`exact.debugging`): general detect, #GP, and a breakpoint that comes, goes or moves.
"""

from collections.abc import Callable
from functools import partial

from trapgate.arch.debugregs import DR7_FIXED_1, DR7_GD, DR7_WRITABLE, SLOTS
from trapgate.isa.native.flows import decline, proceed
from trapgate.isa.native.mode import has
from trapgate.isa.vocabulary import Trace

ENABLED = (1 << 2 * SLOTS) - 1  # L0-G3
FIELDS = 0xFFFF0000  # R/W and LEN


def write_address(m: Trace, number: int) -> None:
    """MOV DRn, T0 of an address."""
    enabled = has(m.get("dr7", 64), 3 << 2 * number) & (m["T0"] != m.get(f"dr{number}", 64))
    with m.when(has(m.get("dr7", 64), DR7_GD) | enabled, likely=False):
        decline(m)
    m.put(f"dr{number}", m["T0"])
    proceed(m)


def write_dr7(m: Trace) -> None:
    """MOV DR7, T0."""
    old, new = m.get("dr7", 64), m["T0"]
    armed = has(old | new, ENABLED) & has(old ^ new, ENABLED | FIELDS)
    with m.when(has(old, DR7_GD) | ((new >> 32) != 0) | armed, likely=False):
        decline(m)
    m.put("dr7", new & DR7_WRITABLE | DR7_FIXED_1)
    proceed(m)


FLOWS: dict[str, Callable[[Trace], None]] = {
    **{f"write_dr{n}": partial(write_address, number=n) for n in range(SLOTS)},
    "write_dr7": write_dr7,
}
