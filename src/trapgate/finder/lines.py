"""Finds the line of source of an address in DWARF (DWARF 5, 6.1.2 and 6.2)."""

import os
from collections.abc import Iterator
from typing import Any

from elftools.dwarf.compileunit import CompileUnit
from elftools.dwarf.die import DIE
from elftools.dwarf.ranges import BaseAddressEntry
from elftools.elf.elffile import ELFFile

from trapgate.values import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    """A line of source."""

    path: str
    number: int


def units(elf: ELFFile, address: int) -> Iterator[CompileUnit]:
    """The compilation units that may hold an address: the one that an index names, or all that may."""
    dwarf = elf.get_dwarf_info()
    table = dwarf.get_aranges()
    offset = None if table is None else table.cu_offset_at_addr(address)
    if offset is not None:
        yield dwarf.get_CU_at(offset)
        return
    for unit in dwarf.iter_CUs():
        known = list(ranges(unit, unit.get_top_DIE()))
        if not known or any(start <= address < end for start, end in known):
            yield unit


def ranges(unit: CompileUnit, entry: DIE) -> Iterator[tuple[int, int]]:
    """The addresses [start, end) of an entry's code; none where it says nothing of them (2.17)."""
    known = entry.attributes
    low, high = known.get("DW_AT_low_pc"), known.get("DW_AT_high_pc")
    if low is not None and high is not None:
        yield low.value, high.value if high.form in ("DW_FORM_addr", "DW_FORM_addrx") else low.value + high.value
    elif "DW_AT_ranges" in known:
        top = unit.get_top_DIE().attributes.get("DW_AT_low_pc")
        base = 0 if top is None else top.value
        lists = unit.dwarfinfo.range_lists()
        for one in () if lists is None else lists.get_range_list_at_offset(known["DW_AT_ranges"].value, cu=unit):
            if isinstance(one, BaseAddressEntry):
                base = one.base_address
            else:
                moved = 0 if getattr(one, "is_absolute", False) else base
                yield one.begin_offset + moved, one.end_offset + moved


def line_of(unit: CompileUnit, address: int) -> Line | None:
    """By the unit's line program: the row whose addresses, up to the next row, hold this one."""
    program = unit.dwarfinfo.line_program_for_CU(unit)
    if program is None:
        return None
    last = None
    for entry in program.get_entries():
        state = entry.state
        if state is None:
            continue
        if last is not None and last.address <= address < state.address:
            return named(unit, program.header, last.file, last.line)
        last = None if state.end_sequence else state
    return None


def named(unit: CompileUnit, header: Any, number: int, line: int) -> Line:
    """A line of a file that the line program's header lists, with its folder where one is told."""
    version = header["version"]
    files, folders = header["file_entry"], header["include_directory"]
    entry = files[number if version >= 5 else number - 1]
    name = os.fsdecode(entry.name)
    index = entry.dir_index
    if version >= 5:
        folder = os.fsdecode(folders[index]) if index < len(folders) else ""
    else:
        folder = os.fsdecode(folders[index - 1]) if 0 < index <= len(folders) else ""
    top = unit.get_top_DIE().attributes.get("DW_AT_comp_dir")
    base = os.fsdecode(top.value) if top is not None else ""
    return Line(os.path.normpath(os.path.join(base, folder, name)), line)
