"""Converts DR6 between the ways in which it is held: raw (some bits active low), active high, as an exception payload, delivered.

Active high, every cause is a 1: bits 0-3 Bn, 11 BLD, 13 BD, 14 BS, 15 BT, 16 RTM. `causes` below never holds bits 0-3; `hits` holds
only those. What a delivery does to the old contents, by manual and by hardware:

- BLD: a bus lock clears it, every other #DB leaves it (SDM vol. 3, 18.2.3; APM vol. 2, 13.1.3.6).
- BD, BS, BT: set when they are a cause, never cleared by the CPU (SDM vol. 3, 18.2.3: only bits 0-3 ever are).
- B0-B3: the manual says that certain debug exceptions may clear them, not which (same place). Hardware is seen to write all four
  at every #DB; the one exception known is ICEBP on AMD, which leaves them alone (observed by the Xen developers, 2024). We do the
  same, and set exactly the breakpoints that matched and were enabled.
"""

from trapgate.arch.debugregs import DR6_ACTIVE_LOW, DR6_B, DR6_BD, DR6_BLD, DR6_BS, DR6_BT, DR6_INIT, DR6_RTM

KNOWN = DR6_B | DR6_BLD | DR6_BD | DR6_BS | DR6_BT | DR6_RTM
CAUSES = KNOWN & ~DR6_B


def split(active_high: int) -> tuple[int, int]:
    """(causes, hits) of an active-high value; reserved bits are dropped."""
    return active_high & CAUSES, active_high & DR6_B


def from_raw(dr6: int) -> tuple[int, int]:
    """(causes, hits) that a raw DR6 reports. A raw 0, as software may leave behind, reads as BLD and RTM."""
    return split(dr6 ^ DR6_INIT)


def to_raw(causes: int, hits: int) -> int:
    """The raw DR6 of one #DB that found DR6 at its reset value."""
    return DR6_INIT ^ _active_high(causes, hits)


def payload(causes: int, hits: int) -> int:
    """The exception payload for these causes: all active high, `DR6 ^ FFFF0FF0`, as KVM_SET_VCPU_EVENTS takes it."""
    return _active_high(causes, hits)


def from_payload(value: int) -> tuple[int, int]:
    """(causes, hits) of an exception payload."""
    return split(value)


def deliver(before: int, causes: int, hits: int, *, icebp: bool = False, amd: bool = False) -> int:
    """What DR6 reads in the handler of a #DB with these causes, when it held `before` (see the module's docstring).

    `icebp`: the #DB comes from INT1 alone; on AMD it leaves B0-B3 as they stand.
    """
    new = _active_high(causes, hits)
    keep = before & (DR6_B | DR6_BD | DR6_BS | DR6_BT) if icebp and amd else before & (DR6_BD | DR6_BS | DR6_BT)
    high = keep | new & ~DR6_ACTIVE_LOW
    low = before & DR6_BLD | DR6_RTM  # no CPU of ours has RTM: bit 16 reads 1 unless this #DB reports it
    return high | low & ~new | DR6_INIT & ~DR6_ACTIVE_LOW


def _active_high(causes: int, hits: int) -> int:
    assert not causes & ~CAUSES, f"{causes:#x} holds bits that are no cause"
    assert not hits & ~DR6_B, f"{hits:#x} is no set of DR numbers"
    return causes | hits
