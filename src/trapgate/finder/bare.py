"""Walks stacks of a guest whose system is not known, by its image's programs: bare-metal images, kernels of one's own."""

from collections.abc import Sequence

from trapgate.finder.files import Files
from trapgate.finder.program import Program
from trapgate.finder.sightings import Stopped
from trapgate.finder.stacks.walking import Code, Step, walk
from trapgate.linux.mappings import Mapping

COMPARED = 8  # bytes of code that the guest and the file must have alike, about each address


class Bare:
    """The memory that a vCPU has mapped, in which programs lie where they were linked. See `walking.Space`."""

    def __init__(self, guest: Stopped, cpu: int, programs: Sequence[Program], files: Files) -> None:
        self._guest, self._cpu, self._files = guest, cpu, files
        self._word = guest.word(cpu)
        self._programs = [one for one in programs if one.bits == 8 * self._word]

    def read(self, address: int, length: int) -> bytes:
        """Up to so many bytes."""
        return self._guest.read(self._cpu, address, length)

    def code(self, address: int) -> Code | None:
        """The program that has the same code there as the guest."""
        here = self.read(address, COMPARED)
        for program in self._programs:
            if here and (there := program.code(address, COMPARED)) and here.startswith(there):
                start, offset, size = next(one[:3] for one in program.loaded if one[0] <= address < one[0] + one[2])
                place = Mapping(start, start + size, offset, program.path, "", executable=True)
                return Code(place, program, 0, self._files.frames(program))
        return None

    def stack(self, pc: int) -> tuple[Step, ...]:
        """The frames of what the vCPU runs, whose instruction is at `pc`; that alone where its addresses are not linear."""
        if not self._word:
            return (Step(pc, None),)
        return walk(self._guest.registers(self._cpu), pc, self._word, self)
