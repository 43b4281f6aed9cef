"""Tells guest time, injected everywhere: it follows the host, or the number of executed instructions (then runs repeat exactly).

Devices never ask the host for the time: they read `now` (ns since the guest started) and ask to be called back at a moment.
"""

import heapq
import time
from collections.abc import Callable
from dataclasses import field
from typing import Annotated, TypeAlias

from trapgate.state import U64, Range, State
from trapgate.values import dataclass

SWEEP = 64  # timers in the heap before cancelled ones are looked for
FAR = 1 << 62
"""A moment (ns, 146 years) that guest time never reaches: what is due then or later is never due, so no host API sees more."""


Moment: TypeAlias = Annotated[int, Range(0, FAR)]
Begun: TypeAlias = Annotated[int, Range(-FAR, FAR)]
"""A moment from which something counts; before guest time 0 when it counts from more than 0 on."""


@dataclass(frozen=True, slots=True)
class TimerState(State):
    """A timer that waits. `order`: of those due at one moment, the one set first comes first."""

    deadline: Moment
    order: U64


@dataclass(frozen=True, slots=True)
class ClockState(State):
    """Guest time, and how many timers have been set. Timers themselves are of those who set them."""

    now: Moment
    order: U64


@dataclass(order=True, slots=True)
class Timer:
    """A callback due at a moment of guest time. `cancel` makes it void."""

    deadline: int
    order: int
    callback: Callable[[], None] = field(compare=False)
    cancelled: bool = field(default=False, compare=False)

    def cancel(self) -> None:
        """The callback will not be called."""
        self.cancelled = True

    def save(self) -> TimerState:
        """What `Clock.again` makes the same timer of."""
        return TimerState(self.deadline, self.order)


class Clock:
    """Guest time in ns and the timers that wait for it. Subclasses say what time follows."""

    def __init__(self) -> None:
        self._timers: list[Timer] = []
        self._sweep_at = SWEEP
        self._order = 0
        self.fresh = False
        """Whether a timer was set that whoever waits for the next deadline has to know of; with `look` they have seen it."""
        self._seen = FAR

    def now(self) -> int:
        """Nanoseconds of guest time since the guest started."""
        raise NotImplementedError

    @property
    def zero(self) -> int | None:
        """The host's monotonic clock (ns) at guest time 0, while guest time follows it; else None."""
        return None

    def at(self, deadline: int, callback: Callable[[], None]) -> Timer:
        """Call back at a moment of guest time (ns); late if that is past already, never from `FAR` on."""
        if len(self._timers) >= self._sweep_at:
            # A guest may re-arm its timer without end: those cancelled must not pile up until their moments come.
            self._timers = [timer for timer in self._timers if not timer.cancelled]
            heapq.heapify(self._timers)
            self._sweep_at = max(SWEEP, 2 * len(self._timers))
        self._order += 1
        return self._set(Timer(min(max(deadline, 0), FAR), self._order, callback))

    def again(self, timer: Timer | None, state: TimerState | None, callback: Callable[[], None]) -> Timer | None:
        """In place of a timer, set one as it was when its owner was saved; None is none."""
        if timer is not None:
            timer.cancel()
        if state is None:
            return None
        self._order = max(self._order, state.order)
        return self._set(Timer(state.deadline, state.order, callback))

    def _set(self, timer: Timer) -> Timer:
        if timer.deadline < FAR:
            heapq.heappush(self._timers, timer)
            self.fresh = self.fresh or timer.deadline < self._seen
        return timer

    def next_deadline(self) -> int | None:
        """When the earliest live timer is due, or None."""
        while self._timers and self._timers[0].cancelled:
            heapq.heappop(self._timers)
        return self._timers[0].deadline if self._timers else None

    def look(self) -> None:
        """Whoever waits for the next deadline has seen all timers: `fresh`."""
        self.fresh = False

    def run_due(self) -> None:
        """Call every timer whose moment has come, earliest first.

        The moment is taken once: a timer that always sets another one cannot keep the guest from running.
        """
        moment = self.now()
        while (deadline := self.next_deadline()) is not None and deadline <= moment:
            heapq.heappop(self._timers).callback()

    def save(self) -> ClockState:
        """Guest time."""
        return ClockState(min(self.now(), FAR), self._order)

    def load(self, state: ClockState) -> None:
        """It is that moment. No timer waits: whoever has one sets it again when loaded, after the clock."""
        self._timers.clear()
        self._order = state.order
        self._move(state.now)
        self.fresh = True

    def _move(self, moment: int) -> None:
        """Guest time is that moment."""
        raise NotImplementedError


class HostClock(Clock):
    """Guest time follows the host's monotonic clock; it stands still between `pause` and `resume`."""

    def __init__(self) -> None:
        super().__init__()
        self._born = self._origin = time.monotonic_ns()
        self._paused_at: int | None = None

    def now(self) -> int:
        """Host time since the start, less the pauses."""
        return (self._paused_at if self._paused_at is not None else time.monotonic_ns()) - self._origin

    @property
    def zero(self) -> int | None:
        """None between `pause` and `resume`; the same between `resume` and `pause`."""
        return self._origin if self._paused_at is None else None

    def look(self) -> None:
        """From now on a timer is fresh if it is due before all others: who waits for those need not hear of a later one."""
        deadline = self.next_deadline()
        self.fresh, self._seen = False, FAR if deadline is None else deadline

    def stood(self) -> int:
        """How long (ns) guest time has stood still by now, in all pauses together."""
        return time.monotonic_ns() - self._born - self.now()

    def _move(self, moment: int) -> None:
        assert self._paused_at is not None, "guest time runs"
        stood = self.stood()
        self._paused_at = time.monotonic_ns()
        self._origin = self._paused_at - moment
        self._born = self._origin - stood

    def pause(self) -> None:
        """Stop guest time (the debugger holds the guest)."""
        if self._paused_at is None:
            self._paused_at = time.monotonic_ns()

    def resume(self) -> None:
        """Let guest time go on where it stopped."""
        if self._paused_at is not None:
            self._origin += time.monotonic_ns() - self._paused_at
            self._paused_at = None


class InstructionClock(Clock):
    """Guest time is the number of instructions executed, one a nanosecond, plus the time slept in HLT."""

    def __init__(self, executed: Callable[[], int]) -> None:
        super().__init__()
        self._executed = executed
        self._skipped = 0

    def now(self) -> int:
        """Instructions executed plus time skipped."""
        return self._executed() + self._skipped

    def skip_to(self, moment: int) -> None:
        """Guest time jumps forward to a moment: the vCPU sleeps until its next timer."""
        self._skipped += max(0, moment - self.now())

    def _move(self, moment: int) -> None:
        self._skipped = moment - self._executed()

    def pause(self) -> None:
        """Nothing to do: a stopped vCPU executes nothing."""

    def resume(self) -> None:
        """Nothing to do."""
