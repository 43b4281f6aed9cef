"""Runs a machine under a debugger: the machine's thread serves the stub while the guest stands, and the guest while it runs."""

import queue
from collections.abc import Callable
from typing import TYPE_CHECKING

from trapgate.arch.vectors import DB
from trapgate.doings import BreakpointMet, ControlWritten, ModeSwitched, MsrAccessed, SystemCalled
from trapgate.gdb import events
from trapgate.gdb.adapter import FIRST, MachineTarget
from trapgate.gdb.address import Address
from trapgate.gdb.architecture import Architecture
from trapgate.gdb.spaces import ProcessBegins
from trapgate.gdb.stub import Stub
from trapgate.gdb.target import SIGABRT, SIGINT, SIGSEGV, SIGTRAP, Cause, Exited, Killed, Stopped, Why
from trapgate.machine import Machine
from trapgate.stops import (
    BreakpointHit,
    BusLocked,
    DeviceFault,
    ExceptionRaised,
    ExitKind,
    MachineExit,
    Paused,
    PortAccessed,
    RecordingBegins,
    RecordingEnds,
    SoftwareHit,
    StepDone,
    Stop,
)
from trapgate.vcpu import Kind

if TYPE_CHECKING:
    from trapgate.record.recording import Recording

_WHY = {Kind.EXEC: Why.HARDWARE, Kind.WRITE: Why.WRITE, Kind.READ: Why.READ, Kind.ACCESS: Why.ACCESS}
_NONE = Cause()
_LOOK_FIRST = {ExitKind.SHUTDOWN: SIGSEGV, ExitKind.DEAD: SIGABRT}  # ends that a debugger wants to see before they happen


class DebugHost:
    """A machine with a stub. It listens from the start; AddressError when it cannot.

    With `wait` the guest does not run before a debugger lets it. `reset`, `file`, `architecture`, `code`, `recording`: see
    `MachineTarget`.
    `begins_again` puts a guest that has ended back to its start, and says whether it did: it then goes on, breakpoints kept.
    `seen` is called on the machine's thread at each stop that a debugger sees, `ending` before it hears that the guest has ended,
    whereupon gdb may end this process. `tell` takes lines for the user, on any thread.
    """

    def __init__(
        self,
        machine: Machine,
        address: Address,
        *,
        wait: bool = False,
        reset: Callable[[], int] | None = None,
        file: str = "",
        seen: Callable[[], None] | None = None,
        ending: Callable[[], None] = lambda: None,
        architecture: Architecture | None = None,
        code: int = 0,
        recording: "Recording | None" = None,
        tell: Callable[[str], None] = lambda line: None,
        begins_again: Callable[[MachineExit], bool] = lambda end: False,
    ) -> None:
        self._machine, self._begins_again = machine, begins_again
        self._seen, self._ending = seen or (lambda: None), ending
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._looked = False
        self._end: MachineExit | None = None  # of a guest that a debugger may start again
        self._reset = reset
        begin_again = None if reset is None else self._begin_again
        self._recording = recording
        self.target = MachineTarget(
            machine, not wait, reset=begin_again, file=file, architecture=architecture, code=code, recording=recording
        )
        self._nudge: Callable[[], None] = lambda: None  # `post` may be called before there is a stub
        self._stub = Stub(address, self.target, self.post, failed=machine.fail, tell=tell, lends=True)
        self._nudge = self._stub.nudge
        machine.on_failure = lambda: self.post(lambda: None)  # `run` looks then

    @property
    def address(self) -> Address:
        """Where it listens."""
        return self._stub.address

    def post(self, call: Callable[[], None]) -> None:
        """Have a callable run soon on the machine's thread, whether the guest runs or stands. From any thread."""
        self._inbox.put(call)
        if self.target.going:  # `run` looks into the inbox once more after it sets this, so no call is forgotten
            self._machine.post(self._take_calls)
        else:
            self._nudge()

    def say(self, text: str) -> None:
        """A line for the user of the debugger, if the guest runs under one. On the machine's thread."""
        self._stub.say(text + "\n")

    def run(self) -> MachineExit:
        """Run until the machine ends, by itself or by the debugger's will."""
        try:
            while not self.target.killed:
                if not self.target.going:
                    if self._inbox.empty():
                        self._stub.wait(self._inbox.empty)
                    else:
                        self._inbox.get()()
                    self._machine.check()
                    continue
                if not self._inbox.empty():
                    self._machine.post(self._take_calls)
                stop = self._resume()
                if (end := self._stopped(stop)) is not None:
                    return end
            return self._end or MachineExit(ExitKind.STOPPED, 0, "ended by the debugger")
        except BaseException as error:
            if self.target.going:  # it waits for a stop
                self._stub.say(f"trapgate: {error}\n")
                self._stub.stopped(Killed())
            raise
        finally:
            self._stub.close()

    def _resume(self) -> Stop:
        """Run as the debugger wants it."""
        actions, threads = self.target.actions, self.target.threads()
        step = bool(actions) and actions[0].step
        some = step or len(actions) < len(threads)
        only = [action.thread - FIRST for action in actions] if some else ()
        if not step or actions[0].within is not None:  # who knows how long that takes
            self._stub.take_back()
        if not self.target.travels:
            return self._machine.resume(step, only=only)
        if self.target.way is None:
            return self.target.travel.resume(step, only)
        self._looked = False
        stop = self.target.travel.back(self.target.way, self._wanted)
        return RecordingBegins() if stop is None else stop

    def _wanted(self, stop: Stop) -> bool:
        """On the way back: whether it is a stop for the debugger."""
        return self.target.seen(stop) is stop and self._stub.wanted(describe(stop, self.target.last))

    def _begin_again(self) -> int:
        assert self._reset is not None
        code = self._reset()
        self._looked, self._end = False, None
        return code

    def close(self) -> None:
        """No longer listen; again, and after `run`, is harmless."""
        self._stub.close()

    def _take_calls(self) -> None:
        """Amid a run, on the machine's thread: until one of the calls stops the guest. The rest waits for `run`."""
        while self.target.going and not self._inbox.empty():
            self._inbox.get()()
        if self.target.going:
            self._stub.take_back()

    def _stopped(self, stop: Stop) -> MachineExit | None:
        """Tell the debugger of a stop that is worth it; the machine's end when this is it."""
        if isinstance(stop, MachineExit) and not self._looks_first(stop):
            if not self._begins_again(stop):
                return self._ended(stop)
            self._looked = False
            if not self.target.begin():
                return None
            stop = StepDone()
        if self._goes_on(stop):
            return None
        if not self._stub.attached:
            return self._end_without_debugger(stop)
        target = self.target
        meant = target.seen(stop)
        if meant is not None:
            target.going = False
            self._seen()
            target.last_stop = describe(meant, target.last, target.cause())
            self._stub.stopped(target.last_stop)
        return None

    def _looks_first(self, end: MachineExit) -> bool:
        """Whether the debugger sees this end before it happens, which it does once."""
        worth = end.kind in _LOOK_FIRST or self.target.travels
        first = worth and self._stub.attached and not self._looked
        self._looked = self._looked or first
        return first

    def _ended(self, end: MachineExit) -> MachineExit | None:
        """The guest is gone: the machine's end, unless a debugger is there that may start it again."""
        self._ending()
        self._stub.stopped(Killed() if end.kind is ExitKind.FAULT else Exited(end.status & 0xFF))
        if not self._stub.outlived:
            return end
        self._end, self.target.going = end, False
        return None

    def _goes_on(self, stop: Stop) -> bool:
        """Whether the guest goes on at once: a debugger came, or changed its mind; or its step is to leave a range."""
        target = self.target
        match stop:
            case Paused():
                asked = target.interrupted and target.going
                if asked:
                    target.interrupted = False
                return not asked
            case StepDone() if target.actions and (within := target.actions[0].within) is not None:
                return within[0] <= target.program_counter(target.last) < within[1]
        return False

    def _end_without_debugger(self, stop: Stop) -> MachineExit | None:
        """The machine's end, where a stop is one if nobody is there to look."""
        match stop:
            case BusLocked(line=line):
                return MachineExit(ExitKind.STOPPED, 1, line)
            case DeviceFault(story=story):
                return MachineExit(ExitKind.FAULT, 1, story)
            case RecordingEnds() if self._recording is not None and not self._recording.live:
                return MachineExit(ExitKind.STOPPED, 1, "the recording ends here")
        return None


def describe(stop: Stop | ProcessBegins, thread: int, debug: Cause = _NONE) -> Stopped:
    """A machine's stop in a debugger's words; `thread` ran last, and `debug` is what its CPU says of a #DB.

    A watchpoint is told rather than an execution breakpoint, if both matched.
    """
    match stop:
        case BreakpointHit(hits=hits):
            one = max(hits, key=lambda hit: hit.kind is not Kind.EXEC)
            return Stopped(thread, why=_WHY[one.kind], address=one.address, cause=debug)
        case SoftwareHit():
            return Stopped(thread, why=Why.SOFTWARE)
        case Paused():
            return Stopped(thread, SIGINT)
        case BusLocked(line=line):
            return Stopped(thread, SIGTRAP, text=line)
        case DeviceFault(story=story):
            return Stopped(thread, SIGABRT, text=story)
        case ExceptionRaised(vector=vector):
            cause = debug if vector == DB else Cause(vector, stop.error, stop.address)
            return Stopped(thread, events.signal_of(vector), text=events.words(stop), cause=cause)
        case StepDone():
            return Stopped(thread, cause=debug)
        case PortAccessed() | ControlWritten() | ModeSwitched() | MsrAccessed() | SystemCalled() | BreakpointMet():
            return Stopped(thread, text=events.words(stop))
        case MachineExit(kind=kind, story=story):
            text = f"{story or kind.value}\nthe machine ends when you continue"
            return Stopped(thread, _LOOK_FIRST.get(kind, SIGTRAP), text=text)
        case ProcessBegins(name=name):
            return Stopped(thread, text=f"the process {name} begins")
        case RecordingBegins():
            return Stopped(thread, why=Why.BEGIN)
        case RecordingEnds():
            return Stopped(thread, why=Why.END)
        case _:
            return Stopped(thread)
