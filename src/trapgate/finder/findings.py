"""What was found, as plain values: so it is told, kept in a file, and told again."""

from dataclasses import field
from enum import Enum

from trapgate.exits import BusLock
from trapgate.finder.lines import Line
from trapgate.values import dataclass


class Kind(Enum):
    """What locks the bus, by a name that never changes and in words."""

    SPLIT = "TG0001", "split lock"
    NOT_WRITE_BACK = "TG0002", "lock on memory that is not write-back"


@dataclass(frozen=True, slots=True)
class Process:
    """A process that locked the bus, how often, and the thread that did it first."""

    name: str
    pid: int
    thread: int
    count: int


@dataclass(frozen=True, slots=True)
class Site:
    """Where an instruction is, as far as it is known: what is not is "", 0 or None.

    `module` is a file as the guest has it, or a module of its kernel, or the kernel itself. `offset` is in the file, or in the
    module. `address` is what objdump calls it, or RIP; `note` says why there is no more. `code`: the instruction's bytes.
    `source`: (number, text) of the lines around `line`, where they were at hand.
    """

    address: int
    code: bytes = b""
    words: str = ""
    module: str = ""
    offset: int = 0
    function: str = ""
    function_offset: int = 0
    line: Line | None = None
    note: str = ""
    source: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Called:
    """A frame of a stack, as far as it is known: what is not is "", 0 or None. `address` is where it goes on, as objdump has it.

    `inlined`: the compiler has put it into the next. `signal`: the kernel called the one inside, for a signal. `guessed`: a frame
    pointer says so, where the code's own description says nothing.
    """

    address: int
    module: str = ""
    offset: int = 0
    function: str = ""
    function_offset: int = 0
    line: Line | None = None
    inlined: bool = False
    signal: bool = False
    guessed: bool = False


@dataclass(frozen=True, slots=True)
class Stack:
    """Who called, the innermost first, the instruction's own function; `count`: of the first times, how many came from there."""

    frames: tuple[Called, ...]
    count: int


@dataclass(frozen=True, slots=True)
class Block:
    """Memory of an allocator: `size` bytes can be used; the operand begins `offset` bytes behind its beginning."""

    size: int
    offset: int


@dataclass(slots=True)
class Finding:
    """One instruction that locks the bus. `lock` is the first time, `operand`, `block` and `owner` what it locked then.

    `operand` is a file, with the offset in it, or "[heap]", "[stack]", "[anonymous]"; `owner` a global variable, or one of
    the function `owner_in`, with the offset in it; `member`: of it, as source says it: ".counter". `stacks`: the most
    frequent first. `fingerprint` is the same in another run, and in a program that has changed elsewhere. `known`: a baseline has
    it.
    """

    kind: Kind
    site: Site
    lock: BusLock
    operand: str = ""
    owner: str = ""
    owner_offset: int = 0
    processes: list[Process] = field(default_factory=list)
    stacks: list[Stack] = field(default_factory=list)
    fingerprint: str = ""
    known: bool = False
    operand_offset: int | None = None
    member: str = ""
    block: Block | None = None
    owner_in: str = ""

    @property
    def count(self) -> int:
        """How often it locked the bus."""
        return sum(one.count for one in self.processes)


@dataclass(frozen=True, slots=True)
class Run:
    """A program that was run, and how it ended: by itself, by a signal, or neither, with its guest."""

    program: tuple[str, ...]
    status: int | None = None
    signal: int | None = None


@dataclass(frozen=True, slots=True)
class Suppressed:
    """What a suppression has kept from being told: so many findings, which locked the bus so often."""

    name: str
    findings: int
    count: int


@dataclass(frozen=True, slots=True)
class Report:
    """What was found in some runs; `notes`: what could not be known, in words."""

    runs: tuple[Run, ...]
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    suppressed: tuple[Suppressed, ...] = ()
