"""Says why a vCPU stopped: values that `Vcpu.run` returns. Both CPUs give the same ones."""

from trapgate.values import dataclass


@dataclass(frozen=True, slots=True)
class PortRead:
    """IN: the machine must `complete` it with the value. `size` is 1, 2 or 4 bytes."""

    port: int
    size: int


@dataclass(frozen=True, slots=True)
class PortWrite:
    """OUT of `value` (cut to `size` bytes)."""

    port: int
    size: int
    value: int


@dataclass(frozen=True, slots=True)
class MmioRead:
    """A load from guest-physical memory that is no RAM; to be completed with the value."""

    address: int
    size: int


@dataclass(frozen=True, slots=True)
class MmioWrite:
    """A store to guest-physical memory that is no RAM."""

    address: int
    size: int
    value: int


@dataclass(frozen=True, slots=True)
class Halted:
    """HLT: nothing to do until an interrupt."""


@dataclass(frozen=True, slots=True)
class Shutdown:
    """A triple fault. `story` tells the CPU state and the last exceptions, one line each."""

    story: str


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The vCPU was asked to stop (a kick), or its instruction budget ended, or an interrupt may now be injected."""


@dataclass(frozen=True, slots=True)
class Spinning:
    """PAUSE was executed while another vCPU waits for its turn (`Vcpu.share`)."""


@dataclass(frozen=True, slots=True)
class DebugException:
    """A #DB, not yet delivered to anybody: the router splits it between debugger and guest.

    `causes` holds the DR6 bits of what happened, all active high (`DR6 ^ FFFF0FF0`), without bits 0-3.
    `hits` has bit n set when armed breakpoint n of `Vcpu.armed()` matched; an exec hit is a fault (RIP on the instruction), all
    else a trap. `icebp` marks INT1: no cause bit at all.
    """

    causes: int
    hits: int
    icebp: bool
    fault: bool


@dataclass(frozen=True, slots=True)
class SoftwareBreakpoint:
    """Execution reached an address where the debugger planted a software breakpoint; RIP is on it, nothing was executed."""

    address: int


@dataclass(frozen=True, slots=True)
class GuestException:
    """An exception that `Vcpu.catch` names is about to be delivered; RIP is on its instruction. The next `run` delivers it.

    `error` is its error code, if it has one; `address` what CR2 becomes, for #PF.
    """

    vector: int
    error: int | None
    address: int | None


@dataclass(frozen=True, slots=True)
class BusLock:
    """A locked access that locked the bus, reported when `--bus-locks` asks: at any CPL. `rip` is the locking instruction."""

    rip: int
    address: int
    size: int
    cpl: int


Exit = (
    PortRead
    | PortWrite
    | MmioRead
    | MmioWrite
    | Halted
    | Shutdown
    | Interrupted
    | Spinning
    | DebugException
    | SoftwareBreakpoint
    | GuestException
    | BusLock
)
