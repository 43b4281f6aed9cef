"""Keeps the last exceptions and interrupts that were delivered, for debuggers and for the story of a triple fault."""

from collections.abc import Iterator

from trapgate.arch import vectors
from trapgate.doings import Cause, Happened
from trapgate.isa.state import CAUSE_SHIFT, HAPPENED, HAPPENED_ONE, HAS_ERROR_CODE, LAYOUT
from trapgate.soft.state.view import CpuState


class History:
    """The last events that were delivered, in the CPU's state, where native code notes them as well; the oldest first."""

    def __init__(self, state: CpuState) -> None:
        self._state = state
        place = LAYOUT["happened"]
        self._memory = memoryview(state).cast("B")[place.offset : place.offset + place.size]

    def append(self, one: Happened) -> None:
        """Another one."""
        what = one.vector | HAS_ERROR_CODE * (one.error is not None) | one.cause << CAUSE_SHIFT
        at = self._state.happened_count % HAPPENED * HAPPENED_ONE.size
        HAPPENED_ONE.put(self._memory, at, rip=one.rip, cr2=one.cr2 or 0, error=one.error or 0, what=what)
        self._state.happened_count += 1

    def clear(self) -> None:
        """None so far."""
        self._state.happened_count = 0

    def __iter__(self) -> Iterator[Happened]:
        count = self._state.happened_count
        for number in range(max(count - HAPPENED, 0), count):
            one = HAPPENED_ONE.read(self._memory, number % HAPPENED * HAPPENED_ONE.size)
            vector, cause = one["what"] & 0xFF, Cause(one["what"] >> CAUSE_SHIFT)
            error = one["error"] if one["what"] & HAS_ERROR_CODE else None
            cr2 = one["cr2"] if vector == vectors.PF and cause is Cause.EXCEPTION else None
            yield Happened(vector, error, one["rip"], cr2, cause)
