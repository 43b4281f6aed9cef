"""Hears of bus locks in a Linux guest as they happen: notes who locked, with what code from which file, once, and counts the rest.

All of it is asked for at the first event, as the process may be gone at the next.
"""

from collections.abc import Callable

from trapgate.errors import TrapgateError
from trapgate.exits import BusLock
from trapgate.finder.files import Files
from trapgate.finder.linuxguest import LinuxGuest
from trapgate.finder.sightings import Sighting, Stopped
from trapgate.linux.kernel import find_kernel

MOST_SIGHTINGS = 65536  # a guest can make places and processes without end; our memory has one
MOST_WALKED = 64  # stacks of a sighting: after so many it is only counted
MOST_WALKS = 1 << 14  # of a run: from then on, one for each sighting


class Watch:
    """What was seen so far. `unlisted` bus locks were beyond `MOST_SIGHTINGS`; `unknown` says why nobody's name is known, if so."""

    def __init__(self, guest: Stopped, files: Files) -> None:
        self._guest, self._files = guest, files
        self._linux: LinuxGuest | None = None
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

    def _known(self) -> LinuxGuest | None:
        if self._linux is None and not self.unknown:
            try:
                self._linux = LinuxGuest(find_kernel(self._guest), self._guest, self._files)
            except TrapgateError as error:
                self.unknown = str(error)
        return self._linux
