"""Delivers exceptions and interrupts by the double-fault rule, and leaves the story of a triple fault behind.

What a delivery reads and pushes may hit data breakpoints: the #DB comes before the first
instruction of the handler (docs/debugging.md).
"""

from trapgate.arch import vectors
from trapgate.doings import Cause, Happened
from trapgate.isa.rules.events import HAS_ERROR, INT_N, KEEP_RF, SET_RF, SOFTWARE
from trapgate.soft.exact.rules import settle
from trapgate.soft.exact.shutdown import Attempt, explain
from trapgate.soft.state.core import SoftCore
from trapgate.soft.state.fault import GuestFault
from trapgate.values import dataclass

MOST_TOLD = 4  # deliveries that failed
TRAPS = {vectors.BP, vectors.OF, vectors.DB}
ABORTS = {vectors.DF, vectors.MC}


class TripleFault(Exception):
    """The CPU shuts down: a third exception while a double fault was being delivered. Its text says why, in one line."""


@dataclass(frozen=True, slots=True)
class Event:
    """What is being delivered. `resume`: RF in the pushed flags; None keeps the one in RFLAGS."""

    vector: int
    error: int | None = None
    software: bool = False  # INT n, INT3, INTO: gate privilege counts, EXT is 0
    resume: bool | None = None


def deliver(
    cpu: SoftCore, vector: int, error: int | None = None, *, software: bool = False, external: bool = False,
    resume: bool | None = None, cr2: int | None = None,
) -> None:  # fmt: skip
    """Deliver an exception or interrupt; `state.rip` is what the frame shall say, afterwards the handler. Raises TripleFault.

    `external`: an interrupt or NMI, benign whatever its vector. `software`: INT n and its like, with RIP behind it already.
    `resume`: RF in the pushed RFLAGS; by default 1 for faults, 0 for traps and software interrupts, unchanged for external ones
    (SDM vol. 3, 18.3.1.1).
    `cr2` is stored for #PF. The caller has done what #DB does to DR6, DR7 and DEBUGCTL. `history` notes each.
    """
    st = cpu.state
    if resume is None and not external:
        resume = not software and vector not in TRAPS | ABORTS
    event = Event(vector, error, software, resume)
    first = vectors.NMI if external or software else vector
    if cr2 is not None:
        st.cr2 = cr2
    hits, cause = cpu.pending_hits, Cause.INTERRUPT if external else Cause.SOFTWARE if software else Cause.EXCEPTION
    attempts = list[Attempt]()
    while True:
        last = _remember(cpu, event, cause)
        cause = Cause.EXCEPTION
        st.fault_delivering = 1
        try:
            enter(cpu, event)
            st.shadow = 0
            return
        except GuestFault as second:
            attempts.append((str(last), event.vector, second))
            cpu.pending_hits = hits  # what did not come to its end reports no data breakpoint, as with an instruction that faults
            if second.cr2 is not None:
                st.cr2 = second.cr2
            match vectors.nested(first, second.vector):
                case vectors.Nesting.SERIAL:
                    event, first = Event(second.vector, second.error, False, True), second.vector
                case vectors.Nesting.DOUBLE_FAULT:
                    event, first = Event(vectors.DF, 0, False, False), vectors.DF
                case vectors.Nesting.SHUTDOWN:
                    _remember(cpu, Event(second.vector, second.error), cause)
                    raise TripleFault(explain(cpu, attempts[-MOST_TOLD:])) from second
        finally:
            st.fault_delivering = 0


def _remember(cpu: SoftCore, event: Event, cause: Cause) -> Happened:
    """Note what is being delivered, and what it is."""
    cr2 = cpu.state.cr2 if event.vector == vectors.PF and cause is Cause.EXCEPTION else None
    one = Happened(event.vector, event.error, cpu.state.rip, cr2, cause)
    cpu.history.append(one)
    return one


def enter(cpu: SoftCore, event: Event) -> None:
    """Go through the IVT or IDT for one event, by its rule (`isa.rules.events`). GuestFault before any register changes."""
    how = HAS_ERROR * (event.error is not None) | SOFTWARE * event.software
    how |= KEEP_RF if event.resume is None else SET_RF * event.resume
    settle(cpu, "enter_event", event.vector, event.error or 0, how)


def software_interrupt(cpu: SoftCore, vector: int, *, checked_iopl: bool) -> None:
    """INT n, INT3, INTO from an instruction handler: `next_rip` is pushed and becomes the handler. GuestFault.

    `checked_iopl`: INT n, which virtual-8086 mode at IOPL < 3 refuses unless CR4.VME redirects it (SDM vol. 3, 20.3.3).
    """
    rip = cpu.state.rip
    settle(cpu, "enter_event", vector, 0, SOFTWARE | INT_N * checked_iopl)
    cpu.history.append(Happened(vector, None, rip, None, Cause.SOFTWARE))
    cpu.state.next_rip = cpu.state.rip
