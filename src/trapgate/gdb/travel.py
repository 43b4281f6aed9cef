"""Takes a debugger through a recorded guest's time: back by a step or to the last stop, to any moment, to who wrote what."""

from collections.abc import Callable, Sequence

from trapgate.errors import TrapgateError
from trapgate.gdb.target import LastWrite, TargetError, Way, When
from trapgate.machine import Machine
from trapgate.memory import virtual_parts
from trapgate.record.back import Found, last_stop
from trapgate.record.events import Memory, ModelRegister, Register
from trapgate.record.recording import Recording
from trapgate.stops import CountDone, Paused, Stop
from trapgate.vcpu import Breakpoint, Kind, Owner

WATCHED = 8  # bytes that `last_write` looks at


class Travel:
    """The time of a machine that is recorded. `disarm` and `arm` are the debugger's breakpoints, away and there again."""

    def __init__(self, machine: Machine, recording: Recording, disarm: Callable[[], None], arm: Callable[[], None]) -> None:
        self._machine, self._recording, self._disarm, self._arm = machine, recording, disarm, arm

    def when(self) -> When:
        """Where the guest is."""
        return When(*self._recording.here, self._recording.start[0], max(self._recording.end, self._recording.here)[0])

    def goto(self, executed: int) -> None:
        """Put the guest to where it had executed so many instructions. TargetError: that is not recorded."""
        self._disarm()
        try:
            self._recording.goto(executed)
        except TrapgateError as error:
            raise TargetError(str(error)) from error

    def back(self, way: Way, wanted: Callable[[Stop], bool]) -> Stop | None:
        """Go back; what the guest stops at, or None: it is where its recording begins. Paused: somebody paused it."""
        here = self._machine.executed()
        first = self._recording.start[0]
        if way is Way.STEP:
            self.goto(max(here - 1, first))
            return CountDone() if here > first else None
        found = last_stop(self._machine, self._recording, here, self._arm_again, wanted)
        match found:
            case Found():
                self.goto(found.executed)
                return found.stop
            case Paused():
                self.goto(here)
                return found
            case _:
                self.goto(first)
                return None

    def _arm_again(self) -> None:
        """Whatever is armed, the debugger's breakpoints are."""
        self._disarm()
        self._arm()

    def last_write(self, address: int) -> LastWrite | None:
        """Who changed the bytes at a linear address last; None: nobody, as far as it is recorded. The guest stays where it is."""
        here = self._machine.executed()
        self._disarm()
        try:
            one = Breakpoint(Owner.DEBUGGER, 0, Kind.WRITE, address, WATCHED)
            found = last_stop(self._machine, self._recording, here, lambda: self._machine.arm([one], ()), lambda stop: True)
            self._machine.arm((), ())
            if not isinstance(found, Found):
                return None
            self._recording.goto(found.executed)
            vcpu = self._machine.vcpu
            place, before = vcpu.get("rip"), vcpu.read_virtual(address, WATCHED)
            self._recording.goto(found.executed + 1)
            return LastWrite(found.executed, place, before, vcpu.read_virtual(address, WATCHED))
        finally:
            self._recording.goto(here)

    def resume(self, step: bool, only: Sequence[int]) -> Stop:
        """As `Machine.resume`."""
        return self._recording.resume(step, only)

    # What a debugger changes

    def register(self, vcpu: int, name: str, value: int) -> None:
        """It has written a register."""
        self._recording.changed(Register(*self._recording.here, vcpu, name, value))

    def msr(self, vcpu: int, index: int, value: int) -> None:
        """It has written an MSR."""
        self._recording.changed(ModelRegister(*self._recording.here, vcpu, index, value))

    def memory(self, vcpu: int, address: int, data: bytes) -> None:
        """It has written guest-virtual memory."""
        translate = self._machine.processors[vcpu].vcpu.translate
        for physical, size in virtual_parts(self._machine.ram, translate, address, len(data)):
            self.physical(physical, data[:size])
            data = data[size:]

    def physical(self, address: int, data: bytes) -> None:
        """It has written guest RAM."""
        self._recording.changed(Memory(*self._recording.here, address, data))
