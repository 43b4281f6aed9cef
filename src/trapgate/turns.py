"""Says which processor of a machine runs, and until when: several take turns on one thread.

A turn ends with HLT, with its time, and with PAUSE, when another processor has something to do. Turns are counted in guest time, so
that they repeat with the instruction clock. Whoever spins waits for another: that one's turn is short at first, so that the
spinning one soon looks again, and longer each time that it looked in vain.
"""

from collections.abc import Sequence
from functools import partial
from typing import Annotated

from trapgate.clock import Clock, Moment
from trapgate.processor import Processor
from trapgate.state import Range, State, require
from trapgate.values import dataclass

MOST = 64  # processors
TURN = 3_000_000  # ns of guest time
SHORT = 50_000  # while another one spins
_DOUBLINGS = (TURN // SHORT).bit_length()


@dataclass(frozen=True, slots=True)
class TurnState(State):
    """Whose turn it is, until when (None while no other has something to do), and whether PAUSE has ended it."""

    number: Annotated[int, Range(0, MOST - 1)]
    until: Moment | None
    spun: bool


class Turns:
    """The processors of a machine, in turn. `running` is the one whose turn it is, or was last."""

    def __init__(self, processors: Sequence[Processor], clock: Clock) -> None:
        self._processors, self._clock = processors, clock
        self.running = processors[0]
        self.until: int | None = None
        """When the turn ends for others."""
        self._going = processors
        self._first: Processor | None = None
        self._short = False
        self._spins = 0  # those that `running` began its turn with
        if len(processors) > 1:
            for one in processors:
                one.woken = partial(self._woken, one)

    @property
    def alarm(self) -> int | None:
        """When the vCPU has to be interrupted, if that is sooner than it returns by itself (`Vcpu.share`)."""
        return self.until if self._short else None

    def save(self) -> TurnState:
        """Whose turn it is. Between two runs."""
        return TurnState(self.running.number, self.until, self._spun)

    def load(self, state: TurnState) -> None:
        """Whose turn it is. StateError: there is no such processor."""
        require(state.number < len(self._processors), f"there is no processor {state.number}")
        self.running, self.until = self._processors[state.number], state.until
        self._spins = self.running.spins - state.spun
        self.running.vcpu.share(state.until is not None)

    def only(self, processors: Sequence[Processor], first: Processor | None = None) -> None:
        """These alone have turns from now on, the others stand still; and the `first` of them whenever it has something to do."""
        self._going, self._first = processors, first
        if self.running not in processors:
            self._begin(processors[0], None)

    def take(self) -> Processor | None:
        """Whose turn it is now; None: nobody has anything to do."""
        if self._first is not None and self._first.ready():
            self._begin(self._first, None)
            return self._first
        if len(self._going) == 1:
            if self.until is not None:
                self._begin(self.running, None)
            return self.running if self.running.ready() else None
        now, running = self._clock.now(), self.running
        ready = [one for one in self._in_turn() if one.ready()]
        if not ready:
            return None
        stays = running is ready[0] and not self._spun and (self.until is None or now < self.until)
        if not stays and not self._spun:
            running.spins = 0
        if len(ready) == 1:
            self._begin(ready[0], None)
        elif not stays:
            self._begin(next(one for one in ready if one is not running), now)
        elif self.until is None:
            self._begin(running, now)
        return self.running

    @property
    def _spun(self) -> bool:
        """Whether PAUSE has ended the turn."""
        return self.running.spins != self._spins

    def _in_turn(self) -> Sequence[Processor]:
        """Those that have turns, from the one that runs on."""
        at = self._going.index(self.running)
        return [*self._going[at:], *self._going[:at]]

    def _begin(self, processor: Processor, now: int | None) -> None:
        """A turn; without a moment, nobody else waits."""
        self.running, self._spins, self.until, self._short = processor, processor.spins, None, False
        if now is not None:
            spins = [one.spins for one in self._processors if one.spins and one is not processor]
            length = min(TURN, SHORT << min(*spins, _DOUBLINGS)) if spins else TURN
            self.until, self._short = now + length, length < TURN
        processor.vcpu.share(now is not None)

    def _woken(self, processor: Processor) -> None:
        """It may have something to do: the turn of another gets an end."""
        waits = processor is self._first or (self.until is None and len(self._going) > 1)
        if waits and processor is not self.running:
            self.running.vcpu.kick()
