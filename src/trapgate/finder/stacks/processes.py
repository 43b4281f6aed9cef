"""Walks the stacks of a Linux guest's processes, while they stand still."""

from trapgate.errors import TrapgateError
from trapgate.finder.files import VDSO, Files
from trapgate.finder.locals import Held
from trapgate.finder.stacks.walking import Code, Step, framed, walk
from trapgate.linux.kernel import Memory
from trapgate.linux.mappings import Mapping, Mappings

RED_ZONE = 128  # bytes below a stack pointer that its function may use (System V ABI, 3.2.2)
COMPARED = 8  # bytes of code that the guest and the file must have alike, about each address


class Process:
    """The memory of one process at one moment. See `walking.Space`."""

    def __init__(self, memory: Memory, mappings: Mappings, mm: int, files: Files) -> None:
        self._memory, self._mappings, self._mm, self._files = memory, mappings, mm, files
        self._found: list[Mapping] = []

    def read(self, address: int, length: int) -> bytes:
        """Up to so many bytes."""
        return self._memory.read(address, length)

    def mapping(self, address: int) -> Mapping | None:
        """What is mapped at an address."""
        found = next((one for one in self._found if one.start <= address < one.end), None)
        if found is None:
            found = self._mappings.at(self._mm, address)
            if found is not None:
                self._found.append(found)
        return found

    def code(self, address: int) -> Code | None:
        """What lies at an address, with its program where the guest has the same code."""
        mapping = self.mapping(address)
        if mapping is None:
            return None
        try:
            if mapping.path == VDSO:
                program = self._files.image(self._mappings.vdso(self._mm))
            elif mapping.filesystem:
                program = self._files.program(mapping)
            else:
                return Code(mapping)
        except TrapgateError:
            return Code(mapping)
        at = program.address_of(address - mapping.start + mapping.offset)
        if at is None or not self._same(address, program.code(at, COMPARED)):
            return Code(mapping)
        return Code(mapping, program, address - at, self._files.frames(program))

    def _same(self, address: int, code: bytes) -> bool:
        """Whether the guest has that code at an address, as far as it is in memory."""
        here = self.read(address, COMPARED)
        return bool(here) and code.startswith(here)

    def stack(self, registers: dict[str, int], pc: int) -> tuple[Step, ...]:
        """The frames of a thread whose next instruction, or the last before it, is at `pc`."""
        return walk(registers, pc, self._word(pc), self)

    def holding(self, registers: dict[str, int], pc: int, address: int) -> tuple[Step, Held] | None:
        """The frame that an address of the stack is in, and where; None where that is not known."""
        for one in framed(registers, pc, self._word(pc), self):
            if one.stack - RED_ZONE <= address < one.end:
                from_base = None if one.base is None else address - one.base
                return one.step, Held(address - one.end, address - one.stack, from_base)
        return None

    def _word(self, pc: int) -> int:
        code = self.code(pc)
        return 8 if code is None or code.program is None else code.program.bits // 8
