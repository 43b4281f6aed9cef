"""Says why a machine stopped: values that `Machine.resume` returns, to a debugger or to whoever runs it."""

from dataclasses import field
from enum import Enum

from trapgate.doings import Doing
from trapgate.exits import BusLock
from trapgate.values import dataclass
from trapgate.vcpu import Breakpoint


class ExitKind(Enum):
    """How a run ended."""

    POWER_OFF = "power-off"
    EXIT_PORT = "exit port"
    RESET = "reset"
    SHUTDOWN = "shutdown"  # triple fault
    DEAD = "halted for ever"
    FAULT = "device fault"  # a device's code failed: our mistake, not the guest's
    STOPPED = "stopped"  # a stop that nobody was there to resume


STATUS = {
    ExitKind.POWER_OFF: 0,
    ExitKind.RESET: 0,
    ExitKind.DEAD: 4,
    ExitKind.SHUTDOWN: 6,
    ExitKind.FAULT: 1,
    ExitKind.STOPPED: 1,
}
"""The exit status that each end of a run gives; the exit port's own are value * 2 + 1. So no exit port gives an even one."""


@dataclass(frozen=True, slots=True)
class MachineExit:
    """The machine ended. `status`: of `STATUS`, or what the guest wrote to its exit port, times 2, plus 1."""

    kind: ExitKind
    status: int = 0
    story: str = ""


@dataclass(frozen=True, slots=True)
class BreakpointHit:
    """The debugger's own hardware breakpoints matched: an exec one before its instruction (`fault`), others after the access."""

    hits: tuple[Breakpoint, ...]
    fault: bool


@dataclass(frozen=True, slots=True)
class SoftwareHit:
    """RIP is on a software breakpoint that the debugger planted."""

    address: int


@dataclass(frozen=True, slots=True)
class StepDone:
    """One instruction was executed, as asked."""


@dataclass(frozen=True, slots=True)
class CountDone:
    """As many instructions were executed as were asked for."""


@dataclass(frozen=True, slots=True)
class ExceptionRaised:
    """The guest raised an exception that somebody waits for; RIP is on its instruction, and the next run delivers it.

    `error` is its error code, if it has one; `address` what CR2 becomes, for #PF.
    """

    vector: int
    error: int | None = None
    address: int | None = None


@dataclass(frozen=True, slots=True)
class RecordingBegins:
    """The guest went back to where its recording begins, and nothing stopped it."""


@dataclass(frozen=True, slots=True)
class RecordingEnds:
    """The guest is where its recording ends. It may go on from there if it is one that is being recorded."""


@dataclass(frozen=True, slots=True)
class Paused:
    """`pause` was called."""


@dataclass(frozen=True, slots=True)
class BusLocked:
    """A bus lock, and bus locks stop the guest. `line` tells it to the user."""

    lock: BusLock
    line: str


@dataclass(frozen=True, slots=True)
class PortAccessed:
    """The guest has read (IN) or written (OUT) `value`, `size` bytes at `port`."""

    port: int
    size: int
    value: int
    write: bool


@dataclass(frozen=True, slots=True)
class DeviceFault:
    """A device's code failed. `story` names the device; a read answered all ones, and the guest can go on."""

    story: str
    error: Exception = field(compare=False)


Stop = (
    MachineExit
    | BreakpointHit
    | SoftwareHit
    | StepDone
    | CountDone
    | ExceptionRaised
    | PortAccessed
    | Doing
    | RecordingBegins
    | RecordingEnds
    | Paused
    | BusLocked
    | DeviceFault
)
