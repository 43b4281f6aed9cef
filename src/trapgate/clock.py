"""Guest time, injected everywhere: either it follows the host, or the number of executed instructions (then runs repeat exactly).

Devices never ask the host for the time: they read `now` (ns since the guest started) and ask to be called back at a moment.
"""

import heapq
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

SWEEP = 64  # timers in the heap before cancelled ones are looked for
FAR = 1 << 62
"""A moment (ns, 146 years) that guest time never reaches: what is due then or later is never due, so no host API sees more."""


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


class Clock:
    """Guest time in ns and the timers that wait for it. Subclasses say what time follows."""

    def __init__(self) -> None:
        self._timers: list[Timer] = []
        self._sweep_at = SWEEP
        self._order = itertools.count()
        self.fresh = False
        """Whether a timer was set since whoever waits for the next deadline last looked; it is for them to make it False."""

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
        timer = Timer(deadline, next(self._order), callback)
        if deadline < FAR:
            heapq.heappush(self._timers, timer)
            self.fresh = True
        return timer

    def next_deadline(self) -> int | None:
        """When the earliest live timer is due, or None."""
        while self._timers and self._timers[0].cancelled:
            heapq.heappop(self._timers)
        return self._timers[0].deadline if self._timers else None

    def run_due(self) -> None:
        """Call every timer whose moment has come, earliest first.

        The moment is taken once: a timer that always sets another one cannot keep the guest from running.
        """
        moment = self.now()
        while (deadline := self.next_deadline()) is not None and deadline <= moment:
            heapq.heappop(self._timers).callback()


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

    def stood(self) -> int:
        """How long (ns) guest time has stood still by now, in all pauses together."""
        return time.monotonic_ns() - self._born - self.now()

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

    def pause(self) -> None:
        """Nothing to do: a stopped vCPU executes nothing."""

    def resume(self) -> None:
        """Nothing to do."""
