"""States the protocol that both CPUs speak: what a machine, a router and a gdb session may ask of a vCPU."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import field
from enum import IntEnum
from typing import Literal, Protocol

from trapgate.arch.models import CpuModel
from trapgate.cpustate import CpuState
from trapgate.doings import Doing, Happened, Interest
from trapgate.errors import TrapgateError
from trapgate.exits import Exit
from trapgate.state import State
from trapgate.values import dataclass

RFLAGS_FIXED = 1 << 1  # reads as 1
TABLES = ("gdt_base", "gdt_limit", "idt_base", "idt_limit", "cr3", "cr4", "efer", "cr0")
"""What `CpuStart` says of tables and control registers, in the order in which it is set."""


class EngineError(TrapgateError, ValueError):
    """An engine, on this host, cannot do what is asked of it."""


class Owner(IntEnum):
    """Who armed a breakpoint."""

    GUEST = 0
    DEBUGGER = 1


class Kind(IntEnum):
    """What a breakpoint matches; the values are DR7.R/W (SDM vol. 3, 18.2.4). READ exists for the debugger only."""

    EXEC = 0
    WRITE = 1
    IO = 2
    ACCESS = 3
    READ = 4


@dataclass(frozen=True, slots=True)
class Breakpoint:
    """An armed hardware breakpoint. `slot` is the guest's DR number (0-3) if the guest owns it, else the debugger's number."""

    owner: Owner
    slot: int
    kind: Kind
    address: int
    length: int


@dataclass(frozen=True, slots=True)
class GuestDebug:
    """What the guest had armed when the #DB arose, besides breakpoints."""

    tf: bool  # RFLAGS.TF was 1 before the instruction
    gd: bool  # DR7.GD
    task_trap: bool  # TSS.T of the task switched to
    bus_lock: bool  # DEBUGCTL[2] = 1 and CPL > 0


@dataclass(frozen=True, slots=True)
class SegmentStart:
    """A segment register with its hidden part. `limit` is in bytes, the last valid offset.

    `attributes` is the attribute word of `arch.segments` (ATTR_*).
    """

    selector: int
    base: int
    limit: int
    attributes: int


@dataclass(frozen=True, slots=True)
class CpuStart:
    """The first registers of the boot processor; registers not named here keep their value at reset (SDM vol. 3, table 10-1)."""

    mode: Literal["real16", "protected32", "long64"]
    rip: int
    cr0: int
    segments: dict[str, SegmentStart]  # cs ds es fs gs ss tr
    general: dict[str, int] = field(default_factory=dict)  # rax rbx rsi rsp ...; 0 when absent
    cr3: int = 0
    cr4: int = 0
    efer: int = 0
    rflags: int = RFLAGS_FIXED
    gdt_base: int = 0
    gdt_limit: int = 0
    idt_base: int = 0
    idt_limit: int = 0

    def registers(self) -> Iterator[tuple[str, int]]:
        """(name, value) of every general register, RIP and RFLAGS."""
        for name in ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", *(f"r{number}" for number in range(8, 16))):
            yield name, self.general.get(name, 0)
        yield "rip", self.rip
        yield "rflags", self.rflags


class Devices(Protocol):
    """Who answers plain accesses of a vCPU at once, so that it need not leave `run` for each. No method raises.

    Where an answer is more than a value (a timer was set, the machine is to end), `Vcpu.kick` is called before it is given.
    Sizes are 1, 2, 4 or 8 bytes.
    """

    def port_read(self, port: int, size: int) -> int:
        """What a port answers, cut to `size` bytes."""
        ...

    def port_write(self, port: int, size: int, value: int) -> None:
        """Hand a value, cut to `size` bytes, to a port."""
        ...

    def memory_read(self, address: int, size: int) -> int:
        """What guest-physical memory that is no RAM answers, cut to `size` bytes."""
        ...

    def memory_write(self, address: int, size: int, value: int) -> None:
        """Hand a value, cut to `size` bytes, to guest-physical memory that is no RAM."""
        ...


ASLEEP, SAMPLED = "asleep in HLT", "samples"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sample was taken: linear address of the code that is next, CPL."""

    address: int
    cpl: int


class Observer(Protocol):
    """Watches a vCPU work, on the thread that runs it, amid `run`. It may look at the vCPU, and kick it."""

    def entering(self) -> None:
        """Guest code is about to run."""
        ...

    def left(self) -> None:
        """It runs no more."""
        ...

    def because(self, why: str, sample: Place | None) -> None:
        """Why it runs no more, in words, ASLEEP and SAMPLED among them. `sample`: where, if `Vcpu.sample` asked for that."""
        ...

    def answered(self, why: str) -> None:
        """A device has answered at once, and guest code is about to run on: words that tell more than the last ones."""
        ...

    def translating(self) -> None:
        """A block of guest code is about to be looked for, and translated where there is none."""
        ...

    def translated(self) -> None:
        """That is done, or has failed."""
        ...


class Vcpu(Protocol):
    """One virtual CPU. Not thread-safe but for `kick`."""

    model: CpuModel
    """What it is: the model that was asked for, less what the host cannot give."""

    @property
    def underway(self) -> type[State]:
        """What `CpuState.underway` may be besides `Between`."""
        ...

    def run(self) -> Exit:
        """Execute until something happens that the CPU cannot settle alone."""
        ...

    def tally(self, rip: int, heard: Callable[[int], None]) -> None:
        """Until CR3 is loaded, bus locks at RIP may be counted instead of returned; `heard` is told how many were, once.

        That is when another tally takes its place, or at `tell_tallies`.
        """
        ...

    def tell_tallies(self) -> None:
        """End all tallies. Between two runs."""
        ...

    def kick(self) -> None:
        """Make `run` return Interrupted soon. May be called from any thread."""
        ...

    def close(self) -> None:
        """End helper threads and give descriptors back; the guest runs no more."""
        ...

    def complete(self, value: int) -> None:
        """Answer the PortRead or MmioRead that `run` returned last."""
        ...

    def can_interrupt(self) -> bool:
        """Whether an external interrupt would be taken now (IF, no shadow, nothing pending)."""
        ...

    def interrupt(self, vector: int) -> None:
        """Deliver an external interrupt; only while `can_interrupt`."""
        ...

    def want_interrupt(self, waiting: bool) -> None:
        """While waiting, `run` returns Interrupted as soon as `can_interrupt` becomes true."""
        ...

    def nmi(self) -> None:
        """Deliver a non-maskable interrupt at the next boundary."""
        ...

    @property
    def waits(self) -> bool:
        """Whether it waits for an interrupt by itself, after HLT; else `run` returns Halted, and its owner waits."""
        ...

    def wait(self) -> bool:
        """Let it wait so; False when it never does."""
        ...

    def get(self, register: str) -> int:
        """The value of a register by its name in `arch.registers` (rax, rip, rflags, cs, cs_base, cr3, dr6, mxcsr, st0, xmm15)."""
        ...

    def set(self, register: str, value: int) -> None:
        """Change a register; ValueError when the architecture forbids the value."""
        ...

    def read_msr(self, index: int) -> int:
        """The value of an MSR; `arch.msrs.MsrError` when the model has none, or it can only be written."""
        ...

    def write_msr(self, index: int, value: int) -> None:
        """Change an MSR; `arch.msrs.MsrError` when the model has none, or it refuses the value."""
        ...

    def read_virtual(self, address: int, length: int) -> bytes:
        """Guest memory as the debugger sees it, without side effects; short when an address is unmapped."""
        ...

    def write_virtual(self, address: int, data: bytes) -> bool:
        """Change guest memory whatever its page rights say; False (and nothing written) when any of it is unmapped."""
        ...

    def translate(self, address: int) -> int | None:
        """The guest-physical address behind a guest-virtual one, without side effects; None when unmapped."""
        ...

    def arm(self, breakpoints: Sequence[Breakpoint], software: Sequence[int]) -> None:
        """The debugger's breakpoints from now on: hardware ones and the addresses of software ones."""
        ...

    def armed(self) -> Sequence[Breakpoint]:
        """Every armed hardware breakpoint, the guest's and the debugger's: what `DebugException.hits` counts by."""
        ...

    def step(self, on: bool) -> None:
        """While on, `run` returns after one instruction, with a DebugException that has BS set."""
        ...

    def resume_over(self) -> None:
        """The next instruction runs without the debugger's execution breakpoints on it (as RF does for the guest's)."""
        ...

    def guest_debug(self) -> GuestDebug:
        """What the guest had armed when the DebugException that `run` returned last arose."""
        ...

    def deliver_debug(self, causes: int, hits: int, icebp: bool) -> None:
        """Deliver #DB to the guest with its share of the last DebugException: causes active high, `hits` bit n = its DR n."""
        ...

    def catch(self, vectors: frozenset[int]) -> None:
        """Exceptions of these vectors are returned as GuestException before they are delivered. EngineError where none can be.

        Faults and traps of instructions are meant, #DB among them where no debugger's share of it comes first; not NMI, not INT n,
        and not what arises amid a delivery (#DF, and what leads to it).
        """
        ...

    def tell_of(self, interest: Interest, heard: Callable[[Doing], None]) -> None:
        """Tell of what the guest does, amid the run, behind each instruction that does it. EngineError where it cannot be told."""
        ...

    def recent(self) -> Sequence[Happened]:
        """The last exceptions and interrupts that were delivered, the oldest first; nothing where an engine does not know them."""
        ...

    def observe(self, observer: Observer) -> None:
        """Tell an observer of all that happens from now on. EngineError where there is nothing to be told."""
        ...

    def sample(self) -> bool:
        """Leave guest code at the next block, so that the observer is told where; whether that can be. From any thread."""
        ...

    def start(self, first: CpuStart) -> None:
        """Come from the reset state to the first registers that a loader chose, hidden parts of the segments included."""
        ...

    def init(self) -> None:
        """INIT: the registers are as at reset, but floating-point and vector ones and most MSRs stay, and nothing is under way."""
        ...

    def share(self, on: bool) -> None:
        """While on, another vCPU waits for its turn: PAUSE makes `run` return Spinning.

        Where instructions are not counted, `run` returns Interrupted every few milliseconds as well.
        """
        ...

    def save(self) -> CpuState:
        """Its state, between two runs whose exits have been answered. EngineError where it cannot be had."""
        ...

    def load(self, state: CpuState) -> None:
        """Be as the one saved was. StateError, and nothing is changed: this one cannot be so. EngineError as for `save`.

        What a debugger has asked for stays as it is. RAM is loaded before, clock and local APIC are loaded after it.
        """
        ...

    def executed(self) -> int:
        """Instructions executed so far; for a vCPU whose `engine.Surroundings` is `counting`."""
        ...

    def budget(self, instructions: int) -> None:
        """`run` returns Interrupted after so many more instructions (or sooner); the same holds."""
        ...

    @property
    def amid(self) -> bool:
        """Whether an instruction that has been counted is not through, between two calls of `run`; the same holds."""
        ...

    def forget_pages(self) -> None:
        """Know no page any more, so that what it writes from now on is dirty in `memory.Ram`; the same holds."""
        ...


class Uncounted:
    """A vCPU whose instructions nobody counts."""

    def executed(self) -> int:
        """Nobody asks."""
        raise NotImplementedError

    def budget(self, instructions: int) -> None:
        """Nobody asks."""
        raise NotImplementedError

    @property
    def amid(self) -> bool:
        """Nobody asks."""
        return False

    def forget_pages(self) -> None:
        """Nobody asks."""
        raise NotImplementedError


class Alone:
    """A vCPU that is the only one of its machine."""

    def init(self) -> None:
        """The boot processor's INIT is the machine's reset."""
        raise NotImplementedError

    def share(self, on: bool) -> None:
        """Nobody waits."""


class Unobserved:
    """A vCPU whose work nobody sees, and which tells of each bus lock, if of any."""

    def tally(self, rip: int, heard: Callable[[int], None]) -> None:
        """Each is told."""

    def tell_tallies(self) -> None:
        """There are none."""

    def tell_of(self, interest: Interest, heard: Callable[[Doing], None]) -> None:
        """The guest does it unseen."""
        if interest != Interest():
            raise EngineError("this engine does not see what the guest does; use the engine 'soft' to stop at it")

    def recent(self) -> Sequence[Happened]:
        """Nothing is known."""
        return ()

    def observe(self, observer: Observer) -> None:
        """There is nothing to be told."""
        raise EngineError("this engine does not tell what it does; use the engine 'soft'")

    def sample(self) -> bool:
        """It cannot be asked."""
        return False
