"""Tells of a Linux guest that stands still: who runs, what lies where, who called; out of its memory alone."""

from bisect import bisect_right

from trapgate.exits import BusLock
from trapgate.finder.files import Files
from trapgate.finder.heap import HEAP, block
from trapgate.finder.locks import LONGEST
from trapgate.finder.sightings import USER, Sighting, Stopped
from trapgate.finder.stacks.processes import Process
from trapgate.finder.stacks.walking import Step
from trapgate.linux.kernel import Kernel, Memory
from trapgate.linux.mappings import Mapping, Mappings
from trapgate.linux.modules import Loaded
from trapgate.linux.orc import Orc
from trapgate.linux.tasks import Module, Task, Tasks


class LinuxGuest:
    """The kernel, as far as it tells of who runs. TrapgateError: it does not."""

    def __init__(self, kernel: Kernel, guest: Stopped, files: Files) -> None:
        self.kernel, self._tasks, self._guest, self._files = kernel, Tasks(kernel), guest, files
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

    def look_at_modules(self) -> None:
        """Know the modules that are loaded now, and how their stacks are walked."""
        self._modules = list(self._tasks.modules())
        for one in self._modules:
            if (tables := self._loaded.orc(one)) is not None:
                self._orc.add(one.start, tables)

    def task(self, cpu: int) -> Task | None:
        """Who runs on a CPU."""
        return self._tasks.current(cpu)

    def seen(self, lock: BusLock, cpu: int) -> Sighting:
        """The first bus lock of an instruction in a program."""
        task = self._tasks.current(cpu)
        if lock.cpl != USER:
            self.look_at_modules()
            return Sighting(lock, task, self._memory.read(lock.rip, LONGEST), None, self._mapping(task, lock.address))
        memory = Memory(self._guest, task.space) if task and task.space else None
        code, operand = b"" if memory is None else memory.read(lock.rip, LONGEST), self._mapping(task, lock.address)
        seen = Sighting(lock, task, code, self._mapping(task, lock.rip), operand)
        if memory is not None and operand is not None:
            seen.block = block(memory, operand, lock.address, self._guest.word(cpu))
            if not operand.filesystem and operand.path != HEAP and seen.block is None and task is not None:
                process = Process(memory, self._mappings, task.mm, self._files)
                seen.holder = process.holding(self._guest.registers(cpu), lock.rip, lock.address)
        return seen

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
        """(module, or "" for the kernel itself; function, "" where none is known; offset in it) of an address of the kernel's."""
        at = bisect_right(self._functions, address, key=lambda one: one.address) - 1
        if at >= 0 and address < (self.kernel.address("_etext") or 0):
            return "", self._functions[at].name, address - self._functions[at].address
        module = max((one for one in self._modules if one.start <= address), key=lambda one: one.start, default=None)
        if module is None:
            return "", "", 0
        function = self._loaded.function(module, address)
        return (module.name, "", address - module.start) if function is None else (module.name, *function)
