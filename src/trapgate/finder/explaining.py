"""Explains a bus lock that was told of: which instruction of which file, function and source line, and what it locks."""

from collections.abc import Iterable, Iterator, Sequence

from iced_x86 import Instruction

from trapgate.errors import TrapgateError
from trapgate.finder import locks, spaces
from trapgate.finder.demangling import demangled
from trapgate.finder.lines import Line
from trapgate.finder.program import Program, Programs
from trapgate.finder.spaces import Mapped
from trapgate.finder.told import Told
from trapgate.values import dataclass

CACHE_LINE = 64
PAGE = 4096
FURTHEST = 1 << 16  # bytes of a function that are decoded up to the instruction
MOST_CANDIDATES = 20
CONTEXT = 2  # lines of source before and after


class NotExplained(TrapgateError):
    """Nothing in what is at hand locks the bus at that address."""


@dataclass(frozen=True, slots=True)
class Found:
    """A locked instruction of a program; `moved` is where the file's addresses are in the process."""

    program: Program
    instruction: Instruction
    moved: int


def in_space(told: Told, space: list[Mapped], programs: Programs) -> Found:
    """The instruction, by what the process has mapped. NotExplained, ProgramError."""
    last = told.address - told.after
    mapped = spaces.find(space, last)
    if mapped is None:
        raise NotExplained(f"no file is mapped at {told.address:#x} of this process; is it the one that was told of?")
    program = programs[mapped.path]
    address = program.address_of(last - mapped.start + mapped.offset)
    if address is None:
        raise NotExplained(f"{mapped.path} has nothing where {told.address:#x} was mapped: it is another file by now")
    moved = last - address
    instruction = _instruction(program, told.address - moved, told.after)
    if instruction is None:
        raise NotExplained(f"{mapped.path} has no locked instruction there: it is another file by now, or wrote that code itself")
    return Found(program, instruction, moved)


def in_files(told: Told, paths: Sequence[str], programs: Programs) -> list[Found]:
    """Every instruction that it may be, where only the files are known: they lie on pages, so the low 12 bits are the file's own.

    ProgramError; NotExplained when there is none.
    """
    found: list[Found] = []
    for path in paths:
        program = programs[path]
        for address in [told.address] if not program.moves else _same_in_page(program, told):
            instruction = _instruction(program, address, told.after)
            if instruction is not None:
                found.append(Found(program, instruction, told.address - address))
    if not found:
        raise NotExplained(f"no locked instruction of {', '.join(paths)} can be the one at {told.address:#x}")
    return found


def _same_in_page(program: Program, told: Told) -> Iterator[int]:
    """Addresses of code that lie in their pages as the one that was told."""
    for start, _, size, executable in program.loaded:
        if executable:
            first = start + (told.address - start) % PAGE
            yield from range(first, start + size + told.after, PAGE)


def _instruction(program: Program, address: int, after: bool) -> Instruction | None:
    """The locked instruction at an address, or before it."""
    if not after:
        return locks.at(program.code(address, locks.LONGEST), address, program.bits)
    function = program.function(address - 1)
    if function is not None and 0 < address - function[1] <= FURTHEST:
        code = program.code(function[1], address - function[1])
        if len(code) == address - function[1]:
            found = locks.ending(code, function[1], address, program.bits)
            if found is not None:
                return found
    code = program.code(address - locks.LONGEST, locks.LONGEST) or b""
    return next(locks.guesses(code, address, program.bits), None) if len(code) == locks.LONGEST else None


def story(told: Told, found: Found) -> Iterator[str]:
    """One found instruction in words, line by line."""
    program, instruction = found.program, found.instruction
    address = instruction.ip
    function = program.function(address)
    place = "" if function is None else f" in {demangled(function[0])}+{address - function[1]:#x}"
    yield f"  {program.path}{place}"
    code = program.code(address, instruction.len).hex(" ")
    yield f"  {address + found.moved:#x}:  {locks.words(instruction)}    ({code})"
    line = program.line(address)
    if line is not None:
        yield f"  {line.path}:{line.number}"
        yield from excerpt(line, source(line))
    yield from _operand(found)


def source(line: Line) -> Iterator[tuple[int, str]]:
    """(number, text) of the source around a line, where it is at hand."""
    try:
        with open(line.path, encoding="utf-8", errors="replace") as file:
            for number, text in enumerate(file, 1):
                if abs(number - line.number) <= CONTEXT:
                    yield number, text.rstrip()
                if number > line.number + CONTEXT:
                    return
    except OSError:
        return


def excerpt(line: Line, lines: Iterable[tuple[int, str]]) -> Iterator[str]:
    """The source around a line, with a mark at it."""
    for number, text in lines:
        yield f"  {'>' if number == line.number else ' '}{number:>6}  {text}"


def _operand(found: Found) -> Iterator[str]:
    """What it locks: drawn on its cache lines where the address is known."""
    size, address = locks.operand_size(found.instruction), locks.operand_address(found.instruction)
    if address is None:
        registers = " and ".join(locks.operand_registers(found.instruction))
        yield f"  locks {size} bytes at an address in {registers}, which the kernel does not tell"
        return
    if found.instruction.is_ip_rel_memory_operand:
        address += found.moved
    if crosses(address, size):
        yield from crossing(address, size)
    else:
        yield f"  locks {size} bytes at {address:#x}, within a line: a bus lock only where that memory is not write-back"


def crosses(address: int, size: int) -> bool:
    """Whether an operand is in two cache lines."""
    return address % CACHE_LINE + size > CACHE_LINE


def crossing(address: int, size: int) -> Iterator[str]:
    """What an operand that crosses a line locks, in words and drawn."""
    first = address % CACHE_LINE
    yield f"  locks {size} bytes at {address:#x}, from byte {first} of a line of {CACHE_LINE} into the next:"
    yield f"  {drawn(first, size)}"


def drawn(first: int, size: int) -> str:
    """An operand that crosses a line: a character a byte, a bar between the lines, the second cut where nothing more comes."""
    marks = "." * first + "#" * size
    lines = [marks[at : at + CACHE_LINE] for at in range(0, len(marks), CACHE_LINE)]
    return "|" + "|".join(lines) + "..."
