"""Finds which functions a compiler has put into others at an address, and where each was called (DWARF 5, 3.3.8)."""

import os
from collections.abc import Iterator

from elftools.dwarf.compileunit import CompileUnit
from elftools.dwarf.die import DIE

from trapgate.finder.lines import Line, named, ranges
from trapgate.values import dataclass

DEEPEST = 64  # functions put into each other
INLINED, BLOCK = "DW_TAG_inlined_subroutine", ("DW_TAG_lexical_block", "DW_TAG_try_block")
_FUNCTION = "DW_TAG_subprogram"
_AROUND = ("DW_TAG_namespace", "DW_TAG_module", "DW_TAG_class_type", "DW_TAG_structure_type")
_ORIGINS = ("DW_AT_abstract_origin", "DW_AT_specification")


@dataclass(frozen=True, slots=True)
class Inlined:
    """A function that was put into another, which called it at a line, if that is known."""

    function: str
    called: Line | None


def inlined(unit: CompileUnit, address: int) -> list[Inlined] | None:
    """Those at an address, the innermost first; None where no function of the unit has it."""
    function = function_at(unit, address)
    if function is None:
        return None
    program = unit.dwarfinfo.line_program_for_CU(unit)
    found: list[Inlined] = []
    inside = _inside(unit, function, address)
    while inside is not None and len(found) < DEEPEST:
        if inside.tag == INLINED:
            file, line = (inside.attributes.get(f"DW_AT_call_{name}") for name in ("file", "line"))
            known = None
            if file is not None and line is not None and program is not None:
                known = named(unit, program.header, file.value, line.value)
            found.append(Inlined(_name(inside), known))
        inside = _inside(unit, inside, address)
    return found[::-1]


def function_at(unit: CompileUnit, address: int) -> DIE | None:
    """The function of a unit that has an address, wherever it stands."""
    return next(_functions(unit, unit.get_top_DIE(), address, 0), None)


def _functions(unit: CompileUnit, entry: DIE, address: int, depth: int) -> Iterator[DIE]:
    """The function that has an address, wherever it stands."""
    for one in entry.iter_children():
        if one.tag == _FUNCTION and has(unit, one, address):
            yield one
        elif one.tag in _AROUND and depth < DEEPEST:
            yield from _functions(unit, one, address, depth + 1)


def _inside(unit: CompileUnit, entry: DIE, address: int) -> DIE | None:
    """The part of an entry that has an address."""
    return next((one for one in entry.iter_children() if one.tag in (INLINED, *BLOCK) and has(unit, one, address)), None)


def has(unit: CompileUnit, entry: DIE, address: int) -> bool:
    """Whether an entry's code is at an address."""
    return any(start <= address < end for start, end in ranges(unit, entry))


def _name(entry: DIE) -> str:
    """What an entry is called, or what it was made of."""
    for _ in range(len(_ORIGINS) + 1):
        if (name := entry.attributes.get("DW_AT_name")) is not None:
            return os.fsdecode(name.value)
        origin = next((one for one in _ORIGINS if one in entry.attributes), None)
        if origin is None:
            break
        entry = entry.get_DIE_from_attribute(origin)
    return ""
