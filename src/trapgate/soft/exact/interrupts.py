"""Delivers exceptions and interrupts by the double-fault rule, and leaves the story of a triple fault behind.

What a delivery reads and pushes may hit data breakpoints: the #DB comes before the first
instruction of the handler (docs/debugging.md).
"""

from collections import deque

from trapgate.arch import vectors
from trapgate.isa.rules.events import HAS_ERROR, INT_N, KEEP_RF, SET_RF, SOFTWARE
from trapgate.soft.exact.rules import settle
from trapgate.soft.state.core import SoftCore
from trapgate.soft.state.fault import GuestFault
from trapgate.soft.state.story import Happened
from trapgate.values import dataclass

TRAPS = {vectors.BP, vectors.OF, vectors.DB}
ABORTS = {vectors.DF, vectors.MC}


class TripleFault(Exception):
    """The CPU shuts down: a third exception while a double fault was being delivered."""


@dataclass(frozen=True, slots=True)
class Event:
    """What is being delivered. `resume`: RF in the pushed flags; None keeps the one in RFLAGS."""

    vector: int
    error: int | None = None
    software: bool = False  # INT n, INT3, INTO: gate privilege counts, EXT is 0
    resume: bool | None = None


def deliver(
    cpu: SoftCore, vector: int, error: int | None = None, *, software: bool = False, external: bool = False,
    resume: bool | None = None, cr2: int | None = None, history: deque[Happened] | None = None,
) -> None:  # fmt: skip
    """Deliver an exception or interrupt; `state.rip` is what the frame shall say, afterwards the handler. Raises TripleFault.

    `external`: an interrupt or NMI, benign whatever its vector. `software`: INT n and its like, with RIP behind it already.
    `resume`: RF in the pushed RFLAGS; by default 1 for faults, 0 for traps and software interrupts, unchanged for external ones
    (SDM vol. 3, 18.3.1.1).
    `cr2` is stored for #PF. The caller has done what #DB does to DR6, DR7 and DEBUGCTL. `history` notes what was delivered.
    """
    st = cpu.state
    if resume is None and not external:
        resume = not software and vector not in TRAPS | ABORTS
    event = Event(vector, error, software, resume)
    first = vectors.NMI if external or software else vector
    if cr2 is not None:
        st.cr2 = cr2
    hits = cpu.pending_hits
    while True:
        if history is not None:
            history.append(Happened(event.vector, event.error, st.rip, st.cr2 if event.vector == vectors.PF else None))
        st.fault_delivering = 1
        try:
            enter(cpu, event)
            st.shadow = 0
            return
        except GuestFault as second:
            cpu.pending_hits = hits  # what did not come to its end reports no data breakpoint, as with an instruction that faults
            if second.cr2 is not None:
                st.cr2 = second.cr2
            match vectors.nested(first, second.vector):
                case vectors.Nesting.SERIAL:
                    event, first = Event(second.vector, second.error, False, True), second.vector
                case vectors.Nesting.DOUBLE_FAULT:
                    event, first = Event(vectors.DF, 0, False, False), vectors.DF
                case vectors.Nesting.SHUTDOWN:
                    if history is not None:
                        history.append(Happened(second.vector, second.error, st.rip, second.cr2))
                    raise TripleFault from second
        finally:
            st.fault_delivering = 0


def enter(cpu: SoftCore, event: Event) -> None:
    """Go through the IVT or IDT for one event, by its rule (`isa.rules.events`). GuestFault before any register changes."""
    how = HAS_ERROR * (event.error is not None) | SOFTWARE * event.software
    how |= KEEP_RF if event.resume is None else SET_RF * event.resume
    settle(cpu, "enter_event", event.vector, event.error or 0, how)


def software_interrupt(cpu: SoftCore, vector: int, *, checked_iopl: bool) -> None:
    """INT n, INT3, INTO from an instruction handler: `next_rip` is pushed and becomes the handler. GuestFault.

    `checked_iopl`: INT n, which virtual-8086 mode at IOPL < 3 refuses unless CR4.VME redirects it (SDM vol. 3, 20.3.3).
    """
    settle(cpu, "enter_event", vector, 0, SOFTWARE | INT_N * checked_iopl)
    cpu.state.next_rip = cpu.state.rip
