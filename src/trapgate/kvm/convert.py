"""Converts what KVM says to our terms and back, by pure functions.

KVM_EXIT_DEBUG differs by the host's vendor. AMD: DR6 raw, bit 11 = 0 means a bus lock. Intel: the exit qualification put on top of
FFFF0FF0, so bit 11 reads 1 always and a bus lock must be inferred: no cause bit at all, the guest has DEBUGCTL[2] = 1 and CPL > 0,
and the instruction is no INT1. INT1 leaves RIP on itself where KVM has only seen the instruction, behind it where the CPU has
completed it. A #BP leaves `dr6` stale. Payloads are all active high (Linux, kvm_deliver_exception_payload).
"""

from collections.abc import Callable

from trapgate.arch import dr6
from trapgate.arch.debugregs import DEBUGCTL_BUS_LOCK, DR6_B, DR6_BLD, DR6_INIT
from trapgate.kvm import abi
from trapgate.values import dataclass

DB, BP = 1, 3
INT1 = 0xF1
UNUSABLE = 1 << 16


@dataclass(frozen=True, slots=True)
class Situation:
    """The guest as KVM_EXIT_DEBUG found it. `byte` says the one at CS:RIP, None when it cannot be read."""

    amd_host: bool
    debugctl: int
    cpl: int
    byte: Callable[[], int | None]


@dataclass(frozen=True, slots=True)
class DebugMeaning:
    """A #DB exit: causes and matched debug registers, active high; `icebp`: INT1; `on_it`: and RIP is still on it."""

    causes: int
    matched: int
    icebp: bool = False
    on_it: bool = False


def may_bus_lock(debugctl: int, cpl: int) -> bool:
    """Whether the guest asked for bus-lock traps where it is."""
    return bool(debugctl & DEBUGCTL_BUS_LOCK) and cpl > 0


def debug_meaning(raw: int, at: Situation) -> DebugMeaning:
    """What `kvm_run.debug.arch.dr6` of a #DB tells."""
    causes, matched = dr6.from_raw(raw & 0xFFFF_FFFF)
    if not at.amd_host:
        causes &= ~DR6_BLD
    if causes or matched:
        return DebugMeaning(causes, matched)
    if at.byte() == INT1:
        return DebugMeaning(0, 0, icebp=True, on_it=True)
    if at.amd_host:  # it hides no cause: nothing else raises #DB without one
        return DebugMeaning(0, 0, icebp=True)
    return DebugMeaning(DR6_BLD if may_bus_lock(at.debugctl, at.cpl) else 0, 0)


def inject_debug(events: abi.VcpuEvents, causes: int, hits: int, *, payload: bool) -> None:
    """Make KVM raise #DB. With the payload it changes DR6 itself, when the exception is delivered; without, the caller does."""
    events.exception_nr = DB
    events.exception_has_error_code = 0
    events.exception_error_code = 0
    if payload:
        events.exception_pending, events.exception_injected = 1, 0
        events.exception_has_payload = 1
        events.exception_payload = dr6.payload(causes, hits)
        events.flags |= abi.EVENT_VALID_PAYLOAD
    else:
        events.exception_injected = 1
        events.exception_pending = events.exception_has_payload = 0
        events.flags &= ~abi.EVENT_VALID_PAYLOAD


def delivered_dr6(before: int, value: int) -> int:
    """What KVM leaves in DR6 when it delivers a #DB with this payload (kvm_deliver_exception_payload)."""
    return ((before & ~DR6_B | DR6_INIT | value) ^ (value & DR6_INIT)) & ~(1 << 12)


def segment(selector: int, base: int, limit: int, attributes: int) -> abi.Segment:
    """A segment register from an attribute word (descriptor bits 40-55 less limit 19:16; bit 16 unusable) and a limit in bytes."""
    return abi.Segment(
        base, limit, selector,
        type=attributes & 0xF, s=attributes >> 4 & 1, dpl=attributes >> 5 & 3, present=attributes >> 7 & 1,
        avl=attributes >> 12 & 1, l=attributes >> 13 & 1, db=attributes >> 14 & 1, g=attributes >> 15 & 1,
        unusable=attributes >> 16 & 1 or int(not attributes >> 7 & 1),
    )  # fmt: skip


def attributes(one: abi.Segment) -> int:
    """The attribute word of a segment register; the inverse of `segment`."""
    return int(
        one.type | one.s << 4 | one.dpl << 5 | one.present << 7 | one.avl << 12 | one.l << 13 | one.db << 14 | one.g << 15
        | (UNUSABLE if one.unusable else 0)
    )  # fmt: skip
