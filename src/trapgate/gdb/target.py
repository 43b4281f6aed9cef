"""States what a session asks of the thing being debugged, and the values it is told when that stops. No wire format here."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Protocol

from trapgate.devices.interrupts import InterruptsState
from trapgate.doings import CpuMode, Happened
from trapgate.gdb.architecture import Architecture
from trapgate.gdb.events import Events
from trapgate.values import dataclass


class BreakKind(Enum):
    """What a debugger may break on; the values are the digits of the Z packets."""

    SOFTWARE = 0
    HARDWARE = 1
    WRITE = 2
    READ = 3
    ACCESS = 4


class Why(Enum):
    """What a stop reply says beside the signal; the values are its wire names. PLAIN: step done, interrupted, attached."""

    PLAIN = ""
    SOFTWARE = "swbreak"
    HARDWARE = "hwbreak"
    WRITE = "watch"
    READ = "rwatch"
    ACCESS = "awatch"
    BEGIN = "replaylog:begin"
    """Nothing is recorded of what was before."""
    END = "replaylog:end"
    """Nothing is recorded of what comes then."""


class Way(Enum):
    """How a guest is to go back."""

    STEP = "step"
    CONTINUE = "continue"


@dataclass(frozen=True, slots=True)
class When:
    """A moment of a recorded guest: instructions executed, guest time (ns); the first and the last number that can be gone to."""

    executed: int
    now: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class LastWrite:
    """Who changed bytes of memory: `executed` instructions before it, RIP; what was there, and what is there behind it."""

    executed: int
    rip: int
    before: bytes
    after: bytes


SIGINT = 2
SIGTRAP = 5
SIGABRT = 6
SIGKILL = 9
SIGSEGV = 11


@dataclass(frozen=True, slots=True)
class Names:
    """What is known of what the guest runs: `file` makes an ELF file with its symbols, the others tell of it, a line each.

    `tasks` and `modules` tell what is there now; TargetError where the guest does not say it.
    """

    file: Callable[[], bytes]
    story: tuple[str, ...]
    tasks: Callable[[], Iterable[str]] = tuple
    modules: Callable[[], Iterable[str]] = tuple


@dataclass(frozen=True, slots=True)
class Cause:
    """What the CPU says of a stop. `address`: CR2, for #PF; `mine`, `guests`: DR6's causes and numbers of breakpoints of a #DB."""

    vector: int | None = None
    error: int | None = None
    address: int | None = None
    mine: tuple[int, int] = (0, 0)
    guests: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Stopped:
    """The guest stopped. `thread` is 1 + the vCPU's number; `address` is the watched one for WRITE, READ and ACCESS.

    `text` is told to the user before the stop (one line, or empty).
    """

    thread: int
    signal: int = SIGTRAP
    why: Why = Why.PLAIN
    address: int = 0
    text: str = ""
    cause: Cause = Cause()


@dataclass(frozen=True, slots=True)
class Exited:
    """The guest ended the machine with a status (0-255)."""

    status: int


@dataclass(frozen=True, slots=True)
class Killed:
    """The machine is gone without a status: by a debugger's kill, or by a signal."""

    signal: int = SIGABRT


Stop = Stopped | Exited | Killed


@dataclass(frozen=True, slots=True)
class Resume:
    """What one thread does now: run on, or step; a step repeats while RIP stays in `within` (start, end), if given."""

    thread: int
    step: bool = False
    within: tuple[int, int] | None = None


class TargetError(Exception):
    """The target cannot do it; the text is one line for the user."""


class Target(Protocol):
    """A stopped (or running) guest. Threads are 1 + vCPU number; addresses are guest-virtual in that vCPU's address space."""

    def attach(self) -> None:
        """A debugger is there: stop the guest until it says otherwise. Nobody is told of this stop."""
        ...

    def threads(self) -> Sequence[int]:
        """Every thread, lowest first."""
        ...

    def architecture(self) -> Architecture:
        """What to describe the guest as, if a debugger asks now."""
        ...

    def mode(self) -> CpuMode:
        """The mode of the first vCPU."""
        ...

    def describe(self, thread: int) -> str:
        """A few words about a thread's state: "running", "halted"."""
        ...

    def get_register(self, thread: int, name: str) -> int | None:
        """A register by its name in `arch.registers`, or `description.PC`; None when the CPU has none such."""
        ...

    def set_register(self, thread: int, name: str, value: int) -> None:
        """Change a register; TargetError when it is not there or refuses the value."""
        ...

    def read_memory(self, thread: int, address: int, length: int) -> bytes:
        """Memory from an address on, up to the first byte that is not mapped."""
        ...

    def write_memory(self, thread: int, address: int, data: bytes) -> bool:
        """Change memory; False, and nothing changed, when any of it is not mapped."""
        ...

    def insert(self, kind: BreakKind, address: int, length: int) -> None:
        """Arm a breakpoint; again is the same as once. TargetError when it cannot be."""
        ...

    def remove(self, kind: BreakKind, address: int, length: int) -> None:
        """Disarm a breakpoint; one that is not there is no error."""
        ...

    def resume(self, actions: Sequence[Resume]) -> None:
        """Let these threads go, the others stay; returns at once. Whoever made the target tells the session of the next stop."""
        ...

    def interrupt(self) -> None:
        """Stop the guest soon, with SIGINT."""
        ...

    def detach(self) -> None:
        """No breakpoints any more, and the guest runs on."""
        ...

    def kill(self) -> None:
        """End the machine."""
        ...

    @property
    def can_reset(self) -> bool:
        """Whether there is any use in `reset`."""
        ...

    def reset(self) -> None:
        """As it was at its start, breakpoints kept, and stopped; TargetError, and nothing is changed, when that cannot be."""
        ...

    def press_power_button(self) -> None:
        """Press the machine's power button; TargetError when that cannot be."""
        ...

    @property
    def file(self) -> str:
        """Where `save` writes to; '' where there is no such place."""
        ...

    def save(self) -> None:
        """Write the machine to its file, in place of what is there; TargetError when that cannot be."""
        ...

    def restore(self) -> None:
        """As its file says, breakpoints kept, and stopped; TargetError, and nothing is changed, when that cannot be."""
        ...

    @property
    def travels(self) -> bool:
        """Whether the guest is recorded, so that it can go back."""
        ...

    def back(self, way: Way) -> None:
        """Let the guest go back; returns at once, as `resume`. TargetError where it is not recorded, as for all of these."""
        ...

    def when(self) -> When:
        """Where the guest is."""
        ...

    def goto(self, executed: int) -> None:
        """Put the guest to where it had executed so many instructions; TargetError when that is not recorded."""
        ...

    def last_write(self, thread: int, address: int) -> LastWrite | None:
        """Who changed what is at an address last, before now; None: nobody, as far as it is recorded."""
        ...

    def read_msr(self, thread: int, index: int) -> int:
        """An MSR; TargetError when there is none such, or it can only be written."""
        ...

    def write_msr(self, thread: int, index: int, value: int) -> None:
        """Change an MSR; TargetError when it is not there or refuses the value."""
        ...

    def translate(self, thread: int, address: int) -> int | None:
        """The guest-physical address behind a guest-virtual one; None when unmapped."""
        ...

    def read_physical(self, address: int, length: int) -> bytes:
        """Guest-physical RAM from an address on, up to where it ends; TargetError where there is none."""
        ...

    def write_physical(self, address: int, data: bytes) -> bool:
        """Change guest-physical RAM; False, and nothing changed, when any of it is none."""
        ...

    @property
    def why(self) -> Stopped:
        """The last stop that a debugger was told of."""
        ...

    def recent(self, thread: int) -> Sequence[Happened]:
        """The last exceptions and interrupts that a vCPU was delivered, the oldest first."""
        ...

    def cpuid(self, thread: int, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        """EAX, EBX, ECX, EDX of a leaf as the guest is told them."""
        ...

    def interrupts(self) -> InterruptsState:
        """The interrupt controllers; TargetError where they are the host kernel's."""
        ...

    def backtrace(self, thread: int) -> Iterable[str]:
        """The stack in a Linux kernel, a line a frame; TargetError when there is none."""
        ...

    @property
    def bound(self) -> Mapping[int, int]:
        """The address spaces that breakpoints are bound to, by address: CR3 without its low 12 bits."""
        ...

    def bind(self, address: int, space: int | None) -> None:
        """Have breakpoints and watchpoints at an address stop in one address space alone; None: in all again. TargetError."""
        ...

    def await_process(self, name: str) -> None:
        """Stop where the next process of that name begins; "": do not. TargetError: no kernel is known that tells."""
        ...

    @property
    def events(self) -> Events:
        """What it stops on besides breakpoints."""
        ...

    def stop_on(self, events: Events) -> None:
        """Stop on these from now on, and no others; TargetError, and nothing is changed, when it cannot."""
        ...

    def names(self, within: float | None = None) -> Names:
        """Names for what the guest runs, found in its memory; TargetError when there are none, or none within so many seconds."""
        ...

    def breakpoints(self) -> Iterable[tuple[BreakKind, int, int]]:
        """The armed breakpoints: kind, address, length."""
        ...
