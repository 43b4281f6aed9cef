"""Tells at each bus lock of any guest who called: in a Linux by its own tables and mappings, else by the programs of the image."""

import time
from collections.abc import Sequence

from trapgate.errors import TrapgateError
from trapgate.exits import BusLock
from trapgate.finder.bare import Bare
from trapgate.finder.files import Given
from trapgate.finder.findings import Called
from trapgate.finder.linuxguest import LinuxGuest
from trapgate.finder.naming import KERNEL, called
from trapgate.finder.program import Program
from trapgate.finder.sightings import USER, Stopped
from trapgate.finder.stacks.walking import Code, Step
from trapgate.linux.kernel import WIDE, Kernel, find_kernel
from trapgate.linux.mappings import Mapping
from trapgate.values import dataclass, replace

SEARCH = 10.0  # s of host time in which a kernel's symbols are found, or never


@dataclass(frozen=True, slots=True)
class Caught:
    """Who locked the bus: the frames, the innermost first, and which task of a Linux guest, "" where that is not known."""

    frames: tuple[Called, ...]
    who: str
    linux: bool


class Callers:
    """A guest's stacks. `programs`: files with symbols that the user gave: the image, a kernel's vmlinux, programs in the guest."""

    def __init__(self, guest: Stopped, programs: Sequence[Program]) -> None:
        self._guest = guest
        self._kernels = [one for one in programs if any(start >= KERNEL for start, *_ in one.loaded)]
        self._programs = programs
        self._files = Given([one for one in programs if one not in self._kernels])
        self._linux: LinuxGuest | None = None
        self._searched = 0  # the system call entry for which there was no finding a kernel
        for one in programs:
            one.open_apart()

    def at(self, lock: BusLock, cpu: int) -> Caught:
        """Who is at a bus lock that has just been."""
        linux = self._known()
        if linux is None:
            steps = Bare(self._guest, cpu, self._programs, self._files).stack(lock.rip)
            return Caught(tuple(frame for step in steps for frame in called(step, lambda _: ("", "", 0))), "", linux=False)
        if lock.cpl != USER:
            linux.look_at_modules()
        steps = tuple(self._in_kernel(step, linux) for step in linux.stack(lock, cpu)) or (Step(lock.rip, None),)
        task = linux.task(cpu)
        frames = tuple(frame for step in steps for frame in called(step, linux.place))
        return Caught(frames, "" if task is None else f"{task.name}[{task.process}]", linux=True)

    def _in_kernel(self, step: Step, linux: LinuxGuest) -> Step:
        """A frame of the kernel's with the file that was given for it, if that calls the function there as the kernel does."""
        if step.code is not None or step.pc < KERNEL:
            return step
        module, function, offset = linux.place(step.at)
        moved = linux.kernel.slide
        for one in self._kernels:
            if not module and one.function(step.at - moved) == (function, step.at - moved - offset):
                return replace(step, code=Code(Mapping(KERNEL, KERNEL, 0, one.path, ""), one, moved))
        return step

    def _known(self) -> LinuxGuest | None:
        """The Linux that runs now: a guest may begin without one, and go on with another."""
        if self._linux is not None and self._linux.kernel.runs():
            return self._linux
        self._linux = None
        entry = self._guest.read_msr(WIDE.entry)
        if entry and entry != self._searched:
            try:
                kernel: Kernel = find_kernel(self._guest, time.monotonic() + SEARCH)
                self._linux = LinuxGuest(kernel, self._guest, self._files)
            except TrapgateError:
                self._searched = entry
        return self._linux
