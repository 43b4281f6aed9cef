"""Says as data what a CPU is in the midst of between two turns of its run loop: its phase, a step, an access, what is held back."""

from dataclasses import field
from enum import Enum, auto

from trapgate.exits import MmioRead, MmioWrite
from trapgate.values import dataclass, replace


class Phase(Enum):
    """What the next turn of the run loop begins with. A step, if there is one, ends where none but RUNNING or HALTING is left."""

    RUNNING = auto()
    """Between two instructions."""
    STEPPING = auto()
    """Between two instructions, and the next one runs as a step."""
    HALTING = auto()
    """Behind HLT, which nobody has been told of."""
    ACCESSING = auto()
    """Amid an access that waits for a device."""
    RESUMING = auto()
    """An access is done: translated code goes on behind it."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What an instruction takes from the boundary before it when it runs as a step; it is given back where it has not begun."""

    resume_flag: int = 0  # RFLAGS.RF
    shadow: int = 0
    skipped: int | None = None  # RIP whose breakpoints of the debugger are passed over


@dataclass(slots=True)
class Step:
    """One instruction that runs alone, and what its end must know of it."""

    start: int  # its RIP; NOWHERE where it became a step amid its block
    taken: Taken
    tf: bool  # whose single-step trap it ends with: the guest's,
    asked: bool  # the debugger's
    code: bytes = b""
    following: int = 0  # RIP behind it
    goes: int | None = None  # where it goes on, in 32 bits, as far as that is known before it
    faulted: bool = False
    known: tuple[int, ...] | None = None  # it starts again: what devices have answered already, who are not asked anew
    answers: list[int] = field(default_factory=list)  # what they have answered so far; 0 to a store


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an operand in memory: where it begins in it, and where it lies."""

    at: int
    physical: int
    size: int


@dataclass(frozen=True, slots=True)
class Access:
    """An access to memory that devices have a part in."""

    kind: int  # KIND_* of `isa.state`
    address: int  # linear
    stores: bool
    data: bytes  # what is stored, or has been read so far
    modified: int  # how many bytes of what is read will be stored as well, as KIND_COMMIT
    devices: tuple[Part, ...]  # parts that devices have not answered yet; the first of them is asked now
    ram: tuple[Part, ...]  # parts that are stored when none is left: what starts again must find RAM as it was

    @property
    def exit(self) -> MmioRead | MmioWrite:
        """What the machine is asked now."""
        part = self.devices[0]
        if not self.stores:
            return MmioRead(part.physical, part.size)
        return MmioWrite(part.physical, part.size, int.from_bytes(self.data[part.at : part.at + part.size], "little"))

    def answered(self, value: int) -> "Access":
        """The same access with the answer of a device; to a store it says nothing."""
        part, *left = self.devices
        data = self.data
        if not self.stores:
            got = (value & (1 << 8 * part.size) - 1).to_bytes(part.size, "little")
            data = data[: part.at] + got + data[part.at + part.size :]
        return replace(self, data=data, devices=tuple(left))


@dataclass(frozen=True, slots=True)
class ToAccumulator:
    """IN has asked a port: the answer goes to AL, AX or EAX."""

    size: int


@dataclass(frozen=True, slots=True)
class ToMemory:
    """INS has asked a port: the answer goes to memory, which may be written with these rights (ACCESS_*)."""

    address: int  # linear
    size: int
    rights: int


@dataclass(frozen=True, slots=True)
class HeldFault:
    """A fault that `run` has returned, to be delivered when it is called next."""

    vector: int
    error: int | None
    cr2: int | None


@dataclass(frozen=True, slots=True)
class HeldTrap:
    """INT3 or INTO, whose trap `run` has returned, to be executed when it is called next."""

    vector: int
    length: int  # of the instruction, in bytes
