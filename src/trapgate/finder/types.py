"""Names the part of a variable that an offset is in: member by member, by its type in DWARF (DWARF 5, chapter 5)."""

import os
from collections.abc import Iterator

from elftools.dwarf.compileunit import CompileUnit
from elftools.dwarf.die import DIE

DEEPEST = 32  # types in each other
_ALIASES = ("DW_TAG_typedef", "DW_TAG_const_type", "DW_TAG_volatile_type", "DW_TAG_restrict_type", "DW_TAG_atomic_type")
_WHOLE = ("DW_TAG_structure_type", "DW_TAG_class_type", "DW_TAG_union_type")
_AROUND = ("DW_TAG_namespace", "DW_TAG_module")
_VARIABLE, _MEMBER, _INHERITED, _ARRAY, _RANGE = (
    f"DW_TAG_{name}" for name in ("variable", "member", "inheritance", "array_type", "subrange_type")
)


def variable(unit: CompileUnit, name: str) -> DIE | None:
    """What a unit says of a global variable of a name, as source or as the linker has it."""
    return next((one for one in _variables(unit.get_top_DIE(), 0) if name in _names(one)), None)


def _variables(entry: DIE, depth: int) -> Iterator[DIE]:
    for one in entry.iter_children():
        if one.tag == _VARIABLE:
            yield one
        elif one.tag in _AROUND and depth < DEEPEST:
            yield from _variables(one, depth + 1)


def _names(entry: DIE) -> set[str]:
    given = (entry.attributes.get(f"DW_AT_{name}") for name in ("name", "linkage_name"))
    return {os.fsdecode(one.value) for one in given if one is not None}


def member(entry: DIE, offset: int) -> str:
    """The part of a variable, as source says it behind its name: ".header.locks[3]"; "" where it has no parts."""
    path = ""
    whole = type_of(entry)
    for _ in range(DEEPEST):
        if whole is None:
            break
        if whole.tag == _ARRAY:
            inner = type_of(whole)
            size = size_of(inner)
            if inner is None or not size or "DW_AT_byte_stride" in whole.attributes or len(list(_ranges(whole))) != 1:
                break
            number, offset = divmod(offset, size)
            path += f"[{number}]"
            whole = inner
        elif whole.tag in _WHOLE:
            found = next((one for one in whole.iter_children() if _holds(one, offset)), None)
            if found is None:
                break
            name = found.attributes.get("DW_AT_name")
            if name is not None and found.tag == _MEMBER:
                path += f".{os.fsdecode(name.value)}"
            offset -= _place(found)
            whole = type_of(found)
        else:
            break
    return path


def _ranges(entry: DIE) -> Iterator[DIE]:
    return (one for one in entry.iter_children() if one.tag == _RANGE)


def _holds(entry: DIE, offset: int) -> bool:
    if entry.tag not in (_MEMBER, _INHERITED) or "DW_AT_external" in entry.attributes:
        return False
    place, size = _place(entry), size_of(type_of(entry))
    return place <= offset < place + size


def _place(entry: DIE) -> int:
    """Where a member begins; beyond all where an expression says so, or bits."""
    at = entry.attributes.get("DW_AT_data_member_location")
    if at is None:
        return 0 if "DW_AT_data_bit_offset" not in entry.attributes else 1 << 64
    return at.value if isinstance(at.value, int) else 1 << 64


def type_of(entry: DIE | None) -> DIE | None:
    """The type of an entry, behind all names that it has; None where it has none."""
    for _ in range(DEEPEST):
        if entry is None:
            return None
        if "DW_AT_type" in entry.attributes:
            entry = entry.get_DIE_from_attribute("DW_AT_type")
            if entry.tag not in _ALIASES:
                return entry
            continue
        origin = next((name for name in ("DW_AT_specification", "DW_AT_abstract_origin") if name in entry.attributes), None)
        if origin is None:
            return None
        entry = entry.get_DIE_from_attribute(origin)
    return None


def size_of(entry: DIE | None) -> int:
    """Bytes of a type; 0 where that is not known."""
    if entry is None:
        return 0
    if (known := entry.attributes.get("DW_AT_byte_size")) is not None:
        return known.value if isinstance(known.value, int) else 0
    if entry.tag == _ARRAY:
        count = size_of(type_of(entry))
        for one in _ranges(entry):
            length, last = one.attributes.get("DW_AT_count"), one.attributes.get("DW_AT_upper_bound")
            if length is not None and isinstance(length.value, int):
                count *= length.value
            elif last is not None and isinstance(last.value, int):
                count *= last.value + 1
            else:
                return 0
        return count
    return 0
