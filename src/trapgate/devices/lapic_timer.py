"""Models the local APIC's timer: one-shot, periodic and TSC-deadline (SDM vol. 3, 11.5.4)."""

from collections.abc import Callable
from typing import Annotated

from trapgate.clock import Begun, Clock, Timer, TimerState
from trapgate.state import U32, U64, Bits, Mask, State
from trapgate.values import dataclass

ONE_SHOT, PERIODIC, DEADLINE = range(3)  # LVT timer bits 18:17; 3 is reserved and stops the timer
NS = 1_000_000_000
ALL_64 = (1 << 64) - 1
SHORTEST_NS = 20_000  # a periodic timer fires no more often, so that a tiny count cannot starve the guest
DIVIDE_BITS = 0b1011  # of the divide configuration register


@dataclass(frozen=True, slots=True)
class ApicTimerState(State):
    """Registers, the moment from which the count goes down, and the timer that waits."""

    mode: Annotated[int, Bits(2)]
    divide: Annotated[int, Mask(DIVIDE_BITS)]
    initial: U32
    begun: Begun
    deadline: U64
    tsc_offset: U64
    timer: TimerState | None


def length(count: int, divide: int, hz: int) -> int:
    """The ns that a count takes. `divide`: the divide configuration register, whose bits 3, 1, 0 encode 2, 4, ... 128, 1."""
    return -(-count * divisor(divide) * NS // hz)


def divisor(divide: int) -> int:
    """What the divide configuration register divides by."""
    return 1 << ((divide & 3 | divide >> 1 & 4) + 1 & 7)


class ApicTimer:
    """Calls `fire` each time it expires, whether or not the LVT masks the interrupt.

    `hz` is the rate of the counter before its divider; the TSC is guest time at `tsc_hz`, plus `tsc_offset`.
    """

    def __init__(self, clock: Clock, tsc_hz: int, hz: int, fire: Callable[[], None]) -> None:
        self._clock, self._tsc_hz, self._hz, self._fire = clock, tsc_hz, hz, fire
        self.tsc_offset = 0
        self._timer: Timer | None = None
        self.reset()

    def reset(self) -> None:
        """As after INIT."""
        self._cancel()
        self._mode = ONE_SHOT
        self._divide = 0
        self._initial = 0
        self._start = 0
        self._deadline = 0

    def save(self) -> ApicTimerState:
        """All of it."""
        timer = self._timer.save() if self._timer else None
        registers = self._mode, self._divide, self._initial
        return ApicTimerState(*registers, self._start, self._deadline, self.tsc_offset, timer)

    def load(self, state: ApicTimerState) -> None:
        """All of it."""
        self._mode, self._divide, self._initial = state.mode, state.divide, state.initial
        self._start, self._deadline, self.tsc_offset = state.begun, state.deadline, state.tsc_offset
        self._timer = self._clock.again(self._timer, state.timer, self._expired)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Counting modes

    @property
    def mode(self) -> int:
        """ONE_SHOT, PERIODIC, DEADLINE or 3 (reserved)."""
        return self._mode

    def set_mode(self, mode: int) -> None:
        """A change to or from TSC-deadline mode disarms; between the counting modes the count goes on."""
        if mode == self._mode:
            return
        if DEADLINE in (mode, self._mode) or mode > DEADLINE:
            self._cancel()
            self._initial = self._deadline = 0
        self._mode = mode

    @property
    def divide(self) -> int:
        """The divide configuration register."""
        return self._divide

    def set_divide(self, value: int) -> None:
        """Change the divider; a running count goes on from where it is."""
        left = self.current()
        self._divide = value & DIVIDE_BITS
        if left:
            self._start = self._clock.now() - self._length(self._initial - left)
            self._arm(self._length(left))

    def _length(self, count: int) -> int:
        return length(count, self._divide, self._hz)

    @property
    def initial(self) -> int:
        """The initial count register."""
        return self._initial

    def set_initial(self, count: int) -> None:
        """Start counting down; 0 stops. Ignored in TSC-deadline mode."""
        if self._mode in (ONE_SHOT, PERIODIC):
            self._initial = count
            self._start = self._clock.now()
            self._cancel()
            if count:
                self._arm(self._length(count))

    def current(self) -> int:
        """The current count register."""
        if self._mode not in (ONE_SHOT, PERIODIC) or not self._initial or self._timer is None:
            return 0
        passed = (self._clock.now() - self._start) * self._hz // NS // divisor(self._divide)
        if self._mode == PERIODIC:
            return self._initial - passed % self._initial
        return max(self._initial - passed, 0)

    def _arm(self, delay: int) -> None:
        self._cancel()
        self._timer = self._clock.at(self._clock.now() + delay, self._expired)

    def _expired(self) -> None:
        self._timer = None
        now = self._clock.now()
        if self._mode == PERIODIC and self._initial:
            period = self._length(self._initial)
            self._start += max((now - self._start) // period, 1) * period  # periods missed while the guest did not run are one
            self._timer = self._clock.at(max(self._start + period, now + SHORTEST_NS), self._expired)
        self._deadline = 0
        self._fire()

    # TSC-deadline mode

    def tsc(self) -> int:
        """The TSC that deadlines are compared with, 64 bits wide."""
        return self._clock.now() * self._tsc_hz // NS + self.tsc_offset & ALL_64

    def set_tsc_offset(self, offset: int) -> None:
        """The guest moved its TSC: an armed deadline moves in time."""
        self.tsc_offset = offset & ALL_64
        if self._deadline:
            self.set_deadline(self._deadline)

    @property
    def deadline(self) -> int:
        """IA32_TSC_DEADLINE: 0 when disarmed or expired."""
        return self._deadline

    def set_deadline(self, value: int) -> None:
        """Arm (or with 0 disarm) the deadline; ignored in other modes. A past one expires at once."""
        if self._mode != DEADLINE:
            return
        self._cancel()
        self._deadline = value
        if value:
            ticks = self._clock.now() * self._tsc_hz // NS
            left = value - (ticks + self.tsc_offset & ALL_64)
            moment = -(-(ticks + left) * NS // self._tsc_hz)
            if left <= 0 or moment <= self._clock.now():
                self._expired()
            else:
                self._timer = self._clock.at(moment, self._expired)
