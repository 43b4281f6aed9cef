"""Holds what a watch asks of a guest, and what it keeps of each instruction that locked the bus."""

from dataclasses import field
from typing import Protocol

from trapgate.exits import BusLock
from trapgate.finder.findings import Block
from trapgate.finder.locals import Held
from trapgate.finder.stacks.walking import Step
from trapgate.linux.kernel import Guest
from trapgate.linux.mappings import Mapping
from trapgate.linux.tasks import Task
from trapgate.values import dataclass

USER = 3  # CPL


class Stopped(Guest, Protocol):
    """A guest that stands still, and whose registers can be read."""

    def registers(self, cpu: int) -> dict[str, int]:
        """The general registers of a vCPU and RIP, by name."""
        ...

    def word(self, cpu: int) -> int:
        """Bytes of a pointer of the code that a vCPU runs, 8 or 4; 0 where its addresses are not linear, or shorter."""
        ...

    def read(self, cpu: int, address: int, length: int) -> bytes:
        """Memory at a linear address, as a vCPU has it mapped; short where it is not."""
        ...


@dataclass(slots=True)
class Sighting:
    """One locking instruction in one program that a process ran: how often it locked the bus, and what there was the first time.

    `task` None: it is not known who it was. `code` begins with the instruction, and may be cut. `place` and `operand` are what was
    mapped there, None: nothing of the process, or it is not known. `block`: of its heap; `holder`: the frame that
    has it. `stacks`: who called, and how often
    of the first times.
    """

    lock: BusLock
    task: Task | None
    code: bytes
    place: Mapping | None
    operand: Mapping | None
    count: int = 0
    stacks: dict[tuple[Step, ...], int] = field(default_factory=dict)
    walked: int = 0
    block: Block | None = None
    holder: tuple[Step, Held] | None = None

    def add(self, count: int) -> None:
        """There were so many more."""
        self.count += count
