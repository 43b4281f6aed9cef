"""Runs a program in a guest, and at its first bus lock walks the kernel's stacks of its children; tells them as JSON in a file."""

import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path

from trapgate.cli import exec as execution
from trapgate.exec.messages import Report
from trapgate.exits import BusLock
from trapgate.insight import Insight
from trapgate.linux.kernel import find_kernel
from trapgate.linux.modules import Loaded
from trapgate.linux.orc import Orc
from trapgate.linux.tasks import Tasks
from trapgate.machine import Machine

INACTIVE = struct.Struct("<7Q")  # struct inactive_task_frame: r15 to r12, rbx, rbp, the return address


class Look:
    """See `execution.Finder`."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def attach(self, machine: Machine) -> None:
        self._insight = Insight(machine)
        machine.bus_locks.heard = self._heard

    def _heard(self, lock: BusLock, cpu: int | None) -> Callable[[int], None] | None:
        kernel = find_kernel(self._insight)
        tasks = Tasks(kernel)
        memory, orc, loaded = tasks.memory, Orc(kernel, tasks.memory), Loaded(kernel, tasks.memory)
        for module in tasks.modules():
            if (tables := loaded.orc(module)) is not None:
                orc.add(module.start, tables)
        me, functions = tasks.current(0), [one for one in kernel.symbols if one.kind in "Tt"]
        told = {}
        for task in tasks.all():
            if me is None or task.parent != me.process:
                continue
            stack = memory.word(task.address + kernel.types.offset("task_struct", "thread.sp")) or 0
            *_, base, pc = INACTIVE.unpack(memory.read(stack, INACTIVE.size))
            found = orc.walk({"rsp": stack + INACTIVE.size, "rbp": base, "rip": pc}, called=True)
            names = []
            for frame in found.frames:
                at = max((one for one in functions if one.address <= frame.pc - frame.called), key=lambda one: one.address)
                names.append([f"{one.name}+{frame.pc - one.address:#x}" for one in functions if one.address == at.address])
            told[task.pid] = {"frames": names, "user": found.user}
        self._file.write_text(json.dumps(told))
        return None

    def report(self, end: Report | int | None) -> int | None:
        return None


file, *program = sys.argv[1:]
choice = execution.Choice(tuple(program), "/", (), 1 << 30, 1, False, 100, None, False)
sys.exit(execution.run(choice, Look(Path(file))))
