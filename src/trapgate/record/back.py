"""Finds what stopped a recorded guest last before a moment: from each moment kept, the nearest first, it runs up to the next."""

from collections.abc import Callable
from enum import Enum, auto

from trapgate.doings import BreakpointMet, ControlWritten, ModeSwitched, MsrAccessed, SystemCalled
from trapgate.machine import Machine
from trapgate.record.recording import Recording
from trapgate.stops import (
    BreakpointHit,
    BusLocked,
    CountDone,
    ExceptionRaised,
    MachineExit,
    Paused,
    PortAccessed,
    RecordingEnds,
    SoftwareHit,
    Stop,
)
from trapgate.values import dataclass
from trapgate.vcpu import Breakpoint, Kind

Wanted = Callable[[Stop], bool]
HITS = 400  # stops of one scan, or it begins closer to its end
CLOSER, LEAST = 16, 1000  # it begins at that part of what is left, if that is so many instructions


@dataclass(frozen=True, slots=True)
class Found:
    """A stop, and how many instructions were executed before the one that stopped the guest, or that it stopped in front of."""

    executed: int
    stop: Stop


def last_stop(
    machine: Machine, recording: Recording, before: int, arm: Callable[[], None], wanted: Wanted
) -> Found | Paused | None:
    """The last stop before so many instructions, by what `arm` arms; None: there is none. The guest is anywhere then.

    A store that changed nothing is no stop of a watchpoint. `wanted` is asked of each stop, with the guest there. Paused: somebody
    paused the machine.
    """
    bound = before
    while True:
        kept = recording.kept()
        number = max((n for n, (executed, _) in enumerate(kept) if executed < bound), default=None)
        if number is None:
            return None
        recording.restore(number)
        while (found := _scan(machine, recording, bound, arm, wanted)) is Scan.CROWDED:
            machine.arm((), ())
            place = bound - (bound - machine.executed()) // CLOSER
            if isinstance(stop := recording.goto(place), Paused):
                return stop
            recording.keep()
            kept = [*kept[: number + 1], recording.here]
            number += 1
        if found is not Scan.NOTHING:
            return found
        bound = kept[number][0]


class Scan(Enum):
    """What came of looking at a part of a run besides a stop: there is none, or there are too many in front of the last."""

    NOTHING = auto()
    CROWDED = auto()


def _scan(machine: Machine, recording: Recording, bound: int, arm: Callable[[], None], wanted: Wanted) -> Found | Paused | Scan:
    """The last stop from here up to so many instructions."""
    arm()
    found: Found | None = None
    values, stops = _Values(machine), 0
    while machine.executed() < bound:
        stop = recording.advance(bound - machine.executed())
        stops += 1
        if stops > HITS and bound - machine.executed() > CLOSER * LEAST:
            return Scan.CROWDED
        if isinstance(stop, Paused):
            return stop
        if isinstance(stop, CountDone | MachineExit | RecordingEnds):
            break
        place = _place(stop, machine.executed())
        if place is not None and place < bound and values.changed(stop) and wanted(stop):
            found = Found(place, stop)
    return found or Scan.NOTHING


def _place(stop: Stop, executed: int) -> int | None:
    """In front of which instruction the guest is to be put for a stop; None for one that means nothing backwards."""
    match stop:
        case BreakpointHit(fault=fault):
            return executed if fault else executed - 1
        case SoftwareHit():
            return executed
        case BusLocked() | ExceptionRaised() | PortAccessed():
            return executed - 1
        case ControlWritten() | ModeSwitched() | MsrAccessed() | SystemCalled() | BreakpointMet():
            return executed - 1
    return None


class _Values:
    """What is at the addresses that are watched for stores."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._held: dict[Breakpoint, bytes] = {}
        self.changed(BreakpointHit(tuple(machine.vcpu.armed()), False))

    def changed(self, stop: Stop) -> bool:
        """Whether a stop is more than stores of what was there."""
        if not isinstance(stop, BreakpointHit):
            return True
        return any([one.kind is not Kind.WRITE or self._is_new(one) for one in stop.hits])

    def _is_new(self, one: Breakpoint) -> bool:
        now = self._machine.vcpu.read_virtual(one.address, one.length)
        before, self._held[one] = self._held.get(one), now
        return now != before
