"""Lists the processes of a Linux guest, says which of them each vCPU runs, and which modules are loaded: out of its memory alone.

All is read where the kernel's own types say that it lies (`btf`). Lists are the guest's, and may be broken amid a change: they are
followed up to a bound, and no entry twice.
"""

from collections.abc import Iterator

from trapgate.linux.btf import TypesError
from trapgate.linux.kernel import Kernel
from trapgate.values import dataclass

MOST_TASKS = 1 << 15
MOST_MODULES = 1 << 10
_POINTER = 8
_NAME_LENGTH = 16  # TASK_COMM_LEN
_MODULE_NAME = 56  # MODULE_NAME_LEN
_STATES = ((0x402, "I"), (0x001, "S"), (0x002, "D"), (0x004, "T"), (0x008, "t"), (0x010, "X"), (0x020, "Z"))  # as ps shows them
_KERNEL_THREAD = 0x0020_0000  # PF_KTHREAD


@dataclass(frozen=True, slots=True)
class Task:
    """A task, as `ps -L` lists it: `process` is its thread group, `state` a letter, `space` its CR3 less low bits, 0 of none.

    `mm` is the address of its mm_struct, 0 of none.
    """

    address: int
    pid: int
    process: int
    parent: int
    state: str
    space: int
    name: str
    of_kernel: bool
    mm: int


@dataclass(frozen=True, slots=True)
class Module:
    """A loaded module, where its code begins, and the address of its struct module."""

    name: str
    start: int
    address: int = 0


class Tasks:
    """The tasks of a kernel as they are now. TypesError when this kernel has none of what is wanted."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel, self.memory, types = kernel, kernel.memory(), kernel.types
        self._at = {path: types.offset("task_struct", path) for path in _MEMBERS}
        self._threads = types.offset("signal_struct", "thread_head")
        self._tables = types.offset("mm_struct", "pgd")

    def current(self, vcpu: int) -> Task | None:
        """What a vCPU runs; None when that cannot be told, as before the kernel has begun."""
        address = self.running(vcpu)
        return self._task(address) if address else None

    def running(self, vcpu: int) -> int | None:
        """The address of the task that a vCPU runs; None or 0 when that cannot be told."""
        kernel = self._kernel
        areas, place = kernel.address("__per_cpu_offset"), kernel.address("current_task")
        if place is None and (hot := kernel.address("pcpu_hot")) is not None:
            place = hot + kernel.types.offset("pcpu_hot", "current_task")
        if areas is None or place is None:
            return None
        area = self.memory.word(areas + _POINTER * vcpu)
        return None if area is None else self.memory.word(area + place & _ADDRESSES)

    def all(self) -> Iterator[Task]:
        """Every task, process by process, the first being the idle task of the first vCPU."""
        first = self._kernel.address("init_task")
        if first is None:
            raise TypesError("this kernel has no init_task")
        seen: set[int] = set()
        for process in self._list(first + self._at["tasks"], self._at["tasks"], whole=True):
            signal = self.memory.word(process + self._at["signal"])
            threads = self._list(signal + self._threads, self._at["thread_node"]) if signal else iter(())
            for address in (process, *threads):
                if address not in seen and len(seen) < MOST_TASKS and (task := self._task(address)) is not None:
                    seen.add(address)
                    yield task

    def modules(self) -> Iterator[Module]:
        """Every module, the last loaded first."""
        types, head = self._kernel.types, self._kernel.address("modules")
        if head is None:
            return
        try:
            start = types.offset("module", "mem.base")  # MOD_TEXT is its first
        except TypesError:
            start = types.offset("module", "core_layout.base")  # up to 6.3
        for address in self._list(head, types.offset("module", "list"), most=MOST_MODULES):
            base = self.memory.word(address + start)
            if base is not None:
                yield Module(self.memory.text(address + types.offset("module", "name"), _MODULE_NAME), base, address)

    def _list(self, head: int, member: int, *, whole: bool = False, most: int = MOST_TASKS) -> Iterator[int]:
        """The structures whose `member` bytes in a list_head links them to a head; the head is in one of them when `whole`."""
        if whole:
            yield head - member
        at, seen = self.memory.word(head), {head}
        while at is not None and at not in seen and len(seen) < most:
            yield at - member & _ADDRESSES
            seen.add(at)
            at = self.memory.word(at)

    def _task(self, address: int) -> Task | None:
        """One task; None when it is not there."""
        number = {path: self.memory.number(address + self._at[path], size) for path, size in _MEMBERS.items() if size}
        parent = number["real_parent"]
        if any(value is None for value in number.values()):
            return None
        mm, state = number["mm"] or 0, (number["__state"] or 0) | (number["exit_state"] or 0)
        tables = self.memory.word(mm + self._tables) if mm else None
        return Task(
            address,
            pid=number["pid"] or 0,
            process=number["tgid"] or 0,
            parent=(self.memory.number(parent + self._at["tgid"], 4) or 0) if parent else 0,
            state=next((letter for bits, letter in _STATES if state & bits == bits), "R"),
            space=(self.memory.physical(tables) or 0) if tables else 0,
            name=self.memory.text(address + self._at["comm"], _NAME_LENGTH),
            of_kernel=bool((number["flags"] or 0) & _KERNEL_THREAD),
            mm=mm,
        )


_ADDRESSES = (1 << 64) - 1
_MEMBERS = {  # of task_struct, and how many bytes are read of each as a number
    "pid": 4,
    "tgid": 4,
    "__state": 4,
    "exit_state": 4,
    "flags": 4,
    "mm": _POINTER,
    "real_parent": _POINTER,
    **dict.fromkeys(("comm", "tasks", "signal", "thread_node"), 0),
}
