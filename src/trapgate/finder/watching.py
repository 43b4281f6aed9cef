"""Hears of bus locks in a Linux guest as they happen: notes who locked, with what code from which file, once, and counts the rest.

All of it is asked for at the first event, as the process may be gone at the next.
"""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import field
from typing import Protocol

from trapgate.errors import TrapgateError
from trapgate.exits import BusLock
from trapgate.finder.files import Files
from trapgate.finder.locks import LONGEST
from trapgate.finder.stacks.processes import Process
from trapgate.finder.stacks.walking import Step
from trapgate.linux.kernel import Guest, Kernel, Memory, find_kernel
from trapgate.linux.mappings import Mapping, Mappings
from trapgate.linux.modules import Loaded
from trapgate.linux.orc import Orc
from trapgate.linux.tasks import Module, Task, Tasks
from trapgate.values import dataclass

MOST_SIGHTINGS = 65536  # a guest can make places and processes without end; our memory has one
USER = 3  # CPL
MOST_WALKED = 64  # stacks of a sighting: after so many it is only counted
MOST_WALKS = 1 << 14  # of a run: from then on, one for each sighting


class Stopped(Guest, Protocol):
    """A guest that stands still, and whose registers can be read."""

    def registers(self, cpu: int) -> dict[str, int]:
        """The general registers of a vCPU and RIP, by name."""
        ...


@dataclass(slots=True)
class Sighting:
    """One locking instruction in one program that a process ran: how often it locked the bus, and what there was the first time.

    `task` None: it is not known who it was. `code` begins with the instruction, and may be cut. `place` and `operand` are what was
    mapped there, None: nothing of the process, or it is not known. `stacks`: who called, and how often of the first times.
    """

    lock: BusLock
    task: Task | None
    code: bytes
    place: Mapping | None
    operand: Mapping | None
    count: int = 0
    stacks: dict[tuple[Step, ...], int] = field(default_factory=dict)
    walked: int = 0

    def add(self, count: int) -> None:
        """There were so many more."""
        self.count += count


class Watch:
    """What was seen so far. `unlisted` bus locks were beyond `MOST_SIGHTINGS`; `unknown` says why nobody's name is known, if so."""

    def __init__(self, guest: Stopped, files: Files) -> None:
        self._guest, self._files = guest, files
        self._linux: _Linux | None = None
        self._sightings: dict[tuple[int, int, int], Sighting] = {}
        self._walks = 0
        self.unlisted = 0
        self.unknown = ""

    def hear(self, lock: BusLock, cpu: int | None = None) -> Callable[[int], None] | None:
        """Note or count one bus lock, on a CPU of that number, before the guest goes on.

        What is returned takes how many more there were at this instruction in this address space, so that they need not come here.
        """
        linux = self._known()
        process, program = (0, 0) if linux is None else linux.running(cpu or 0)
        key = lock.rip, process, program
        found = self._sightings.get(key)
        if found is None:
            if len(self._sightings) >= MOST_SIGHTINGS:
                self.unlisted += 1
                return None
            found = Sighting(lock, None, b"", None, None) if linux is None else linux.seen(lock, cpu or 0)
            self._sightings[key] = found
        found.add(1)
        if linux is None or found.walked >= MOST_WALKED or (found.walked and self._walks >= MOST_WALKS):
            return found.add
        self._walks += 1
        found.walked += 1
        stack = linux.stack(lock, cpu or 0)
        found.stacks[stack] = found.stacks.get(stack, 0) + 1
        return None

    def sightings(self) -> list[Sighting]:
        """All of them, in the order of their first bus lock."""
        return list(self._sightings.values())

    def kernel_place(self, address: int) -> tuple[str, str, int]:
        """(module, or "" for the kernel itself; function, "" where none is known; offset in it) of an address of the kernel's."""
        return ("", "", 0) if self._linux is None else self._linux.place(address)

    def _known(self) -> "_Linux | None":
        if self._linux is None and not self.unknown:
            try:
                self._linux = _Linux(find_kernel(self._guest), self._guest, self._files)
            except TrapgateError as error:
                self.unknown = str(error)
        return self._linux


class _Linux:
    """The kernel, as far as it tells of who runs. TrapgateError: it does not."""

    def __init__(self, kernel: Kernel, guest: Stopped, files: Files) -> None:
        self._kernel, self._tasks, self._guest, self._files = kernel, Tasks(kernel), guest, files
        self._memory = self._tasks.memory  # what the kernel maps for good: RAM as a whole, and the areas of CPUs
        self._mappings = Mappings(kernel, self._memory)
        self._process = kernel.types.offset("task_struct", "tgid")
        self._program = kernel.types.offset("task_struct", "self_exec_id")  # another with each exec
        self._modules: list[Module] = []
        self._loaded, self._orc = Loaded(kernel, self._memory), Orc(kernel, self._memory)
        self._functions = [one for one in kernel.symbols if one.kind in "Tt"]

    def running(self, cpu: int) -> tuple[int, int]:
        """The process that a CPU runs, and which of its programs: two equal ones are the same."""
        task = self._tasks.running(cpu)
        if not task:
            return 0, 0
        return self._memory.number(task + self._process, 4) or 0, self._memory.number(task + self._program, 4) or 0

    def seen(self, lock: BusLock, cpu: int) -> Sighting:
        """The first bus lock of an instruction in a program."""
        task = self._tasks.current(cpu)
        if lock.cpl != USER:
            self._modules = list(self._tasks.modules())
            for one in self._modules:
                if (tables := self._loaded.orc(one)) is not None:
                    self._orc.add(one.start, tables)
            return Sighting(lock, task, self._memory.read(lock.rip, LONGEST), None, self._mapping(task, lock.address))
        code = Memory(self._guest, task.space).read(lock.rip, LONGEST) if task and task.space else b""
        return Sighting(lock, task, code, self._mapping(task, lock.rip), self._mapping(task, lock.address))

    def stack(self, lock: BusLock, cpu: int) -> tuple[Step, ...]:
        """Who called the code of a bus lock that has just been; nothing where that is not known."""
        task, registers = self._tasks.current(cpu), self._guest.registers(cpu)
        inside: tuple[Step, ...] = ()
        if lock.cpl != USER:
            stack = self._orc.walk(registers | {"rip": lock.rip})
            inside = tuple(Step(frame.pc, None, frame.called) for frame in stack.frames)
            if stack.user is None:
                return inside
            registers = stack.user
        if task is None or not task.space or not task.mm:
            return inside
        process = Process(Memory(self._guest, task.space), self._mappings, task.mm, self._files)
        return (*inside, *process.stack(registers, registers["rip"] if inside else lock.rip))

    def _mapping(self, task: Task | None, address: int) -> Mapping | None:
        return self._mappings.at(task.mm, address) if task is not None and task.mm else None

    def place(self, address: int) -> tuple[str, str, int]:
        """See `Watch.kernel_place`."""
        at = bisect_right(self._functions, address, key=lambda one: one.address) - 1
        if at >= 0 and address < (self._kernel.address("_etext") or 0):
            return "", self._functions[at].name, address - self._functions[at].address
        module = max((one for one in self._modules if one.start <= address), key=lambda one: one.start, default=None)
        if module is None:
            return "", "", 0
        function = self._loaded.function(module, address)
        return (module.name, "", address - module.start) if function is None else (module.name, *function)
