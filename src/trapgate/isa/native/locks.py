"""Performs locked accesses that lock the bus, and the #DB that follows, plainly: in RAM, the trap the only cause.

What is not plain leaves for Python (`soft.accesses`, `exact.debugging`) before anything has changed: a device, a data breakpoint,
code; a bus lock that is to be reported; split locks that raise #AC; a step. One vCPU: the read-modify-write itself needs no care.
Sources: SDM vol. 3, 18.3.1.6; APM vol. 2, 13.1.3.6; what DR6 becomes says `arch.dr6`.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from trapgate.arch import vectors
from trapgate.arch.debugregs import (
    DEBUGCTL_BTF,
    DEBUGCTL_LBR,
    DR6_BD,
    DR6_BLD,
    DR6_BS,
    DR6_BT,
    DR6_INIT,
    DR7_GD,
)
from trapgate.arch.flags import RF, TF
from trapgate.isa import state as s
from trapgate.isa.families.memory import LINE, WIDTHS
from trapgate.isa.native.flows import crosses, hand_over, leave, reach, split, take
from trapgate.isa.native.paging import present_rights, tlb_slot
from trapgate.isa.vocabulary import Trace, Value

Number = TypeVar("Number", int, Value)


def note_lock(m: Trace, kind: int, size: Value) -> None:
    """The bus is being locked: a #DB is due behind the instruction where the guest armed it.

    Steps are Python's, and so are reports, but for what is counted.
    """
    with m.when((m.get("stepping", 32) | m.get("bus_lock_report", 32)) != 0, likely=False):
        _count(m, kind, size)
    cause = (m.get("bus_lock_trap", 32) != 0).select(m.const(DR6_BLD, 32), m.const(0, 32))
    m.put("pending_debug", m.get("pending_debug", 32) | cause)


def lock_slot(rip: Number) -> Number:
    """Which of LOCK_TALLIES places an instruction's tally is in."""
    return (rip ^ (rip >> 6)) & (s.LOCK_TALLIES - 1)


def _count(m: Trace, kind: int, size: Value) -> None:
    """Count a bus lock of an instruction with a tally; another is Python's, and so is each of a step."""
    rip = m.get("rip", 64)
    place = lock_slot(rip) * s.LOCK_TALLY.size
    known = m.get_at("lock_tallies", place, 64) == rip
    known = known & (m.get_at("lock_tallies", place + s.LOCK_TALLY.age, 64) == m.get("lock_age", 64) + 1)
    with m.when(~known | (m.get("stepping", 32) != 0)):
        hand_over(m, kind, size)
    count = place + s.LOCK_TALLY.count
    m.put_at("lock_tallies", count, m.get_at("lock_tallies", count, 64) + 1)


def reach_locked(m: Trace, size: Value, kind: int) -> Value:
    """The host address of the locked operand at EA, by a page walk: uncached pages are never writable in the TLB."""
    m.put("walk_rights", m.const(0, 64))  # a page of translated code may be found without a walk; such a page is cached
    host = reach(m, size, s.ACCESS_WRITE | s.ACCESS_READ, kind)
    with m.when((m.get("walk_rights", 64) & s.RIGHT_UNCACHED) != 0, likely=False):
        note_lock(m, kind, size)
    return host


def slow_lock(m: Trace, width: int) -> None:
    """Behind `lock`: a TLB miss, or an operand that crosses a cache line."""
    size = m.const(width // 8, 64)
    if width > 8:
        with m.when((m["EA"] & (LINE - 1)).ugt(LINE - width // 8)):
            with m.when(m.get("split_lock_ac", 32) != 0, likely=False):
                hand_over(m, s.KIND_LOCK, size)
            with m.when(crosses(m, size), likely=False):
                where = split(m, size, s.ACCESS_WRITE | s.ACCESS_READ, s.KIND_LOCK)
                note_lock(m, s.KIND_LOCK, size)
                take(m, where, width)
            entry = tlb_slot(m, m["EA"], present_rights(m)) << 5
            host = m.variable(64, m["EA"] + m.get_at("tlb", entry + 24, 64))
            with m.when(m.get_at("tlb", entry + 8, 64) != (m["EA"] & ~m.const(0xFFF, 64)), likely=False):
                host.set(reach(m, size, s.ACCESS_WRITE | s.ACCESS_READ, s.KIND_LOCK))
            note_lock(m, s.KIND_LOCK, size)
            take(m, host.value, width)
    take(m, reach_locked(m, size, s.KIND_LOCK), width)


def slow_reference(m: Trace) -> None:
    """Behind `reference`: X = size, bits 16 to 20 as `reference_kind` has them."""
    size = m["X"] & 0xFFFF
    with m.when(m["X"].bit(20) & (m.get("x87_unmasked", 32) != 0), likely=False):
        _late_reference(m, size)
    with m.when(m["X"].bit(18), likely=False):
        m["HOST"] = reach_locked(m, size, s.KIND_REFERENCE)
        m.jump_to(m["RESUME"])
    with m.when(m["X"].bit(19), likely=False):
        m["HOST"] = reach(m, size, s.ACCESS_WRITE, s.KIND_REFERENCE, faults_in_python=True)
        m.jump_to(m["RESUME"])
    with m.when(crosses(m, size), likely=False):
        with m.when(m["X"].bit(16)):
            _split_reference(m, size, s.ACCESS_WRITE | s.ACCESS_READ)
        _split_reference(m, size, 0)
    wanted = ((m["X"] >> 16) & 1) * s.ACCESS_WRITE | ((m["X"] >> 17) & 1) * s.ACCESS_READ
    m["HOST"] = reach(m, size, wanted, s.KIND_REFERENCE)
    m.jump_to(m["RESUME"])


def _late_reference(m: Trace, size: Value) -> None:
    """A store that may not happen: to what is no plain memory it is Python's."""
    host = m.call("access", 64, m["EA"], size, present_rights(m) | s.ACCESS_WRITE)
    with m.when(host.ult(4096), likely=False):
        leave(m, s.EXIT_INSTRUCTION)
    m["HOST"] = host
    m.jump_to(m["RESUME"])


def _split_reference(m: Trace, size: Value, wanted: int) -> None:
    """A reference to an operand in two pages; what is only read is not put back."""
    m["HOST"] = split(m, size, wanted, s.KIND_REFERENCE)
    if not wanted:
        m.put("split_size", m.const(0, 64))
    m.jump_to(m["RESUME"])


def debug_trap(m: Trace) -> None:
    """Behind a locked instruction that left a debug cause; RIP is on it still. A bus lock alone is delivered from here.

    Nobody else has a say: breakpoints and single steps, of the guest or the debugger, mean that a step runs.
    """
    flags, control = m.get("rflags", 64), m.get("debugctl", 64)
    others = (m.get("pending_debug", 32) != DR6_BLD) | (m.get("stepping", 32) != 0)
    others = others | ((flags & (TF | RF)) != 0) | ((control & (DEBUGCTL_BTF | DEBUGCTL_LBR)) != 0)
    with m.when(others, likely=False):
        leave(m, s.EXIT_DEBUG)
    m.put("pending_debug", m.const(0, 32))
    m.put("rip", m.get("next_rip", 64))
    m.put("dr6", (m.get("dr6", 64) & (DR6_BD | DR6_BS | DR6_BT)) | (DR6_INIT & ~DR6_BLD))
    m.put("dr7", m.get("dr7", 64) & ~m.const(DR7_GD, 64))
    m.put("fault_vector", m.const(vectors.DB, 32))
    m.put("fault_error", m.const(0, 32))
    m.put("fault_has_error", m.const(0, 32))
    m.jump("deliver")


FLOWS: dict[str, Callable[[Trace], None]] = {
    "slow_reference": slow_reference,
    "debug_trap": debug_trap,
    **{f"slow_lock{w}": partial(slow_lock, width=w) for w in WIDTHS},
}
