"""Delivers exceptions and interrupts by the rule for them (`isa.rules.events`), from translated code on.

What the rule does not settle leaves for Python (`exact.interrupts`) before anything has changed.
"""

from collections.abc import Callable
from enum import Enum
from functools import partial

from trapgate.arch import vectors
from trapgate.doings import Cause as Happening
from trapgate.isa import state as s
from trapgate.isa.native.flows import leave
from trapgate.isa.rules.events import HAS_ERROR, KEEP_RF, SET_RF, SOFTWARE
from trapgate.isa.rules.reading import DONE, FAULTED
from trapgate.isa.vocabulary import Trace, Value

# Whose return address lies behind the instruction, so that the pushed RF is 0 (SDM vol. 3, 6.5 and 18.3.1.1).
TRAPS = (vectors.DB, vectors.DF, vectors.MC)
PREPARED = (("fault_vector", 32), ("cr2", 64), ("fault_error", 32), ("fault_has_error", 32))


def system_host(m: Trace) -> None:
    """system_host(address, size, write) -> host address of an implicit supervisor access, or 0 when it is not plain."""
    address, size, write = m.arguments
    with m.when(((address & 0xFFF) + size).ugt(0x1000)):
        m.result(0)
    slot = (address >> 12) & (s.TLB_ENTRIES - 1)
    page = address & ~m.const(0xFFF, 64)
    tag = m.get_at("tlb", (slot << 5) + (write << 3), 64)
    with m.when(tag == page):
        m.result(address + m.get_at("tlb", (slot << 5) + 24, 64))
    host = m.call("access", 64, address, size, write)
    with m.when(host.ult(4096)):
        m.result(0)
    m.result(host)


class Cause(Enum):
    """What is delivered: an exception, an interrupt between two instructions, or INT n and INT3, which Python may execute."""

    FAULT = "fault"
    EXTERNAL = "external"
    SOFTWARE = "software"


def deliver(m: Trace, cause: Cause = Cause.FAULT) -> None:
    """Deliver the event prepared in `fault_*`; RIP is on the instruction (behind it for bus locks and external interrupts).

    `fault_error` of a software one says besides whether it is INT n.
    """
    hard = partial(leave, reason=s.EXIT_INSTRUCTION if cause is Cause.SOFTWARE else s.EXIT_DELIVER)
    m.put("count_exceptions", m.get("count_exceptions", 64) + 1)
    plain = (m.get("stepping", 32) == 0) & (m.get("fault_delivering", 32) == 0)
    plain = plain & (m.get("fault_has_error", 32) != s.NOT_CANONICAL) & (m.get("caught", 32) == 0)
    with m.when(~plain, likely=False):
        hard(m)
    # a fault inside here must not disturb the one under way: Python starts again from scratch
    vector, cr2, error, has_error = (m.get(name, size) for name, size in PREPARED)
    rip = m.get("rip", 64)
    outcome = m.call("enter_event", 64, vector.zext(64), error.zext(64), _how(m, vector, error, has_error, cause))
    with m.when(outcome != DONE, likely=False):
        if cause is Cause.SOFTWARE:
            with m.when(outcome == FAULTED):
                m.jump("deliver")
        for (name, _), value in zip(PREPARED, (vector, cr2, error, has_error), strict=True):
            m.put(name, value)
        hard(m)
    _remember(m, rip, (vector, cr2, error, has_error), cause)
    m.put("budget", m.get("budget", 64) + m.get("ahead", 64))
    m.put("ahead", m.const(0, 64))
    with m.when(m.get("request", 32) != 0, likely=False):  # a handler that cannot be fetched never comes to a block
        leave(m, s.EXIT_INTERRUPTED)
    m.jump("dispatch")


def _remember(m: Trace, rip: Value, prepared: tuple[Value, Value, Value, Value], cause: Cause) -> None:
    """Note what was delivered; `soft.state.history` reads it."""
    vector, cr2, error, has_error = prepared
    count = m.get("happened_count", 64)
    at = (count & (s.HAPPENED - 1)) * s.HAPPENED_ONE.size
    what: Value = vector
    if cause is Cause.FAULT:
        what = vector | (has_error << 8)
        m.put_at("happened", at + s.HAPPENED_ONE.cr2, cr2)
        m.put_at("happened", at + s.HAPPENED_ONE.error, error)
    else:
        happened = Happening.SOFTWARE if cause is Cause.SOFTWARE else Happening.INTERRUPT
        what = vector | (happened << s.CAUSE_SHIFT)
    m.put_at("happened", at, rip)
    m.put_at("happened", at + s.HAPPENED_ONE.what, what)
    m.put("happened_count", count + 1)


def _how(m: Trace, vector: Value, error: Value, has_error: Value, cause: Cause) -> Value:
    """How the event comes, as `enter_event` has it: RF is as it was between two instructions, else 0 behind one and 1 on one."""
    if cause is Cause.EXTERNAL:
        return m.const(KEEP_RF, 64)
    if cause is Cause.SOFTWARE:
        return error.zext(64) | SOFTWARE
    is_trap = m.const(0, 1)
    for trap in TRAPS:
        is_trap = is_trap | (vector == trap)
    return is_trap.select(m.const(0, 64), m.const(SET_RF, 64)) | has_error.zext(64) * HAS_ERROR


FUNCTIONS = {"system_host": (system_host, 64, 3)}
FLOWS: dict[str, Callable[[Trace], None]] = {
    "deliver": deliver,
    "interrupt": partial(deliver, cause=Cause.EXTERNAL),
    "software_interrupt": partial(deliver, cause=Cause.SOFTWARE),
}
