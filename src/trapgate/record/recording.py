"""Runs a machine on its recording: forwards, recording or replaying, and to any moment of it."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from trapgate.devices.uart import Uart
from trapgate.errors import TrapgateError
from trapgate.machine import ClockKind, Machine
from trapgate.record.events import Branch, Event, Held, Input, Mark, apply, digest
from trapgate.record.pages import Moments
from trapgate.stops import CountDone, DeviceFault, MachineExit, Paused, RecordingEnds, StepDone, Stop

CHUNK = 1 << 23  # instructions until it is seen whether a moment is to be kept
LEAST = 0.05  # s of host time between two moments that are kept
SHARE = 20  # a moment is kept when so many times as long has passed as keeping the last one took
CLOSE, NEAR = 100_000, 5_000  # instructions: where so many are run to a moment, one is kept so many before it
LIMIT = 1 << 30  # bytes of moments besides one copy of RAM
PATIENCE = 1000
_OTHER = "it is replayed by another version of trapgate, or on a CPU with other features"
Moment = tuple[int, int]


class Writer(Protocol):
    """Who writes a recording down: `tape.Tape`."""

    def write(self, event: Event) -> None:
        """Something is about to happen to the guest."""
        ...

    def reached(self, moment: Moment) -> None:
        """The guest has come so far, and is about to say something."""
        ...


class Unwritten:
    """A recording that is in memory alone."""

    def write(self, event: Event) -> None:
        """Nothing is done."""

    def reached(self, moment: Moment) -> None:
        """Nothing is done."""


class RecordError(TrapgateError):
    """A moment that was not recorded, a machine that cannot be, or a replay that went another way than what was recorded."""


class Recording:
    """The history of a machine, from where it is now on; it is the machine's `History`.

    With `events` and `end`, those of a recording, it is replayed; behind `end` the guest goes on as one that is recorded if it is
    `live`. `limit` bounds the bytes of snapshots; `tape` is told of all before it happens; `tell` takes lines for the user.
    RecordError for a machine that does not count instructions; StateError, EngineError where it has no state.
    """

    def __init__(
        self,
        machine: Machine,
        limit: int = LIMIT,
        *,
        events: Iterable[Event] = (),
        end: Moment | None = None,
        live: bool = True,
        tape: Writer | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        if machine.config.clock is not ClockKind.INSTRUCTIONS:
            raise RecordError("a machine is recorded on the clock that counts its instructions")
        machine.begin()
        events, cpus = tuple(events), len(machine.processors)
        if any(isinstance(one, Held) and not all(number < cpus for number in one.only) for one in events):
            raise RecordError("the recording is of a machine with more CPUs")
        self._machine, self._tape, self._tell = machine, tape or Unwritten(), tell
        self.live = live
        """Whether the guest may go on where its recording ends."""
        self._events = [one for one in events if not isinstance(one, Held | Branch)]
        self._held = [one for one in events if isinstance(one, Held)]
        self._next = 0  # how many events have happened
        self._waited = 0  # how often in a row the guest was to run and could not
        self._typed: list[bytes] = []  # what came while the guest was replayed; in order
        self._moments = Moments(machine, limit)
        self._kept_at, self._cost = time.perf_counter(), 0.0
        self.end = max(self.here, end or (0, 0))
        """The last moment that is recorded."""
        self.replaying = self.end > self.here
        """Whether the guest is where it was before."""
        self._heard = self._silent = (-1, 0)
        machine.history = self

    @property
    def here(self) -> Moment:
        """Instructions executed, guest time (ns)."""
        return self._machine.executed(), self._machine.clock.now()

    @property
    def start(self) -> Moment:
        """The first moment that can be gone back to."""
        return self._moments.first.moment

    # --- what the machine asks

    def settle(self) -> None:
        """Have what happened at this moment happen, and keep the moment if it is time."""
        here = self.here
        kept = self._moments.passing()
        while self._next < len(self._events) and self._events[self._next].moment <= here:
            event = self._events[self._next]
            self._next += 1
            self._again(event, kept)
        if self.replaying and here >= self.end:
            self.replaying = False
            self._machine.stop(RecordingEnds())
        if not self.replaying and self.live:
            self.end = max(self.end, here)
            typed, self._typed = self._typed, []
            for data in typed:
                self.feed(data)
        if not kept and time.perf_counter() - self._kept_at >= max(LEAST, SHARE * self._cost):
            self._keep()

    def room(self) -> int:
        """How many instructions may be executed until something is to happen."""
        following, executed = [CHUNK], self._machine.executed()
        if self._next < len(self._events):
            following.append(self._events[self._next].executed - executed)
        if self.replaying:
            following.append(self.end[0] - executed)
        if (kept := self._moments.next) is not None:
            following.append(kept.executed - executed)
        least = max(0, min(following))  # 0: an interrupt that has just been taken is what the next event comes behind
        self._waited = 0 if least else self._waited + 1
        if self._waited > PATIENCE:
            raise RecordError(f"the guest is not what it was at instruction {executed}: {_OTHER}")
        return least

    def feed(self, data: bytes) -> None:
        """Bytes arrive at the serial port: now, or when the guest is where nothing is recorded."""
        if self.replaying or not self.live:
            self._typed.append(data)
            return
        self._add(Input(*self.here, data))
        self._machine.board.part(Uart).feed(data)

    def waiting(self) -> int:
        """Bytes that wait for the guest to be where nothing is recorded."""
        return sum(map(len, self._typed))

    def says(self) -> bool:
        """Whether what the guest says now is new."""
        here = self.here
        if here <= self._silent:
            return False
        self._heard = here
        if not self.replaying:
            self._tape.reached(here)
        return True

    def changed(self, event: Event) -> None:
        """A debugger has changed something, between two runs: what is recorded of later moments does not happen."""
        if self.replaying or not self.live:
            later = self.end
            del self._events[self._next :]
            self._held = [one for one in self._held if one.executed < event.executed]
            self._moments.drop_behind()
            self._tape.write(Branch(*self.here))
            self.end, self.replaying, self.live = self.here, False, True
            self._heard = min(self._heard, self.end)
            if later != self.end:
                self._tell(f"what was recorded behind instruction {self.end[0]} is forgotten: the guest goes another way from here")
        self._add(event)

    def _again(self, event: Event, kept: bool) -> None:
        if event.moment != self.here:
            raise self._diverged(event)
        match event:
            case Input():
                self._machine.board.part(Uart).feed(event.data)
            case Mark():
                if event.digest != digest(self._machine):
                    raise self._diverged(event)
                if not kept:
                    self._machine.forget_pages()
            case _:
                try:
                    apply(event, self._machine)
                except (TrapgateError, ValueError, LookupError) as error:
                    raise RecordError(f"the recording is damaged: no debugger can have written {event}: {error}") from error

    def _diverged(self, event: Event) -> RecordError:
        return RecordError(f"the guest is not what it was at instruction {event.executed}: {_OTHER}")

    def _add(self, event: Event) -> None:
        self._tape.write(event)
        if isinstance(event, Held):
            self._held.append(event)
        else:
            self._events.append(event)
            self._next = len(self._events)
        self.end = max(self.end, self.here)

    def _keep(self) -> None:
        """Keep this moment; of one that is new it is written down that the CPU has forgotten its pages."""
        begun = time.perf_counter()
        if not self.replaying and self.live:
            self._add(Mark(*self.here, digest(self._machine)))
        self.keep()
        self._kept_at = time.perf_counter()
        self._cost = self._kept_at - begun

    def keep(self) -> None:
        """Keep this moment for `restore`. Between two runs of the vCPU."""
        self._moments.keep(self._next)

    # --- running

    def run(self) -> Stop:
        """Run to the end, of the machine or of a recording that is not live, without a debugger."""
        while True:
            stop = self.resume()
            if isinstance(stop, MachineExit | DeviceFault | Paused) or (isinstance(stop, RecordingEnds) and not self.live):
                return stop

    def resume(self, step: bool = False, only: Sequence[int] = ()) -> Stop:
        """As `Machine.resume`: new moments are recorded; old ones are what they were, interrupts and turns included."""
        if self.here >= self.end and not self.live:
            return self._machine.resume(instructions=0) if self._machine.ended else RecordingEnds()
        if self.replaying:
            stop = self.advance(1 if step else None)
            return StepDone() if step and isinstance(stop, CountDone) else stop
        before = self.here
        stop = self._machine.resume(step, only=only)
        alone = len(self._machine.processors) > 1 and (step or only)
        if self.here > before and (alone or (step and any(one.held_back for one in self._machine.processors))):
            self._add(Held(*before, self._machine.executed(), step, tuple(only)))
        self.end = max(self.end, self.here)
        return stop

    def advance(self, instructions: int | None) -> Stop:
        """Run for so many instructions at most, or until something stops the guest; what its steps held back is held back."""
        machine, stop = self._machine, None
        last = None if instructions is None else machine.executed() + instructions
        while stop is None:
            executed = machine.executed()
            held = next((one for one in self._held if one.until > executed), None) if self.replaying else None
            if held is None:
                return machine.resume(instructions=None if last is None else last - executed)
            if executed < held.executed:
                stop = machine.resume(instructions=min(held.executed, held.executed if last is None else last) - executed)
                if isinstance(stop, CountDone) and machine.executed() == held.executed != last:
                    stop = None
            elif executed == last:
                stop = CountDone()
            else:
                until = held.until if last is None else min(held.until, last)
                stop = machine.resume(held.step, None if held.step else until - executed, held.only)
                if isinstance(stop, StepDone | CountDone) and machine.executed() != last:
                    stop = None
        return stop

    def goto(self, executed: int) -> Stop:
        """Put the guest to where it had executed so many instructions; whoever has armed breakpoints disarms them. RecordError.

        CountDone when it is there; Paused where somebody paused the machine before.
        """
        if not self.replaying:
            self.end = max(self.end, self.here)
        if not self.start[0] <= executed <= self.end[0]:
            raise RecordError(f"instruction {executed} is not recorded: that goes from {self.start[0]} to {self.end[0]}")
        number = self._moments.before(executed)
        now = self._machine.executed()
        if now > executed or self._machine.ended or self._moments.kept[number].executed > now:
            self.restore(number)
        left = executed - self._machine.executed()
        if left > CLOSE:
            stop = self._run_on(executed - NEAR)
            if not isinstance(stop, CountDone):
                return stop
            self.keep()
        return self._run_on(executed)

    def restore(self, number: int) -> None:
        """Put the guest to a moment that was kept, by its number."""
        self.end = max(self.end, self.here)
        self._silent = self._heard
        one = self._moments.restore(number)
        for processor in self._machine.processors:
            processor.forget_stop()
        self._next = one.events
        self.replaying = self.here < self.end

    def close(self) -> None:
        """The machine runs no more: how far it has come is written down."""
        if self.live and not self.replaying:
            self._tape.reached(self.here)

    def kept(self) -> list[Moment]:
        """The moments that `restore` can go to."""
        return [one.moment for one in self._moments.kept]

    def _run_on(self, executed: int) -> Stop:
        """Run to where so many instructions are executed, whatever else stops the guest on the way."""
        while True:
            stop = self.advance(executed - self._machine.executed())
            if self._machine.executed() >= executed and not isinstance(stop, Paused):
                return CountDone()
            if isinstance(stop, MachineExit | Paused | RecordingEnds):
                return stop
