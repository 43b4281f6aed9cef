"""Finds the variable of a function that is at a place of its frame (DWARF 5, 3.3.5, 4.1; 2.6.1.1.2 for where a frame begins)."""

import os
from collections.abc import Iterator

from elftools.dwarf.compileunit import CompileUnit
from elftools.dwarf.die import DIE

from trapgate.finder.inlines import BLOCK, INLINED, function_at, has
from trapgate.finder.stacks.reading import Malformed, Reader
from trapgate.finder.types import member, size_of, type_of
from trapgate.values import dataclass

_VARIABLES = ("DW_TAG_variable", "DW_TAG_formal_parameter")
_CFA, _FROM_FRAME = 0x9C, 0x91  # DW_OP_call_frame_cfa, DW_OP_fbreg
_REGISTER, _FROM_REGISTER = 0x50, 0x70  # DW_OP_reg0, DW_OP_breg0
_NUMBERS = {8: (6, 7), 4: (5, 4)}  # of RBP and RSP, of EBP and ESP, by bytes of an address
DEEPEST = 64


@dataclass(frozen=True, slots=True)
class Held:
    """A place in a frame: so far from its end (CFA, the caller's stack pointer), its own stack pointer, and RBP, if known."""

    from_end: int
    from_stack: int
    from_base: int | None


@dataclass(frozen=True, slots=True)
class Local:
    """A variable, the offset in it, and its part there, as source says it behind the name."""

    name: str
    offset: int
    member: str


def local(unit: CompileUnit, address: int, place: Held) -> Local | None:
    """The variable at a place of the frame of the function that has an address; None where none is known to be."""
    function = function_at(unit, address)
    if function is None:
        return None
    base = _expression(function, "DW_AT_frame_base")
    held = dict(zip(_NUMBERS[unit["address_size"]], (place.from_base, place.from_stack), strict=True))
    begins = {_CFA: place.from_end} | {_REGISTER + number: where for number, where in held.items()}
    known = {_FROM_REGISTER + number: where for number, where in held.items()}
    known[_FROM_FRAME] = begins.get(base[0]) if base and len(base) == 1 else None
    for one in _variables(unit, function, address, 0):
        register, start = _offset(_expression(one, "DW_AT_location") or b"")
        where = known.get(register)
        if where is not None and 0 <= where - start < size_of(type_of(one)):
            return Local(_name(one), where - start, member(one, where - start))
    return None


def _variables(unit: CompileUnit, entry: DIE, address: int, depth: int) -> Iterator[DIE]:
    """Those that are there at an address, in the blocks and functions that were put into this one."""
    for one in entry.iter_children():
        if one.tag in _VARIABLES:
            yield one
        elif one.tag in (INLINED, *BLOCK) and depth < DEEPEST and has(unit, one, address):
            yield from _variables(unit, one, address, depth + 1)


def _expression(entry: DIE, name: str) -> bytes | None:
    """An expression that holds for all of an entry's life; None where there is none, or a list of them."""
    found = entry.attributes.get(name)
    return bytes(found.value) if found is not None and found.form in ("DW_FORM_exprloc", "DW_FORM_block1") else None


def _offset(code: bytes) -> tuple[int, int]:
    """What an expression counts from, and how far, if it says that and no more; else 0."""
    reader = Reader(code)
    try:
        found = reader.byte(), reader.sleb()
    except Malformed:
        return 0, 0
    return (0, 0) if reader else found


def _name(entry: DIE) -> str:
    while "DW_AT_name" not in entry.attributes and "DW_AT_abstract_origin" in entry.attributes:
        entry = entry.get_DIE_from_attribute("DW_AT_abstract_origin")
    name = entry.attributes.get("DW_AT_name")
    return "" if name is None else os.fsdecode(name.value)
