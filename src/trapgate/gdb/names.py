"""Tells a debugger what a guest runs, as far as the guest itself does: so far, a 64-bit Linux kernel, its tasks and modules."""

import time
from collections.abc import Callable, Iterator
from functools import cache, partial

from trapgate.errors import TrapgateError
from trapgate.gdb.target import Names, TargetError
from trapgate.insight import Insight
from trapgate.linux.kernel import Kernel, find_kernel
from trapgate.linux.orc import Orc
from trapgate.linux.symbolfile import symbol_file
from trapgate.linux.tasks import Task, Tasks
from trapgate.machine import Machine
from trapgate.symbols import Symbols

FILE = "/vmlinux"
"""What the file of names is called where debuggers open it."""


class RunningNames:
    """The names of the kernel that runs now: looked for again when another does, after a reset or kexec."""

    def __init__(self, machine: Machine) -> None:
        self._guest = Insight(machine)
        self._kernel: Kernel | None = None
        self._names: Names | None = None

    def now(self, within: float | None = None) -> Names:
        """The names; TargetError when there are none, or none within so many seconds."""
        try:
            if self._kernel is None or self._names is None or not self._kernel.runs():
                self._names = None
                kernel = self._kernel = find_kernel(self._guest, None if within is None else time.monotonic() + within)
                self._names = Names(
                    file=cache(partial(symbol_file, kernel.symbols, kernel.width.pointer)),
                    story=tuple(_story(kernel)),
                    tasks=partial(_told, _tasks, kernel),
                    modules=partial(_told, _modules, kernel),
                )
        except TrapgateError as error:
            raise TargetError(str(error)) from error
        return self._names

    def address(self, name: str) -> int | None:
        """Where a symbol of the kernel lies; None where it has none such. TargetError: there is no kernel."""
        self.now()
        assert self._kernel is not None
        return self._kernel.address(name)

    def backtrace(self, vcpu: int) -> Iterator[str]:
        """The stack in the kernel that a vCPU is in, by the kernel's own unwind tables. TargetError: there is no kernel."""
        self.now()
        assert self._kernel is not None
        yield from _told(partial(_stack, self._guest.registers(vcpu)), self._kernel)

    def named(self, vcpu: int) -> str:
        """The name of the task that a vCPU runs; "" where that is not known."""
        try:
            task = None if self._kernel is None else Tasks(self._kernel).current(vcpu)
        except TrapgateError:
            return ""
        return "" if task is None else task.name

    def running(self, vcpu: int) -> str:
        """The task that a vCPU runs, in a few words; "" where that is not known, or no names were asked for yet."""
        try:
            if self._kernel is None or not self._kernel.runs():
                return ""
            task = Tasks(self._kernel).current(vcpu)
        except TrapgateError:
            return ""
        return "" if task is None else f"{task.name} ({task.pid})"


def _story(kernel: Kernel) -> Iterator[str]:
    slide = f"moved by {kernel.slide:#x} from where it is linked (KASLR)" if kernel.slide else "where it is linked"
    yield kernel.banner
    yield f"its image begins at {kernel.start:#x}, guest-physical {kernel.start - kernel.moved:#x}: {slide}"
    yield f"{len(kernel.symbols)} symbols of its own; gdb takes them with: file target:{FILE}"
    yield f"a vmlinux of yours, with types and lines: symbol-file -o {kernel.slide:#x} vmlinux"


def _stack(registers: dict[str, int], kernel: Kernel) -> Iterator[str]:
    functions = Symbols([(one.address, one.label[1:]) for one in kernel.symbols if one.kind in "Tt"])
    stack = Orc(kernel, kernel.memory()).walk(registers)
    for number, frame in enumerate(stack.frames):
        name, offset = functions.find(frame.pc - frame.called) or ("??", 0)
        yield f"#{number:<3}{frame.pc:#018x}  {name}" + (f"+{offset + frame.called:#x}" if offset else "")
    if stack.user is not None:
        yield f"entered from a program at {stack.user['rip']:#x}, its stack at {stack.user['rsp']:#x}"


def _told(tell: Callable[[Kernel], Iterator[str]], kernel: Kernel) -> Iterator[str]:
    """What there is to tell, line by line; TargetError when the kernel does not say it."""
    try:
        yield from tell(kernel)
    except TrapgateError as error:
        raise TargetError(str(error)) from error


def _tasks(kernel: Kernel) -> Iterator[str]:
    tasks = Tasks(kernel)
    yield "    pid   tgid parent state        cr3  name"
    for task in tasks.all():
        yield f"{task.pid:>7}{task.process:>7}{task.parent:>7} {task.state:<5} {_space(task):>10}  {_name(task)}"


def _space(task: Task) -> str:
    return f"{task.space:x}" if task.space else "-"


def _name(task: Task) -> str:
    return f"[{task.name}]" if task.of_kernel else task.name


def _modules(kernel: Kernel) -> Iterator[str]:
    none = True
    for module in Tasks(kernel).modules():
        none = False
        yield f"{module.start:016x}  {module.name}"
    if none:
        yield "no module is loaded"
